"""FID between training steps, with every rank sampling its share.

    python fid_on_every_rank.py REFERENCE.npz
    torchrun --nproc-per-node 4 fid_on_every_rank.py REFERENCE.npz

The number does not depend on how many ranks there are: each image has a seed of its own.
"""

from __future__ import annotations

import argparse
import os
from itertools import islice

import torch
import torch.distributed as dist

import fidfast


class Generator(torch.nn.Module):
    """Stands for yours: (n, 16, 4, 4) latents → (n, 3, 64, 64) images in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.ConvTranspose2d(16, 16, 4, stride=4),
            torch.nn.GELU(),
            torch.nn.ConvTranspose2d(16, 3, 4, stride=4),
            torch.nn.Tanh(),
        )

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.layers(latents)


@torch.no_grad()
def evaluate(generator: Generator, fid: fidfast.FID, num_samples: int, batch_size: int) -> fidfast.FIDResult:
    fid.reset()
    pairs = fidfast.image_seeds(num_samples, seed=0)  # this rank's
    while batch := list(islice(pairs, batch_size)):
        index, seeds = zip(*batch, strict=True)
        fid.update(generator(fidfast.randn_per_image((16, 4, 4), seeds)), index)
    return fid.compute()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", help="statistics, by fidfast stats, or a folder of images")
    parser.add_argument("--num-samples", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--feature-dim", type=int, default=2048)
    options = parser.parse_args()

    if "RANK" in os.environ:  # started by torchrun
        dist.init_process_group("gloo")
    torch.manual_seed(0)  # the same weights on every rank
    generator = Generator()
    fid = fidfast.FID(options.reference, feature_dim=options.feature_dim, device="cpu", value_range=(-1, 1))
    result = evaluate(generator, fid, options.num_samples, options.batch_size)
    if not dist.is_initialized() or dist.get_rank() == 0:
        error = (
            "" if result.standard_error is None else f" ± {result.standard_error:.2f}, corrected {result.corrected:.2f}"
        )
        print(f"FID of {result.num_generated} images: {result:.4f}{error}")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
