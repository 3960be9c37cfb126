"""Train a small flow-matching model, and watch its FID within 5 % of the training time.

    python training_loop.py IMAGES OUTPUT
    torchrun --nproc-per-node 4 training_loop.py IMAGES OUTPUT

IMAGES is a folder, OUTPUT gets the checkpoints, the history (fid.jsonl) and the best weights. Stopped or
killed, and started again, it goes on from its last checkpoint, in the middle of an evaluation as well.
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image

import fidfast

SIZE = 32


class Velocity(torch.nn.Module):
    """Stands for your network: (n, 3, 32, 32) between noise and image, at times (n,) → velocities."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(4, width, 3, padding=1),
            torch.nn.GELU(),
            torch.nn.Conv2d(width, width, 3, padding=1),
            torch.nn.GELU(),
            torch.nn.Conv2d(width, 3, 3, padding=1),
        )

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([x, t.view(-1, 1, 1, 1).expand(-1, 1, SIZE, SIZE)], dim=1))


def read_images(folder: str) -> torch.Tensor:
    """(N, 3, 32, 32) in [-1, 1]"""
    images = [
        np.asarray(Image.open(path).convert("RGB").resize((SIZE, SIZE)), dtype=np.float32)
        for path in sorted(Path(folder).glob("*.*"))
    ]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1


def loss_of(model: torch.nn.Module, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(images.shape, generator=generator)
    t = torch.rand(len(images), generator=generator)
    between = torch.lerp(noise, images, t.view(-1, 1, 1, 1))
    return (model(between, t) - (images - noise)).square().mean()


def make_sampler(model: torch.nn.Module, steps: int = 8):
    def sample(n: int, seeds: list[int]) -> torch.Tensor:  # (n, 3, 32, 32) in [-1, 1]
        x = fidfast.randn_per_image((3, SIZE, SIZE), seeds)  # the same images on any number of ranks
        for step in range(steps):
            x = x + model(x, torch.full((n,), step / steps)) / steps
        return x.clamp(-1, 1)

    return sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="a folder of images")
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--every", type=int, default=5_000, help="steps between evaluations, or more if they cost more")
    parser.add_argument("--num-samples", type=int, default=2_000)
    parser.add_argument("--final-samples", type=int, default=50_000)
    parser.add_argument("--budget", type=float, default=0.05, help="share of the training time; 0: no limit")
    parser.add_argument("--batches-per-step", type=int, help="spread evaluations over training steps")
    parser.add_argument("--checkpoint-every", type=int, default=1_000)
    parser.add_argument("--plot", type=Path, help="a picture of the curves (needs matplotlib)")
    parser.add_argument("--feature-dim", type=int, default=2048)
    options = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if "RANK" in os.environ:  # started by torchrun
        dist.init_process_group("gloo")
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    options.output.mkdir(parents=True, exist_ok=True)
    images = read_images(options.images)
    torch.manual_seed(0)  # the same weights on every rank
    model = Velocity()
    training = torch.nn.parallel.DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    evaluator = fidfast.TrainingEvaluator(
        make_sampler(model),
        options.images,
        model=model,
        stages=[
            fidfast.Stage(options.num_samples, every=options.every),
            fidfast.Stage(options.final_samples, at="end"),
        ],
        budget=options.budget or None,
        batch_size=16,
        batches_per_step=options.batches_per_step,
        history=options.output / "fid.jsonl",
        value_range=(-1, 1),
        feature_dim=options.feature_dim,
        device="cpu",
    )

    first, checkpoint = 1, options.output / f"checkpoint-{rank}.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        first = saved["step"] + 1
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        evaluator.load_state_dict(saved["evaluator"])

    for step in range(first, options.steps + 1):
        generator = torch.Generator().manual_seed(step * world + rank)
        batch = images[torch.randint(len(images), (16,), generator=generator)]
        optimizer.zero_grad()
        loss_of(training, batch, generator).backward()
        optimizer.step()

        for evaluation in evaluator.step(step):
            if evaluation.is_best and rank == 0:
                torch.save(model.state_dict(), options.output / f"best-{evaluation.label}.pt")
        if step % options.checkpoint_every == 0:
            state = {
                "step": step,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "evaluator": evaluator.state_dict(),
            }
            part = checkpoint.with_suffix(".part")
            torch.save(state, part)
            part.replace(checkpoint)

    evaluator.finish()
    if rank == 0:
        for label, best in evaluator.best.items():
            print(f"{label}: {best.fid:.4f} at step {best.step}")
        if options.plot is not None and evaluator.evaluations:
            evaluator.plot(options.plot)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
