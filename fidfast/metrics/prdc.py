"""Whether generated samples lie among the real ones, and these among them: counts of k-nearest-neighbour balls.

Precision and recall: Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models",
arXiv:1904.06991. Density and coverage: Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative
Models", arXiv:2002.09797. Neighbours are exact. A distance counts as equal to a radius where the two differ by less
than float64 rounding, so that copies of one image, and sets that share images, give what the formulas say.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fidfast.metrics.rows import as_sides, parts, tiles

# |a|² + |b|² - 2 a·b of float64 rows is off by 1e-16·√D of |a|² + |b|²; what is within this of it counts as equal.
_EQUAL = 1e-12


class PrecisionRecall(NamedTuple):
    precision: float  # share of the generated samples inside the real ones' balls, 0 to 1
    recall: float  # share of the real samples inside the generated ones' balls, 0 to 1


class DensityCoverage(NamedTuple):
    density: float  # real balls about a generated sample, over k: 1 for equal distributions, may be larger
    coverage: float  # share of the real balls that hold a generated sample, 0 to 1


class PRDC(NamedTuple):
    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall(
    real: Tensor | np.ndarray,  # (N, D)
    generated: Tensor | np.ndarray,  # (M, D)
    *,
    neighbours: int = 3,
) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al. 2019): a ball reaches to the k-th neighbour, inclusively.

    Raises:
        ValueError, TypeError: naming the argument; fewer than k + 1 samples on a side.
    """
    counts = _Counts(real, generated, neighbours, None)
    return PrecisionRecall(counts.precision, counts.recall)


def density_coverage(
    real: Tensor | np.ndarray,  # (N, D)
    generated: Tensor | np.ndarray,  # (M, D)
    *,
    neighbours: int = 5,
) -> DensityCoverage:
    """Density and coverage (Naeem et al. 2020): balls about the real samples, without their boundary.

    Raises:
        ValueError, TypeError: naming the argument; fewer than k + 1 real samples.
    """
    counts = _Counts(real, generated, None, neighbours)
    return DensityCoverage(counts.density, counts.coverage)


def prdc(
    real: Tensor | np.ndarray,  # (N, D)
    generated: Tensor | np.ndarray,  # (M, D)
    *,
    pr_neighbours: int = 3,
    dc_neighbours: int = 5,
) -> PRDC:
    """:func:`precision_recall` and :func:`density_coverage`, each with its own k, from one pass over the distances."""
    counts = _Counts(real, generated, pr_neighbours, dc_neighbours)
    return PRDC(counts.precision, counts.recall, counts.density, counts.coverage)


class _Counts:
    """One pass over the distances between the sides; before it, one within each side whose balls are needed."""

    def __init__(
        self, real: Tensor | np.ndarray, generated: Tensor | np.ndarray, closed: int | None, open_: int | None
    ) -> None:
        for k in (closed, open_):
            if k is not None and (not isinstance(k, int) or isinstance(k, bool) or k < 1):
                raise ValueError(f"neighbours: expected a whole number of at least 1, got {k!r}")
        real, generated = as_sides(real, generated, ("real", "generated"))
        most = max(k for k in (closed, open_) if k is not None)
        for name, rows, k in (("real", real, most), ("generated", generated, closed)):
            if k is not None and len(rows) <= k:
                raise ValueError(f"{name}: {k} neighbours need at least {k + 1} samples, got {len(rows)}")
        shift = real.mean(dim=0, dtype=torch.float64)  # smaller norms, smaller rounding; no distance changes
        real_norms, generated_norms = (_norms(rows, shift) for rows in (real, generated))
        real_nearest = _nearest(real, real_norms, shift, most)  # (N, k) squared
        device = real.device
        in_real, in_generated, covered = (
            torch.zeros(len(rows), dtype=torch.bool, device=device) for rows in (generated, real, real)
        )
        inside = torch.zeros((), dtype=torch.int64, device=device)
        # d² ≤ r² is tested as (1 - ε)(|a|² + |b|²) - 2 a·b ≤ r²: split into a term of a and one of b
        if closed is not None:
            generated_nearest = _nearest(generated, generated_norms, shift, closed)
            low = (1 - _EQUAL) * real_norms, (1 - _EQUAL) * generated_norms
            real_reach, generated_reach = real_nearest[:, closed - 1], generated_nearest[:, closed - 1]
        if open_ is not None:
            high = (1 + _EQUAL) * real_norms, (1 + _EQUAL) * generated_norms
            open_reach = real_nearest[:, open_ - 1]
        for here, there, products in tiles(generated, real, shift):
            products.mul_(2)
            if closed is not None:
                of_real = products >= low[1][here, None] + (low[0] - real_reach)[there]
                in_real[here] |= of_real.any(dim=1)
                of_generated = products >= (low[1] - generated_reach)[here, None] + low[0][there]
                in_generated[there] |= of_generated.any(dim=0)
            if open_ is not None:
                within = products > high[1][here, None] + (high[0] - open_reach)[there]
                inside += within.sum()
                covered[there] |= within.any(dim=0)
        self.precision, self.recall = _share(in_real), _share(in_generated)
        self.coverage = _share(covered)
        self.density = int(inside) / ((open_ or 1) * len(generated))


def _nearest(x: Tensor, norms: Tensor, shift: Tensor, neighbours: int) -> Tensor:  # (N, D) → (N, k) float64, ascending
    """Squared distances from each row to its k nearest others; a tile off the diagonal serves its rows and columns."""
    best = norms.new_full((len(x), neighbours), torch.inf)
    for here, there, products in tiles(x, shift=shift):
        squared = products.mul_(-2).add_(norms[here, None]).add_(norms[there]).clamp_(min=0)
        if here == there:
            squared.fill_diagonal_(torch.inf)
        else:
            best[there] = _smallest(best[there], squared.T, neighbours)
        best[here] = _smallest(best[here], squared, neighbours)
    return best


def _smallest(best: Tensor, squared: Tensor, count: int) -> Tensor:  # (n, k), (n, m) → (n, k)
    found = squared.topk(min(count, squared.shape[1]), dim=1, largest=False).values
    return torch.cat([best, found], dim=1).sort(dim=1).values[:, :count]


def _norms(rows: Tensor, shift: Tensor) -> Tensor:  # (N, D), (D,) → (N,)
    return torch.cat([part.square().sum(dim=1) for _, part in parts(rows, shift)])


def _share(flags: Tensor) -> float:
    return int(flags.sum()) / len(flags)
