"""What a finite number of images does to an FID: its bias, its standard error, and what a perfect model would score."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fidfast.moments import Sums, moments_of_sums
from fidfast.statistics import FeatureStatistics, StatisticsMetadata

GROUPS = 10
# Below 5 images a dimension the bias no longer falls as 1/n, which everything here rests on; from there on at most 5 %
# of it is left (tests/test_error_bars.py).
LEAST_PER_DIMENSION = 5
_LEAST_GROUPS = 5


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
