"""Plain twins of fidfast.metrics: numpy, float64, whole matrices, one loop for each sum of the papers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def polynomial_kernel(x: np.ndarray, y: np.ndarray, degree: int, gamma: float, coef0: float) -> np.ndarray:
    """k(x, y) = (γ xᵀy + c)^degree of all pairs: (m, D), (n, D) → (m, n)."""
    return np.array([[(gamma * float(a @ b) + coef0) ** degree for b in y] for a in x])


def rbf_kernel(x: np.ndarray, y: np.ndarray, sigma: float) -> np.ndarray:
    """k(x, y) = exp(-|x-y|² / 2σ²) of all pairs: (m, D), (n, D) → (m, n)."""
    return np.array([[np.exp(-float((a - b) @ (a - b)) / (2 * sigma**2)) for b in y] for a in x])


def squared_mmd(x: np.ndarray, y: np.ndarray, kernel: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    """The unbiased estimate of MMD² (Gretton et al. 2012, equation 3): every sum over pairs i ≠ j written out."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    m, n = len(x), len(y)
    within_x = sum(value for i, row in enumerate(kernel(x, x)) for j, value in enumerate(row) if i != j)
    within_y = sum(value for i, row in enumerate(kernel(y, y)) for j, value in enumerate(row) if i != j)
    return float(within_x / (m * (m - 1)) + within_y / (n * (n - 1)) - 2 * kernel(x, y).sum() / (m * n))


def inception_scores(logits: np.ndarray, sizes: Sequence[int]) -> np.ndarray:  # (N, C) → (S,)
    """exp E_x KL(p(y|x) ‖ p(y)) of each split (Salimans et al. 2016), image after image."""
    scores, start = [], 0
    for size in sizes:
        split = np.asarray(logits[start : start + size], dtype=np.float64)
        split = np.exp(split - split.max(axis=1, keepdims=True))
        p = split / split.sum(axis=1, keepdims=True)
        marginal = p.mean(axis=0)
        divergences = [float((row[row > 0] * np.log(row[row > 0] / marginal[row > 0])).sum()) for row in p]
        scores.append(np.exp(np.mean(divergences)))
        start += size
    return np.array(scores)


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:  # (m, D), (n, D) → (m, n)
    """Differences first, so that equal rows are at exactly 0."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return np.array([[((a - b) ** 2).sum() for b in y] for a in x])


def neighbour_radii(x: np.ndarray, neighbours: int) -> np.ndarray:  # (N, D) → (N,)
    """Squared distance from each row to its k-th nearest other row."""
    return np.array([np.sort(np.delete(row, i))[neighbours - 1] for i, row in enumerate(squared_distances(x, x))])


def precision_recall(real: np.ndarray, generated: np.ndarray, neighbours: int) -> tuple[float, float]:
    """Kynkäänniemi et al. 2019, equations 1 and 2: balls with their boundary."""

    def covered(points: np.ndarray, balls: np.ndarray) -> float:
        return float((squared_distances(points, balls) <= neighbour_radii(balls, neighbours)).any(axis=1).mean())

    return covered(generated, real), covered(real, generated)


def density_coverage(real: np.ndarray, generated: np.ndarray, neighbours: int) -> tuple[float, float]:
    """Naeem et al. 2020, section 3: balls about the real samples, without their boundary."""
    inside = squared_distances(generated, real) < neighbour_radii(real, neighbours)
    return float(inside.sum() / (neighbours * len(generated))), float(inside.any(axis=0).mean())


def mean_nearest_cosine(x: np.ndarray, y: np.ndarray) -> float:
    """Mean over x of the smallest 1 - |cos| to a row of y; rows that sum to 0 left out."""
    x, y = (np.asarray(rows, dtype=np.float64) for rows in (x, y))
    x, y = x[x.sum(axis=1) != 0], y[y.sum(axis=1) != 0]
    return float(np.mean([min(1 - abs(a @ b) / np.sqrt((a @ a) * (b @ b)) for b in y) for a in x]))
