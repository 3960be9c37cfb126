"""The Fréchet distance between two Gaussians: |μ1-μ2|² + tr Σ1 + tr Σ2 - 2 tr (Σ1 Σ2)^½ (Dowson and Landau 1982)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from fidfast.factors import (
    Factor,
    congruence,
    covariance_factor,
    noise_level,
    nuclear_norm,
    sum_of_roots,
    times_factor,
)
from fidfast.moments import StatisticsError, check_moments
from fidfast.statistics import FeatureStatistics, check_comparable


@dataclass(frozen=True)
class FrechetTerm:
    """A Fréchet distance and where it came from."""

    value: float  # never negative
    raw: float  # before rounding below 0 was taken as 0
    route: str  # which factor and which spectrum: "cholesky, eigvalsh", "rows, svdvals", ...
    mean_term: float  # |μ1-μ2|²
    trace_term: float  # tr Σ1 + tr Σ2 - 2 tr (Σ1 Σ2)^½
    seconds: float


def statistics_distance(generated: FeatureStatistics, reference: FeatureStatistics) -> FrechetTerm:
    """The Fréchet distance between two sets' statistics, float64. Symmetric; the reference's factor is the one kept.

    tr (Σ1 Σ2)^½ is the nuclear norm of F1ᵀ F2 for any factors Σ = F Fᵀ, so a set of n ≤ D rows enters by those rows
    (docs/numerics.md 1). No Σ1 Σ2 is formed: nothing is complex, and nothing is added to a diagonal.

    Raises:
        StatisticsError: fewer than 2 samples; statistics of different features.
    """
    check_comparable(generated, reference)
    started = time.perf_counter()
    for side in (generated, reference):
        side.mu  # noqa: B018  says what is missing before any long work
    with torch.inference_mode(False), torch.no_grad():
        covariance1 = None if generated.keeps_features else generated.sigma
        trace1, trace2, root, route = _trace_of_root(covariance1, generated.factor, reference.factor())
        mean_term = float((generated.mu - reference.mu.to(generated.mu.device)).square().sum())
    return _term(mean_term, trace1, trace2, root, route, started)


@overload
def frechet_distance(mu1: Tensor, sigma1: Tensor, mu2: Tensor, sigma2: Tensor) -> Tensor: ...
@overload
def frechet_distance(mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray) -> float: ...
def frechet_distance(mu1: Any, sigma1: Any, mu2: Any, sigma2: Any) -> float | Tensor:
    """The Fréchet distance between N(mu1, sigma1) and N(mu2, sigma2), computed in float64 and never negative.

    Args:
        mu1, mu2: (D,) means.
        sigma1, sigma2: (D, D) symmetric positive semidefinite covariances; negative eigenvalues are taken as 0, with a
            warning that says how large they were.

    Returns:
        A float for numpy arrays; for torch tensors a float64 tensor of no dimensions, differentiable (once) in all
        four: I - T for the covariances, T from the polar factor, no Lyapunov equation (docs/numerics.md 2). Where
        a covariance is singular the slope is infinite outwards; the gradient is then the one inside its range.

    Raises:
        StatisticsError: naming the argument that is not finite, not symmetric or of the wrong shape.
    """
    mean1, covariance1 = check_moments(mu1, sigma1, "mu1", "sigma1")
    mean2, covariance2 = check_moments(mu2, sigma2, "mu2", "sigma2")
    if mean1.shape != mean2.shape:
        raise StatisticsError(f"mu2: expected shape {tuple(mean1.shape)} as mu1, got {tuple(mean2.shape)}")
    if any(isinstance(value, Tensor) for value in (mu1, sigma1, mu2, sigma2)):
        return _FrechetDistance.apply(mean1, covariance1, mean2, covariance2)
    return _distance(mean1, covariance1, mean2, covariance2).value


def _distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> FrechetTerm:
    started = time.perf_counter()
    parts = _trace_of_root(
        covariance1, lambda: covariance_factor(covariance1, "sigma1"), covariance_factor(covariance2, "sigma2")
    )
    return _term(float((mean1 - mean2).square().sum()), *parts, started)


def _term(mean_term: float, trace1: float, trace2: float, root: float, route: str, started: float) -> FrechetTerm:
    trace_term = trace1 + trace2 - 2 * root
    raw = mean_term + trace_term
    return FrechetTerm(max(raw, 0.0), raw, route, mean_term, trace_term, time.perf_counter() - started)


def _trace_of_root(
    covariance1: Tensor | None,  # (D, D) float64; None: factor1 is the centred rows, and is what counts
    factor1: Callable[[], Factor],
    factor2: Factor,
    *,
    eigenvalues: Tensor | None = None,  # (r,) of F2ᵀ Σ1 F2, where the caller has them
) -> tuple[float, float, float, str]:
    """tr Σ1, tr Σ2, tr (Σ1 Σ2)^½ and the route. Σ1 is factored only where its spectrum needs it."""
    if covariance1 is not None:
        if eigenvalues is None:
            eigenvalues = torch.linalg.eigvalsh(congruence(covariance1.to(factor2.matrix.device), factor2))
        root = sum_of_roots(eigenvalues)
        if root is not None:
            return float(covariance1.diagonal().sum()), factor2.trace, root, f"{factor2.kind}, eigvalsh"
    first = factor1()
    turned = times_factor(first.matrix.T.to(factor2.matrix.device), factor2)  # M = F1ᵀ F2
    if covariance1 is None:
        root, spectrum = nuclear_norm(turned)
    else:  # its eigenvalues were not enough
        root, spectrum = float(torch.linalg.svdvals(turned).sum()), "svdvals"
    kinds = first.kind if first.kind == factor2.kind else f"{first.kind} × {factor2.kind}"
    return first.trace, factor2.trace, root, f"{kinds}, {spectrum}"


class _FrechetDistance(torch.autograd.Function):
    """The distance, with the gradients of docs/numerics.md 2 for both covariances."""

    @staticmethod
    def forward(ctx: Any, mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> Tensor:
        started = time.perf_counter()
        factor2 = covariance_factor(covariance2, "sigma2")
        eigenvalues = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[3]:
            eigenvalues, vectors = torch.linalg.eigh(congruence(covariance1, factor2))
            ctx.save_for_backward(mean1, mean2, covariance1, factor2.matrix, eigenvalues, vectors)
        else:
            ctx.save_for_backward(mean1, mean2)
        parts = _trace_of_root(
            covariance1, lambda: covariance_factor(covariance1, "sigma1"), factor2, eigenvalues=eigenvalues
        )
        term = _term(float((mean1 - mean2).square().sum()), *parts, started)
        return torch.tensor(term.value, dtype=torch.float64, device=mean1.device)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mean1, mean2, *spectrum = ctx.saved_tensors
        apart = 2 * grad * (mean1 - mean2)
        along1 = along2 = None
        if spectrum:
            covariance1, factor2, eigenvalues, vectors = spectrum
            # T1 = F2 C^-½ F2ᵀ and its inverse T2 = Σ1 F2 C^-3/2 F2ᵀ Σ1, with C = F2ᵀ Σ1 F2: no inverse of a factor.
            kept = eigenvalues > noise_level(len(mean1), float(eigenvalues[-1]) if len(eigenvalues) else 0.0)
            eye = torch.eye(len(mean1), dtype=mean1.dtype, device=mean1.device)
            turned = factor2 @ vectors[:, kept]
            scale = eigenvalues[kept] ** -0.25
            if ctx.needs_input_grad[1]:
                along1 = grad * (eye - _square(turned * scale))
            if ctx.needs_input_grad[3]:
                along2 = grad * (eye - _square(covariance1 @ (turned * scale**3)))
        return (
            apart if ctx.needs_input_grad[0] else None,
            along1,
            -apart if ctx.needs_input_grad[2] else None,
            along2,
        )


def _square(a: Tensor) -> Tensor:
    """A Aᵀ, exactly symmetric."""
    product = a @ a.T
    return (product + product.T) / 2
