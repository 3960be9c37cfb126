"""EDM2's ``calculate_metrics.py`` for FID: ``python -m fidfast.compat.edm.calculate_metrics calc --images=… --ref=…``.

``ref --data=… --dest=PKL`` writes the pickle that EDM2 reads. Pickles are read with ``--allow-pickle`` only. FD-DINOv2
needs a network that fidfast does not bring: it is skipped, and refused where it is asked for by name.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import fidfast
from fidfast.compat.edm.fid import (
    at_least,
    calculate_fid_from_inception_stats,
    image_statistics,
    load_reference,
    make_folder_of,
    numpy_moments,
    run_command,
)
from fidfast.statistics_io import written_whole

_DINO = "fd_dinov2 needs DINOv2, which fidfast does not bring: compute_fid(feature_extractor=…) takes it"


def load_stats(path: str, verbose: bool = True, *, allow_pickle: bool = False) -> dict[str, Any]:
    """{"fid": {"mu", "sigma"}} of an ``.npz``, or with ``allow_pickle`` of a pickle."""
    _say(verbose, f"Loading feature statistics from {path} ...")
    return as_stats(load_reference(path, allow_pickle=allow_pickle))


def as_stats(statistics: fidfast.FeatureStatistics) -> dict[str, Any]:
    """Statistics in EDM2's form."""
    mu, sigma = numpy_moments(statistics)
    count = {} if statistics.num_samples is None else {"num_images": statistics.num_samples}
    return {**count, "fid": {"mu": mu, "sigma": sigma}}


def save_stats(stats: Mapping[str, Any], path: str, verbose: bool = True) -> None:
    """Write EDM2's pickle."""
    _say(verbose, f"Saving feature statistics to {path} ...")
    with written_whole(make_folder_of(path)) as file:
        pickle.dump(dict(stats), file)


def calculate_metrics_from_stats(
    stats: Mapping[str, Any],
    ref: str | Mapping[str, Any],
    metrics: Sequence[str] = ("fid",),
    verbose: bool = True,
    *,
    allow_pickle: bool = False,
) -> dict[str, float]:
    """{"fid": value} of two sets' statistics; ``ref`` may be a file or URL. What a side lacks is skipped, and said."""
    if isinstance(ref, str):
        ref = load_stats(ref, verbose, allow_pickle=allow_pickle)
    results = {}
    for metric in metrics:
        if metric not in stats or metric not in ref:
            _say(verbose, f"No statistics computed for {metric} -- skipping.")
            continue
        _say(verbose, f"Calculating {metric}...")
        sides = [side[metric][key] for side in (stats, ref) for key in ("mu", "sigma")]
        results[metric] = calculate_fid_from_inception_stats(*sides)
        _say(verbose, f"{metric} = {results[metric]:g}")
    return results


def parse_metric_list(text: str) -> list[str]:
    metrics = text.split(",")
    for metric in metrics:
        if metric not in ("fid", "fd_dinov2"):
            raise argparse.ArgumentTypeError(f'Invalid metric "{metric}"')
        if metric == "fd_dinov2":
            raise argparse.ArgumentTypeError(_DINO)
    return metrics


def _calc(options: argparse.Namespace, first: bool) -> None:
    reference = load_stats(options.ref, first, allow_pickle=options.allow_pickle)
    _say(first and options.metrics is None, f"{_DINO} -- skipping.")
    _say(first, f"Loading images from {options.images} ...")
    statistics = image_statistics(
        options.images, options.num, options.seed, options.batch, options.workers, options.device, progress=first
    )
    if first:
        calculate_metrics_from_stats(as_stats(statistics), reference)


def _ref(options: argparse.Namespace, first: bool) -> None:
    make_folder_of(options.dest)
    _say(first, f"Loading images from {options.data} ...")
    statistics = image_statistics(options.data, None, 0, options.batch, options.workers, options.device, progress=first)
    if first and options.dest.lower().endswith(".npz"):
        statistics.save(options.dest)
    elif first:
        save_stats(as_stats(statistics), options.dest)


def _say(verbose: bool, message: str) -> None:
    if verbose:
        print(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="calculate_metrics.py", description="Calculate FID as EDM2 does.")
    commands = parser.add_subparsers(required=True, metavar="calc | ref")
    calc = commands.add_parser("calc", help="the FID of images")
    calc.add_argument("--images", required=True, metavar="PATH|ZIP")
    calc.add_argument("--ref", required=True, metavar="PKL|NPZ|URL", help="the dataset's statistics")
    calc.add_argument("--num", type=at_least(2), default=50000, help="how many images (default: %(default)s)")
    calc.add_argument("--seed", type=int, default=0, help="which images, if there are more (default: %(default)s)")
    calc.add_argument("--allow-pickle", action="store_true", help="read a pickle; loading one runs code")
    calc.set_defaults(run=_calc)
    ref = commands.add_parser("ref", help="the statistics of a dataset")
    ref.add_argument("--data", required=True, metavar="PATH|ZIP")
    ref.add_argument("--dest", required=True, metavar="PKL|NPZ")
    ref.set_defaults(run=_ref)
    for command in (calc, ref):
        command.add_argument("--metrics", type=parse_metric_list, default=None, metavar="LIST", help="fid")
        command.add_argument("--batch", type=at_least(1), default=64, help="largest batch (default: %(default)s)")
        command.add_argument("--workers", type=at_least(0), default=2, help="decoding processes (default: %(default)s)")
        command.add_argument("--device", default=None, help="cpu, cuda, cuda:1, … (default: cuda if there is one)")
    options = parser.parse_args(argv)
    return run_command(options.run, options, "calculate_metrics.py")


if __name__ == "__main__":
    sys.exit(main())
