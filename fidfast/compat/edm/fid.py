"""EDM's ``fid.py``: ``python -m fidfast.compat.edm.fid calc --images=PATH --ref=NPZ`` and ``ref --data=PATH --dest=…``.

With ``torchrun --nproc_per_node=N -m fidfast.compat.edm.fid …`` every rank takes its share. ``calc`` ends with the FID
on a line of its own, as there. Exit status: 0 success; 1 bad input; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fidfast
from fidfast.cli import _process_group
from fidfast.compat import reference
from fidfast.compat.edm.dataset import ImageFolderDataset
from fidfast.distributed import is_distributed

PRESET = "tensorflow"


def calculate_inception_stats(
    image_path: str,
    num_expected: int | None = None,
    seed: int = 0,
    max_batch_size: int = 64,
    num_workers: int = 3,
    prefetch_factor: int = 2,
    device: torch.device = torch.device("cuda"),  # noqa: B008  EDM's own default
) -> tuple[np.ndarray, np.ndarray]:
    """mu (2048,) and sigma (2048, 2048) float64, unbiased, of a folder or zip file; on all ranks of a process group.

    Args:
        num_expected: how many images, chosen by ``seed``; ValueError if there are fewer.
        prefetch_factor: without effect; fidfast reads ahead as it needs.
    """
    statistics = image_statistics(image_path, num_expected, seed, max_batch_size, num_workers, device)
    return statistics.mu.cpu().numpy(), statistics.sigma.cpu().numpy()


def image_statistics(
    image_path: str,
    num_images: int | None,
    seed: int,
    batch_size: int,
    num_workers: int | None,
    device: str | torch.device | None,
    *,
    progress: bool = True,
) -> fidfast.FeatureStatistics:
    """The statistics of ``num_images`` images of a folder or zip file, of all ranks."""
    dataset = ImageFolderDataset(image_path, max_size=num_images, random_seed=seed)
    if num_images is not None and len(dataset) < num_images:
        raise ValueError(f"Found {len(dataset)} images, but expected at least {num_images}")
    if len(dataset) < 2:
        raise ValueError(f"Found {len(dataset)} images, but need at least 2 to compute statistics")
    return fidfast.compute_statistics(
        dataset.source,
        preset=PRESET,
        batch_size=batch_size,
        num_workers=num_workers,
        device=device,
        progress=progress,
        all_ranks=is_distributed(),
    )


def calculate_fid_from_inception_stats(
    mu: np.ndarray, sigma: np.ndarray, mu_ref: np.ndarray, sigma_ref: np.ndarray
) -> float:
    """The Fréchet distance of two means (D,) and covariances (D, D)."""
    return float(fidfast.frechet_distance(*(np.asarray(one, np.float64) for one in (mu, sigma, mu_ref, sigma_ref))))


def load_reference(path: str, *, allow_pickle: bool = False) -> fidfast.FeatureStatistics:
    """A statistics file or its URL: ``.npz``, and with ``allow_pickle`` EDM2's and StyleGAN's pickles."""
    with _local_file(path) as file:
        return reference.load_reference(file, preset=PRESET, feature_dim=2048, allow_pickle=allow_pickle)


@contextlib.contextmanager
def _local_file(path: str) -> Iterator[str]:
    if not path.startswith(("http://", "https://")):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="fidfast-edm-") as folder:
        file = os.path.join(folder, path.split("?")[0].rsplit("/", 1)[1] or "statistics")
        try:
            with urllib.request.urlopen(path, timeout=60) as response, open(file, "wb") as out:
                out.write(response.read())
        except (OSError, http.client.HTTPException) as error:
            raise OSError(f"{path} cannot be read: {error}; download it elsewhere and name the file") from error
        yield file


def numpy_moments(statistics: fidfast.FeatureStatistics) -> tuple[np.ndarray, np.ndarray]:
    return statistics.mu.cpu().numpy(), statistics.sigma.cpu().numpy()


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that is a whole number of at least this."""

    def parse(text: str) -> int:
        if not text.lstrip("-").isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
        return int(text)

    return parse


def run_command(run: Callable[[argparse.Namespace, bool], None], options: argparse.Namespace, prog: str) -> int:
    """``run(options, whether this rank prints)`` inside the process group of torchrun; returns the exit status."""
    try:
        with _process_group(options) as (_, rank):
            run(options, rank == 0)
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 1
    return 0


def make_folder_of(path: str) -> Path:
    """Before the work, not after it."""
    file = Path(path)
    if file.is_dir():
        raise OSError(f"--dest: expected a file, but {path} is a folder")
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _calc(options: argparse.Namespace, first: bool) -> None:
    say = print if first else _silent
    say(f'Loading dataset reference statistics from "{options.ref}"...')
    real = load_reference(options.ref, allow_pickle=options.allow_pickle)
    say(f'Loading images from "{options.images}"...')
    statistics = image_statistics(
        options.images, options.num, options.seed, options.batch, None, options.device, progress=first
    )
    if first:
        say("Calculating FID...")
        print(f"{fidfast.compute_fid(real, statistics):g}")


def _ref(options: argparse.Namespace, first: bool) -> None:
    say = print if first else _silent
    destination = make_folder_of(options.dest if options.dest.endswith(".npz") else f"{options.dest}.npz")
    say(f'Loading images from "{options.data}"...')
    statistics = image_statistics(options.data, None, 0, options.batch, None, options.device, progress=first)
    if first:
        say(f'Saving dataset reference statistics to "{options.dest}"...')
        statistics.save(destination)
        say("Done.")


def _silent(*_: Any) -> None:
    """What the ranks but the first say."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="fid.py", description="Calculate Frechet Inception Distance (FID).")
    commands = parser.add_subparsers(required=True, metavar="calc | ref")
    calc = commands.add_parser("calc", help="the FID of images")
    calc.add_argument("--images", required=True, metavar="PATH|ZIP")
    calc.add_argument("--ref", required=True, metavar="NPZ|URL", help="the dataset's statistics")
    calc.add_argument("--num", type=at_least(2), default=50000, help="how many images (default: %(default)s)")
    calc.add_argument("--seed", type=int, default=0, help="which images, if there are more (default: %(default)s)")
    calc.add_argument("--allow-pickle", action="store_true", help="read a pickle; loading one runs code")
    calc.set_defaults(run=_calc)
    ref = commands.add_parser("ref", help="the statistics of a dataset")
    ref.add_argument("--data", required=True, metavar="PATH|ZIP")
    ref.add_argument("--dest", required=True, metavar="NPZ")
    ref.set_defaults(run=_ref)
    for command in (calc, ref):
        command.add_argument("--batch", type=at_least(1), default=64, help="largest batch (default: %(default)s)")
        command.add_argument("--device", default=None, help="cpu, cuda, cuda:1, … (default: cuda if there is one)")
    options = parser.parse_args(argv)
    return run_command(options.run, options, "fid.py")


if __name__ == "__main__":
    sys.exit(main())
