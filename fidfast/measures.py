"""The measures that one pass can give: which there are, what each needs, and their values together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from fidfast.accumulate import Extractor, Side
from fidfast.distributed import Ranks
from fidfast.features import FeatureExtractor
from fidfast.frechet import statistics_distance
from fidfast.inception import FEATURE_DIMS
from fidfast.metrics.inception_score import InceptionScore, inception_score, split_bounds
from fidfast.metrics.kid import KernelDistance, kernel_distance
from fidfast.metrics.prdc import PRDC, prdc
from fidfast.result import FIDResult
from fidfast.sides import is_statistics

METRICS = ("fid", "kid", "is", "sfid", "prdc")
LOGITS = "logits_unbiased"
_OF_FEATURES = {"kid", "prdc"}  # of both sides
_OF_THE_NETWORK = {"is", "sfid"}


@dataclass(frozen=True)
class MeasureOptions:
    kid_subsets: int | None
    kid_subset_size: int
    splits: int | Sequence[int]
    pr_neighbours: int
    dc_neighbours: int
    max_features: int | None
    seed: int

    def __post_init__(self) -> None:
        for name, least in (("kid_subset_size", 2), ("pr_neighbours", 1), ("dc_neighbours", 1)):
            _check_whole(name, getattr(self, name), least)
        for name, least in (("kid_subsets", 1), ("max_features", 2)):
            if getattr(self, name) is not None:
                _check_whole(name, getattr(self, name), least)
        sizes = [self.splits] if isinstance(self.splits, int) else self.splits
        if not isinstance(sizes, Sequence) or isinstance(sizes, str) or not sizes:
            raise ValueError(f"splits: expected a whole number or a list of sizes, got {self.splits!r}")
        for size in sizes:
            _check_whole("splits", size, 1)
        _check_whole("seed", self.seed, 0)
        if self.seed >= 2**32:
            raise ValueError(f"seed: expected less than 2**32, as numpy's RandomState does, got {self.seed!r}")


class EvaluationResult(Mapping[str, Any]):
    """Values by metric, in the order asked for: ``result["fid"]`` is a :class:`FIDResult`, ``result["sfid"]`` a float,
    the others are tuples with names: ``result["kid"].mean``, ``result["is"].std``, ``result["prdc"].recall``.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        num_real: int | None,
        num_generated: int | None,
        seconds: Mapping[str, float],
        notes: Sequence[str],
    ) -> None:
        self._values = dict(values)
        self.num_real = num_real
        self.num_generated = num_generated
        self.seconds = dict(seconds)  # of each stage of the pass, and of each metric
        self.notes = tuple(notes)  # what a careful reader should know

    def __getitem__(self, metric: str) -> Any:
        return self._values[metric]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name}={value:.6g}" for name, value in self.scalars().items())
        return f"EvaluationResult({numbers}, num_real={self.num_real}, num_generated={self.num_generated})"

    def scalars(self) -> dict[str, float]:
        """One number under each name, as loggers take them: fid, kid_mean, kid_std, is_mean, …, precision, recall."""
        found: dict[str, float] = {}
        for metric, value in self._values.items():
            if isinstance(value, float):
                found[metric] = float(value)
                continue
            prefix = "" if metric == "prdc" else f"{metric}_"
            numbers = value._asdict().items()
            found |= {prefix + name: number for name, number in numbers if isinstance(number, float)}
        return found

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON types."""
        values = {metric: _plain(value) for metric, value in self._values.items()}
        about = {"num_real": self.num_real, "num_generated": self.num_generated}
        return {**values, **about, "seconds": dict(self.seconds), "notes": list(self.notes)}


def check_metrics(metrics: Sequence[str], feature_extractor: Any) -> dict[str, None]:
    """The metrics wanted, each once, in order; ValueError for unknown ones and those that an own extractor lacks."""
    metrics = metrics if isinstance(metrics, str) or metrics is None else list(metrics)
    if isinstance(metrics, str) or not metrics or any(metric not in METRICS for metric in metrics):
        raise ValueError(f"metrics: expected a list of {', '.join(METRICS)}, got {metrics!r}")
    lacking = sorted(_OF_THE_NETWORK & set(metrics))
    if lacking and feature_extractor is not None and not isinstance(feature_extractor, FeatureExtractor):
        raise ValueError(
            f"metrics: for {' and '.join(lacking)} the FID Inception network's own layers are needed: expected no "
            f"feature_extractor=, which serves fid, kid and prdc, got {type(feature_extractor).__name__}"
        )
    return dict.fromkeys(metrics)


def check_sources(wanted: Mapping[str, None], given: Mapping[str, Any]) -> None:
    """ValueError where a metric needs the features of every image and a side is a statistics file."""
    for name, images in given.items():
        lacking = set(wanted) - ({"fid"} if name == "generated" else {"fid", "is"})
        if lacking and is_statistics(images):
            raise ValueError(
                f"{name}: {', '.join(sorted(lacking))} need every image's features: expected images, got statistics"
            )


def check_counts(wanted: Mapping[str, None], totals: Mapping[str, int | None], options: MeasureOptions) -> None:
    """ValueError where a side is known to have too few images for a metric, before any of them is read."""
    for name, total in totals.items():
        if total is None:
            continue
        count = total if options.max_features is None else min(total, options.max_features)
        k = max(options.pr_neighbours, options.dc_neighbours if name == "real" else 1)
        if "prdc" in wanted and count <= k:
            raise ValueError(f"{name}: {k} neighbours need at least {k + 1} samples, got {count}")
        if "is" in wanted and name == "generated":
            split_bounds(options.splits, count)


def taps_of(wanted: Mapping[str, None], feature_dim: int) -> list[str]:
    """What the network must give for these metrics."""
    if feature_dim not in FEATURE_DIMS:
        raise ValueError(f"feature_dim: expected one of {FEATURE_DIMS}, got {feature_dim!r}")
    return [str(feature_dim), *(["spatial"] if "sfid" in wanted else []), *([LOGITS] if "is" in wanted else [])]


def kept_taps(wanted: Mapping[str, None], side: str, main: str) -> list[str]:
    """The taps of which the features of every image of this side are kept."""
    return [
        *([main] if _OF_FEATURES & set(wanted) else []),
        *([LOGITS] if "is" in wanted and side == "generated" else []),
    ]


def main_tap(wanted: Mapping[str, None], extractor: Extractor, feature_dim: int) -> str:
    """The tap that FID, KID and PRDC are of; ValueError where a caller's FeatureExtractor lacks one that is needed."""
    if not isinstance(extractor, FeatureExtractor):
        return "features"
    main = extractor.tap_names[0] if len(extractor.tap_names) == 1 else str(feature_dim)
    missing = [tap for tap in [main, *taps_of(wanted, feature_dim)[1:]] if tap not in extractor.tap_names]
    if missing:
        raise ValueError(
            f"feature_extractor: expected one with the taps {', '.join(missing)} for {', '.join(wanted)}, got a "
            f"FeatureExtractor of {', '.join(extractor.tap_names)}"
        )
    return main


def measure_all(
    wanted: Mapping[str, None],
    rows: Mapping[str, Mapping[str, Tensor]],
    spatial: Mapping[str, Side],
    main: str,
    options: MeasureOptions,
    ranks: Ranks,
) -> tuple[dict[str, Any], dict[str, float], list[str]]:
    """(value of each metric but FID, its seconds, notes), computed on rank 0 and the same on all.

    Args:
        rows: side → tap → (N, D) float32.
        spatial: side → statistics of the "spatial" tap.
    """
    notes: list[str] = []
    work: dict[str, Callable[[], Sequence[Any]]] = {}
    if _OF_FEATURES & set(wanted):
        real, generated = rows["real"][main], rows["generated"][main]
        work["kid"] = lambda: _kid(real, generated, options)
        work["prdc"] = lambda: prdc(
            real, generated, pr_neighbours=options.pr_neighbours, dc_neighbours=options.dc_neighbours
        )
        smaller = min(len(real), len(generated))
        if "kid" in wanted and options.kid_subsets is not None and smaller < options.kid_subset_size:
            notes.append(f"kid: subsets of {smaller} images, all of the smaller side, not {options.kid_subset_size}")
    if "is" in wanted:
        logits = rows["generated"][LOGITS]
        work["is"] = lambda: inception_score(logits, splits=options.splits, seed=options.seed)
    if "sfid" in wanted:
        sides = spatial["generated"].statistics, spatial["real"].statistics
        work["sfid"] = lambda: [statistics_distance(*sides).value]

    def compute() -> dict[str, Any]:
        said: dict[str, Any] = {}
        for metric in wanted if ranks.rank == 0 else ():
            if metric != "fid":
                started = time.perf_counter()
                said[metric] = [_plain(value) for value in work[metric]()], time.perf_counter() - started
        return said

    said = ranks.together(compute)[0]
    values = {metric: _value(metric, parts) for metric, (parts, _) in said.items()}
    return values, {metric: seconds for metric, (_, seconds) in said.items()}, notes


def _kid(real: Tensor, generated: Tensor, options: MeasureOptions) -> KernelDistance:
    size = min(options.kid_subset_size, len(real), len(generated))
    # generated first, as torch-fidelity's users have it: the draws of both sides come from one generator in turn
    return kernel_distance(generated, real, subsets=options.kid_subsets, subset_size=size, seed=options.seed)


def _value(metric: str, parts: Sequence[Any]) -> Any:
    if metric == "kid":
        return KernelDistance(parts[0], parts[1], np.array(parts[2]), parts[3])
    if metric == "is":
        return InceptionScore(parts[0], parts[1], np.array(parts[2]))
    return PRDC(*parts) if metric == "prdc" else parts[0]


def _plain(value: Any) -> Any:
    if isinstance(value, FIDResult):
        return value.to_dict()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return {name: _plain(part) for name, part in value._asdict().items()} if hasattr(value, "_asdict") else value


def _check_whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
