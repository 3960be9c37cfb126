"""FID in a PyTorch Ignite training, by a handler.

python fid_with_ignite.py --history fid.jsonl
fidfast report fid.jsonl
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from ignite.engine import Engine

import fidfast
from fidfast.integrations.ignite import FIDHandler


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


def make_evaluator(generator: torch.nn.Module, options: argparse.Namespace) -> fidfast.TrainingEvaluator:
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
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    torch.manual_seed(0)
    generator = Generator()
    optimizer = torch.optim.Adam(generator.parameters(), lr=3e-3)

    def train_step(engine: Engine, corners: torch.Tensor) -> float:
        loss = F.mse_loss(generator(corners), gradients(corners))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    trainer = Engine(train_step)
    handler = FIDHandler(lambda: make_evaluator(generator, options)).attach(trainer)
    batches = torch.utils.data.DataLoader(torch.rand(1024, 12), batch_size=32, shuffle=True)
    trainer.run(batches, max_iters=options.steps)
    for evaluation in handler.evaluator.evaluations:
        print(f"{evaluation.label} at step {evaluation.step}: {evaluation.fid:.4f}")
    print(f"in engine.state.metrics: {', '.join(trainer.state.metrics)}")


if __name__ == "__main__":
    main()
