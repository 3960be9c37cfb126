"""The Fréchet term at D = 2048 in float64, against scipy's sqrtm (pytorch-fid, clean-fid) and eigvals (torchmetrics).

Full rank: matrices whose exact distance is known in extended precision. n < D: features in place of one covariance, and
the nuclear norm by SVD as the exact value. Bound: one symmetric eigenvalue problem (eigvalsh) of the same size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
import torch

from benchmarks.timing import check_close, medians, paired, paired_ratio
from fidfast.frechet import statistics_distance
from fidfast.statistics import FeatureStatistics


def known_pair(dim: int, condition: float = 1e5) -> tuple[np.ndarray, np.ndarray, float]:
    """Σ1, Σ2 (D, D) float64 that do not commute, and tr (Σ1 Σ2)^½ to extended precision.

    Σ1 = A Σ2 A with A symmetric positive definite makes (Σ1 Σ2)^½ = A Σ2, so the trace is that of A Σ2. A is diagonal
    plus rank one and Σ2 diagonal, both turned by one reflection: every step costs D² in numpy's long double.
    The eigenvalues of Σ2 fall as a power, as Inception's do (reference spectrum: condition 1.2e5).
    """
    random = np.random.default_rng(dim)
    spectrum = 10 * np.linspace(1, condition ** (1 / 3), dim).astype(np.longdouble) ** -3
    scale = random.uniform(0.7, 1.4, dim).astype(np.longdouble)
    direction = random.normal(size=dim).astype(np.longdouble) / np.sqrt(np.longdouble(dim))
    turned = direction * spectrum
    # A Σ2 A = (diag(s) + u uᵀ) diag(λ) (diag(s) + u uᵀ), multiplied out
    first = (
        np.diag(scale * spectrum * scale) + np.outer(scale * turned, direction) + np.outer(direction, scale * turned)
    )
    first += (direction @ turned) * np.outer(direction, direction)
    exact = (scale * spectrum).sum() + direction @ turned
    reflection = random.normal(size=dim).astype(np.longdouble)
    reflection /= np.sqrt(reflection @ reflection)

    def reflected(matrix: np.ndarray) -> np.ndarray:
        product = matrix @ reflection
        result = matrix - 2 * np.outer(reflection, product) - 2 * np.outer(product, reflection)
        result += 4 * (reflection @ product) * np.outer(reflection, reflection)
        return ((result + result.T) / 2).astype(np.float64)

    return reflected(first), reflected(np.diag(spectrum)), float(exact)


def sqrtm_term(sigma1: np.ndarray, sigma2: np.ndarray) -> float:
    """pytorch-fid's and clean-fid's: scipy's Schur-based square root of the product, real part of its trace."""
    return float(np.trace(scipy.linalg.sqrtm(sigma1 @ sigma2)).real)


def eigvals_term(sigma1: torch.Tensor, sigma2: torch.Tensor) -> float:
    """torchmetrics': square roots of the eigenvalues of the (not symmetric) product."""
    return float(torch.linalg.eigvals(sigma1 @ sigma2).sqrt().real.sum())


def run(*, quick: bool = False) -> dict[str, Any]:
    dim, few = (1024, 750) if quick else (2048, 1500)
    sigma1, sigma2, exact_term = known_pair(dim)
    tensors = [torch.from_numpy(matrix) for matrix in (sigma1, sigma2)]
    mean = torch.zeros(dim, dtype=torch.float64)
    generated, reference = (FeatureStatistics.from_moments(mean, sigma, num_samples=50_000) for sigma in tensors)
    exact = float(np.trace(sigma1) + np.trace(sigma2)) - 2 * exact_term
    term = statistics_distance(generated, reference)
    error = {"fidfast": check_close("full rank", term.value, exact, relative=1e-9)}
    error["sqrtm"] = abs(2 * (sqrtm_term(sigma1, sigma2) - exact_term))
    error["eigvals"] = abs(2 * (eigvals_term(*tensors) - exact_term))

    random = np.random.default_rng(1)
    factor = np.linalg.cholesky(sigma1)
    features = torch.from_numpy((random.normal(size=(few, dim)) @ factor.T).astype(np.float32))  # (n, D) float32
    low = FeatureStatistics(dim)
    low.update(features)
    values = features.double()
    centred = (values - values.mean(0)) / (few - 1) ** 0.5
    nuclear = float(torch.linalg.svdvals(centred @ torch.linalg.cholesky(tensors[1])).sum())
    mean_term = float((values.mean(0) ** 2).sum())
    exact_low = mean_term + float((centred**2).sum()) + float(np.trace(sigma2)) - 2 * nuclear
    term_low = statistics_distance(low, reference)
    error["fidfast, n < D"] = check_close("n < D", term_low.value, exact_low, relative=1e-9)
    low_sigma = low.sigma.numpy()
    product_term = sqrtm_term(low_sigma, sigma2)
    error["sqrtm, n < D"] = abs(2 * (product_term - nuclear))

    def fresh(statistics: FeatureStatistics, sigma: torch.Tensor) -> FeatureStatistics:
        return FeatureStatistics.from_moments(statistics.mu, sigma, num_samples=50_000)

    rounds = 3
    quick_runs = {
        "fidfast, reference cached": lambda: statistics_distance(fresh(generated, tensors[0]), reference),
        "fidfast, nothing cached": lambda: statistics_distance(
            fresh(generated, tensors[0]), fresh(reference, tensors[1])
        ),
        "fidfast, n < D, reference cached": lambda: statistics_distance(low, reference),
        "eigvalsh alone": lambda: torch.linalg.eigvalsh(tensors[0]),
    }
    slow_runs = {
        "sqrtm": lambda: sqrtm_term(sigma1, sigma2),
        "sqrtm, n < D": lambda: sqrtm_term(low_sigma, sigma2),
        "eigvals": lambda: eigvals_term(*tensors),
    }
    if quick:
        slow_runs.pop("sqrtm, n < D")
    # Turns of two seconds: what twelve seconds of sqrtm leave of caches and memory is paid by one call of several.
    taken = paired({**quick_runs, **slow_runs}, rounds=rounds, at_least=2.0)
    middle = medians(taken)
    cached, low_name = "fidfast, reference cached", "fidfast, n < D, reference cached"
    ratios = {
        "sqrtm": paired_ratio(taken, "sqrtm", cached),
        "sqrtm, nothing cached": paired_ratio(taken, "sqrtm", "fidfast, nothing cached"),
        "eigvals": paired_ratio(taken, "eigvals", cached),
    }
    if not quick:
        ratios["sqrtm, n < D"] = paired_ratio(taken, "sqrtm, n < D", low_name)
    return {
        "feature_dim": dim,
        "n_low": few,
        "fid": exact,
        "error": error,
        "relative_error": error["fidfast"] / exact,
        "routes": {"full rank": term.route, "n < D": term_low.route},
        "seconds": middle,
        "ratios": ratios,
        "fraction_of_eigvalsh": middle["eigvalsh alone"] / middle[cached],
    }
