"""The Fréchet distance of sums that were not centred, as torchmetrics and ignite keep them: n, Σ x and Σ x xᵀ."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from fidfast import frechet_distance


def moments_of(count: int, total: Tensor, products: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D), float64, of count rows: their sum (D,) and Σ x xᵀ (D, D)."""
    mean = total.double() / count
    return mean, (products.double() - count * torch.outer(mean, mean)) / (count - 1)


def distance_of(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """() float64 of two sides' :func:`moments_of`.

    What is subtracted there leaves eigenvalues of -1e-16 · |x|² where n ≤ D: expected, and not worth a warning.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*expected a positive semidefinite matrix")
        return frechet_distance(*first, *second)
