"""FID between the steps of a training with Hugging Face Accelerate: the evaluator is called directly.

accelerate launch fid_with_accelerate.py --history fid.jsonl
fidfast report fid.jsonl
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from accelerate import Accelerator

import fidfast


def gradients(corners: torch.Tensor) -> torch.Tensor:
    """The toy's images: (n, 12) colours of four corners in [0, 1] → (n, 3, 32, 32) between them."""
    return F.interpolate(corners.view(-1, 3, 2, 2), size=32, mode="bilinear", align_corners=True)


class Generator(torch.nn.Module):
    """Stands for yours: (n, 12) latents in [0, 1] → (n, 3, 32, 32) images in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(12, 64), torch.nn.GELU(), torch.nn.Linear(64, 3 * 32 * 32), torch.nn.Sigmoid()
        )

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.layers(latents).view(-1, 3, 32, 32)


def sample(generator: torch.nn.Module, seeds: list[int]) -> torch.Tensor:
    """One image for each seed: the same ones whatever the batch size and the number of ranks."""
    latents = torch.special.ndtr(fidfast.randn_per_image((12,), seeds))  # uniform in [0, 1]
    return generator(latents.to(next(generator.parameters()).device))


def make_evaluator(
    generator: torch.nn.Module, options: argparse.Namespace, accelerator: Accelerator
) -> fidfast.TrainingEvaluator:
    reference = gradients(torch.rand(options.num_samples, 12, generator=torch.Generator().manual_seed(1)))
    return fidfast.TrainingEvaluator(
        lambda n, seeds: sample(generator, seeds),
        reference,  # or the file that fidfast stats wrote
        stages=[
            fidfast.Stage(options.num_samples // 2, every=options.every),
            fidfast.Stage(options.num_samples, at="end"),
        ],
        budget=None,  # a toy trains faster than it samples; leave the default, 5 % of the training time, to yours
        model=generator,
        history=options.history,
        log=accelerator.log,  # to the trackers that Accelerator(log_with=…) was given
        value_range=(0, 1),
        feature_dim=options.feature_dim,
        device="cpu",
    )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=100, help="training steps between two evaluations")
    parser.add_argument("--num-samples", type=int, default=256, help="images at the end; half as many in between")
    parser.add_argument("--history", default=None, metavar="FILE.jsonl", help="then: fidfast report FILE.jsonl")
    parser.add_argument("--feature-dim", type=int, default=2048)
    parser.add_argument("--save", default=None, metavar="FOLDER", help="for accelerator.save_state")
    parser.add_argument("--resume", default=None, metavar="FOLDER", help="for accelerator.load_state")
    parser.add_argument("--first-step", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(fidfast.rank_seed(0))
    generator = Generator()
    generator, optimizer = accelerator.prepare(generator, torch.optim.Adam(generator.parameters(), lr=3e-3))
    evaluator = make_evaluator(accelerator.unwrap_model(generator), options, accelerator)
    accelerator.register_for_checkpointing(evaluator)  # save_state and load_state hold its state from now on
    if options.resume is not None:
        accelerator.load_state(options.resume)

    for step in range(options.first_step, options.steps + 1):
        corners = torch.rand(32, 12, device=accelerator.device)
        loss = F.mse_loss(generator(corners), gradients(corners))
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        for evaluation in evaluator.step(step):
            accelerator.print(f"{evaluation.label} at step {step}: {evaluation.fid:.4f}")
    for evaluation in evaluator.finish(options.steps):
        accelerator.print(f"{evaluation.label} at the end: {evaluation.fid:.4f}")
    if options.save is not None:
        accelerator.save_state(options.save)


if __name__ == "__main__":
    main()
