"""FID in a training with the Hugging Face Trainer, by a callback.

python fid_with_transformers.py --history fid.jsonl
fidfast report fid.jsonl
"""

from __future__ import annotations

import argparse
import tempfile

import torch
import torch.nn.functional as F
from transformers import Trainer, TrainingArguments

import fidfast
from fidfast.integrations.transformers import FIDCallback


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
    generator: torch.nn.Module, options: argparse.Namespace, trainer: Trainer
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
        log=trainer.log,
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


class Toy(torch.nn.Module):
    """What the Trainer wants: keyword arguments in, a loss out."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = Generator()

    def forward(self, corners: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": F.mse_loss(self.generator(corners), gradients(corners))}


def main() -> None:
    options = parse_options()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=Toy(),
            args=TrainingArguments(
                folder,
                max_steps=options.steps,
                per_device_train_batch_size=32,
                learning_rate=3e-3,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                disable_tqdm=True,
            ),
            train_dataset=[{"corners": corners} for corners in torch.rand(1024, 12)],
        )
        callback = FIDCallback(lambda model: make_evaluator(model.generator, options, trainer))
        trainer.add_callback(callback)
        trainer.train()
    for evaluation in callback.evaluator.evaluations:
        print(f"{evaluation.label} at step {evaluation.step}: {evaluation.fid:.4f}")


if __name__ == "__main__":
    main()
