"""The Kernel Inception Distance (Bińkowski et al. 2018, "Demystifying MMD GANs", arXiv:1801.01401)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fidfast.metrics.rows import as_sides, parts, tiles

KERNELS = ("polynomial", "rbf")


class KernelDistance(NamedTuple):
    """Squared maximum mean discrepancy, unbiased: near 0 for equal distributions, and then as often below it."""

    mean: float
    std: float | None  # over the subsets, ddof 0; None where all samples entered at once
    values: np.ndarray  # (S,) float64, of each subset
    subset_size: int | None  # None: all samples


class _Kernel(NamedTuple):
    name: str
    degree: int
    gamma: float
    coef0: float
    sigma: float

    def __call__(self, products: Tensor, x_norms: Tensor, y_norms: Tensor) -> Tensor:  # (m, n), (m,), (n,) → (m, n)
        """k of all pairs from their inner products and squared norms; overwrites the products."""
        if self.name == "polynomial":
            return products.mul_(self.gamma).add_(self.coef0).pow_(self.degree)
        squared = products.mul_(-2).add_(x_norms[:, None]).add_(y_norms).clamp_(min=0)
        return squared.mul_(-0.5 / self.sigma**2).exp_()


def kernel_distance(
    features_a: Tensor | np.ndarray,  # (M, D)
    features_b: Tensor | np.ndarray,  # (N, D)
    *,
    subsets: int | None = 100,
    subset_size: int = 1000,
    kernel: str = "polynomial",
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
    sigma: float = 10.0,
    seed: int = 2020,
    indices: tuple[Any, Any] | None = None,
) -> KernelDistance:
    """Unbiased MMD² between two sets of features: over subsets drawn at random, or of all samples (subsets=None).

    The default kernel is KID's, (x·y / D + 1)³. The default draw is torch-fidelity's: numpy's RandomState(seed) chooses
    ``subset_size`` rows of a, then of b, without replacement, ``subsets`` times. Symmetric but for that order.

    Args:
        gamma: of the polynomial kernel (gamma x·y + coef0)^degree; default 1/D.
        kernel, sigma: "rbf" is exp(-|x-y|² / 2 sigma²), as CMMD has it (without its factor 1000).
        indices: two (S, m) arrays of row numbers, in place of a draw.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what came.
    """
    a, b = as_sides(features_a, features_b, ("features_a", "features_b"), least=2)
    if kernel not in KERNELS:
        raise ValueError(f"kernel: expected one of {KERNELS}, got {kernel!r}")
    if sigma <= 0:
        raise ValueError(f"sigma: expected more than 0, got {sigma!r}")
    function = _Kernel(kernel, degree, 1.0 / a.shape[1] if gamma is None else gamma, coef0, sigma)
    if indices is None and subsets is None:
        every_a, every_b = (rows.new_ones(len(rows), 1, dtype=torch.float64) for rows in (a, b))
        value = _masked(a, b, every_a, every_b, function)
        return KernelDistance(float(value[0]), None, value, None)
    drawn = _draw(len(a), len(b), subsets, subset_size, seed) if indices is None else _checked(indices, len(a), len(b))
    size = drawn[0].shape[1]
    if _products_of_all(len(a), len(b), len(drawn[0]), size, a.shape[1]):
        in_a, in_b = (_mask(rows, len(side)).to(a.device) for rows, side in zip(drawn, (a, b), strict=True))
        values = _masked(a, b, in_a, in_b, function)
    else:
        ones = a.new_ones(size, 1, dtype=torch.float64)
        of_a, of_b = (torch.from_numpy(rows).to(a.device) for rows in drawn)
        values = np.concatenate([_masked(a[i], b[j], ones, ones, function) for i, j in zip(of_a, of_b, strict=True)])
    return KernelDistance(float(values.mean()), float(values.std()), values, size)


def _products_of_all(m: int, n: int, subsets: int, size: int, dims: int) -> bool:
    """Whether all pairs once, summed over each subset, are fewer operations than every subset's own pairs."""
    return (m * m / 2 + n * n / 2 + m * n) * (dims + subsets) < subsets * 3 * size * size * (dims + 1)


def _masked(a: Tensor, b: Tensor, in_a: Tensor, in_b: Tensor, kernel: _Kernel) -> np.ndarray:  # (S,)
    """MMD² of S subsets given as masks (M, S) and (N, S) of 0 and 1: Σ k over a subset's pairs is maskᵀ K mask."""
    m, n = in_a.sum(dim=0), in_b.sum(dim=0)
    within_a, within_b = _within(a, in_a, kernel), _within(b, in_b, kernel)
    between = torch.zeros_like(m)
    a_norms, b_norms = _norms(a), _norms(b)
    for here, there, products in tiles(a, b):
        between += (kernel(products, a_norms[here], b_norms[there]) @ in_b[there]).mul_(in_a[here]).sum(dim=0)
    return (within_a / (m * (m - 1)) + within_b / (n * (n - 1)) - 2 * between / (m * n)).cpu().numpy()


def _within(x: Tensor, mask: Tensor, kernel: _Kernel) -> Tensor:  # (N, D), (N, S) → (S,)
    """Σ k(x_i, x_j) over i ≠ j of each subset; tiles off the diagonal count twice."""
    total, norms = mask.new_zeros(mask.shape[1]), _norms(x)
    for here, there, products in tiles(x):
        values = kernel(products, norms[here], norms[there])
        if here == there:
            values.fill_diagonal_(0)
        total += (values @ mask[there]).mul_(mask[here]).sum(dim=0) * (1 if here == there else 2)
    return total


def _norms(x: Tensor) -> Tensor:  # (N, D) → (N,)
    return torch.cat([torch.linalg.vector_norm(part, dim=1).square() for _, part in parts(x)])


def _draw(m: int, n: int, subsets: int | None, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:  # (S, m) each
    if not isinstance(subsets, int) or isinstance(subsets, bool) or subsets < 1:
        raise ValueError(f"subsets: expected a whole number of at least 1, or None, got {subsets!r}")
    for name, count in (("features_a", m), ("features_b", n)):
        if not 2 <= size <= count:
            raise ValueError(f"subset_size: expected 2 to {count}, the number of samples in {name}, got {size!r}")
    generator = np.random.RandomState(seed)
    drawn = [generator.choice(count, size, replace=False) for _ in range(subsets) for count in (m, n)]
    return np.stack(drawn[::2]), np.stack(drawn[1::2])


def _checked(indices: tuple[Any, Any], m: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers as two (S, m) int64 arrays; ValueError where they do not fit."""
    first, second = (np.asarray(rows) for rows in indices)
    for rows, count in ((first, m), (second, n)):
        if rows.ndim != 2 or rows.dtype.kind not in "iu" or rows.shape[0] < 1 or rows.shape[1] < 2:
            raise ValueError(f"indices: expected whole numbers (subsets, subset_size), got {rows.dtype} {rows.shape}")
        if rows.min() < 0 or rows.max() >= count:
            raise ValueError(f"indices: expected 0 to {count - 1}, got {rows.min()} to {rows.max()}")
        if (np.diff(np.sort(rows, axis=1), axis=1) == 0).any():
            raise ValueError("indices: expected each row once in a subset, got one twice")
    if first.shape != second.shape:
        raise ValueError(f"indices: expected two arrays of one shape, got {first.shape} and {second.shape}")
    return first.astype(np.int64), second.astype(np.int64)


def _mask(rows: np.ndarray, count: int) -> Tensor:  # (S, m) → (count, S) float64 of 0 and 1
    mask = np.zeros((count, len(rows)))
    mask[rows, np.arange(len(rows))[:, None]] = 1
    return torch.from_numpy(mask)
