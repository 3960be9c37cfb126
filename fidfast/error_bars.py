"""What a finite number of images does to an FID: its bias, its standard error, and what a perfect model would score."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fidfast.accumulate import Side
from fidfast.distributed import Ranks
from fidfast.frechet import statistics_distance
from fidfast.moments import Sums, moments_of_sums
from fidfast.statistics import FeatureStatistics, StatisticsMetadata

GROUPS = 10
# Below 5 images a dimension the bias no longer falls as 1/n, which everything here rests on; from there on at most 5 %
# of it is left (tests/test_error_bars.py).
LEAST_PER_DIMENSION = 5
_LEAST_GROUPS = 5
_NO_GROUPS = "no error bars: they need the generated images, of whose statistics nothing can be left out"


@dataclass(frozen=True)
class Measured:
    """A distance and, where they were wanted and can be had, its error bars."""

    value: float
    raw: float
    route: str
    error_bound: float | None
    seconds: float
    standard_error: float | None = None
    corrected: float | None = None
    floor: float | None = None
    note: str | None = None  # why there are no error bars


def measure(real: Side, generated: Side, ranks: Ranks, *, error_bars: bool) -> Measured:
    """The distance between two sides, the same on every rank; the K + 2 decompositions are shared between the ranks."""
    counts, sums_of = generated.group_counts, generated.group_sums
    note = None
    if error_bars:
        note = refusal(counts, generated.statistics.feature_dim) if sums_of is not None else _NO_GROUPS
    parts: Iterator[tuple[int, Sums]] = iter(())
    total: Sums | None = None
    if error_bars and sums_of is not None and note is None:
        total = _reduced(sums_of(None), sum(counts), ranks, None)
        groups = [group for group, count in enumerate(counts) if count]
        parts = (
            (group, part)
            for turn, group in enumerate(groups)
            if (part := _reduced(sums_of(group), counts[group], ranks, turn % ranks.size)) is not None
        )
        if ranks.size > 1:
            parts = iter(list(parts))  # every rank takes part in every sum before any begins to compute

    def work() -> dict[str, Any]:
        said: dict[str, Any] = {"without": {}}
        if ranks.rank == 0:
            term = statistics_distance(generated.statistics, real.statistics)
            said["term"] = [term.value, term.raw, term.route, term.error_bound, term.seconds]
        if total is None:
            return said
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said once, with the distance itself
            for group, part in parts:
                rest = without_group(total, part, generated.statistics.metadata)
                said["without"][str(group)] = statistics_distance(rest, real.statistics).raw
        if ranks.rank == ranks.size - 1:
            if real.eigenvalues is None:
                real.eigenvalues = torch.linalg.eigvalsh(real.statistics.sigma)
            said["floor"] = perfect_model_floor(real.eigenvalues, total.count)
        return said

    everybody = ranks.together(work)
    value, raw, route, error_bound, seconds = everybody[0]["term"]
    if total is None:
        return Measured(value, raw, route, error_bound, seconds, note=note)
    without = {int(group): one for said in everybody for group, one in said["without"].items()}
    chosen = sorted(without)
    corrected, error = jackknife(raw, [counts[group] for group in chosen], [without[group] for group in chosen])
    return Measured(value, raw, route, error_bound, seconds, error, corrected, everybody[-1]["floor"])


def _reduced(sums: Sums, count: int, ranks: Ranks, to: int | None) -> Sums | None:
    """The sums of all ranks, ``count`` images in all, on rank ``to`` (None: on every rank)."""
    if to is None:
        return Sums(count, sums.shift, ranks.all_reduce(sums.total), ranks.all_reduce(sums.scatter))
    total, scatter = ranks.reduce(sums.total, to), ranks.reduce(sums.scatter, to)
    return None if total is None or scatter is None else Sums(count, sums.shift, total, scatter)


def refusal(counts: Sequence[int], feature_dim: int) -> str | None:
    """Why there are no error bars for groups of these sizes, as a sentence; None where there can be."""
    total, least = sum(counts), LEAST_PER_DIMENSION * feature_dim
    if total < least:
        return (
            f"no error bars: {total} images are too few for {feature_dim} features (they need {least}); the FID is "
            f"biased upwards by an unknown amount, so compare it with FIDs of {total} images only"
        )
    filled = sum(count > 0 for count in counts)
    if filled < _LEAST_GROUPS:
        return f"no error bars: the image indices mod {len(counts)} take only {filled} values of {_LEAST_GROUPS} needed"
    return None


def jackknife(whole: float, counts: Sequence[int], without: Sequence[float]) -> tuple[float, float]:
    """The value without the bias that falls as 1/n, and its standard error, from leaving out each group in turn.

    The delete-m(j) jackknife (Busing, Meijer and van der Leeden 1999), which for groups of one size is the usual one:
    K·whole - (K-1)·mean(without), and √((K-1)/K · Σ(without - mean)²).

    Args:
        whole: of all n.
        counts: of the groups that have any; they sum to n.
        without: the value without each of them.
    """
    groups, total = len(counts), sum(counts)
    corrected = groups * whole - sum((1 - count / total) * value for count, value in zip(counts, without, strict=True))
    variance = 0.0
    for count, value in zip(counts, without, strict=True):
        share = total / count
        variance += (share * whole - (share - 1) * value - corrected) ** 2 / (share - 1)
    return corrected, (variance / groups) ** 0.5


def without_group(total: Sums, group: Sums, metadata: StatisticsMetadata) -> FeatureStatistics:
    """Statistics of all but one group, both about one shift."""
    rest = Sums(
        total.count - group.count, total.shift, total.total - group.total, total.scatter - group.scatter
    )  # exact but for the last bits: the groups are what the total was summed from
    mean, covariance = moments_of_sums(rest)
    return FeatureStatistics.from_moments(
        mean,
        covariance,
        rest.count,
        preset=metadata.preset,
        precision=metadata.precision,
        weights=metadata.weights,
    )


def perfect_model_floor(eigenvalues: Tensor, num_samples: int) -> float:
    """The mean FID of n draws from the reference's own Gaussian, to first order in 1/n.

    (tr Σ + ½ (Σᵢⱼ λᵢλⱼ/(λᵢ+λⱼ) + ½ tr Σ)) / n: the mean's share, and that of the covariance through the second
    derivative of the distance (docs/numerics.md 4). Features with heavier tails than a Gaussian's score higher.

    Args:
        eigenvalues: (D,) float64 of the reference's covariance.
    """
    values = eigenvalues.clamp(min=0)
    values = values[values > 0]
    if len(values) == 0:
        return 0.0
    products, sums = torch.outer(values, values), values[:, None] + values
    trace = float(values.sum())
    return (trace + 0.5 * (float((products / sums).sum()) + 0.5 * trace)) / num_samples
