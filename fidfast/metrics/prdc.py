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

from fidfast.metrics.near import Points, nearest, pairs_near
from fidfast.metrics.rows import as_sides, parts
from fidfast.precision import strict_float32

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
        real, generated = _within_float32(real, generated)
        shift = _mean(real).float().double()  # smaller norms, smaller rounding; no distance changes
        device = real.device
        in_real, in_generated, covered = (
            torch.zeros(len(rows), dtype=torch.bool, device=device) for rows in (generated, real, real)
        )
        inside = torch.zeros((), dtype=torch.int64, device=device)
        with strict_float32(device):
            a, b = Points(generated, shift), Points(real, shift)
            real_nearest = nearest(b, most)  # (N, k) squared
            radii_a, radii_b = [], []
            if closed is not None:
                radii_a, radii_b = [nearest(a, closed)[:, -1]], [real_nearest[:, closed - 1]]
            if open_ is not None:
                radii_b = [*radii_b, real_nearest[:, open_ - 1]]
            for i, j, squared in pairs_near(a, b, radii_a, radii_b, _EQUAL):
                margin = _EQUAL * (a.norms[i] + b.norms[j])
                if closed is not None:
                    in_real[i[squared <= radii_b[0][j] + margin]] = True
                    in_generated[j[squared <= radii_a[0][i] + margin]] = True
                if open_ is not None:
                    within = squared < radii_b[-1][j] - margin
                    inside += within.sum()
                    covered[j[within]] = True
        self.precision, self.recall = _share(in_real), _share(in_generated)
        self.coverage = _share(covered)
        self.density = int(inside) / ((open_ or 1) * len(generated))


def _within_float32(real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides, scaled together where squares of float32 would overflow: no share depends on the scale."""
    largest = max(abs(float(value)) for rows in (real, generated) for value in rows.aminmax())
    return (real, generated) if largest < 1e15 else (real.double() / largest, generated.double() / largest)


def _mean(rows: Tensor) -> Tensor:  # (N, D) → (D,) float64
    total = rows.new_zeros(rows.shape[1], dtype=torch.float64)
    for _, part in parts(rows):
        total += part.sum(dim=0)
    return total / len(rows)


def _share(flags: Tensor) -> float:
    return int(flags.sum()) / len(flags)
