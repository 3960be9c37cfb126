"""The Fréchet distance between two Gaussians: |μ1-μ2|² + tr Σ1 + tr Σ2 - 2 tr (Σ1 Σ2)^½ (Dowson and Landau 1982)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from fidfast.factors import (
    Factor,
    cholesky_factor,
    congruence,
    covariance_factor,
    kinds,
    noise_level,
    nuclear_norm,
    singular_sum,
    sum_of_roots,
    times_factor,
)
from fidfast.moments import StatisticsError, check_moments
from fidfast.polar import iterate_dtype, takes_polar
from fidfast.polar_distance import (
    CERTIFIED,
    UNFACTORED,
    Distance,
    FrechetBracket,
    PolarDistance,
    Rung,
    distance_bracket,
    rungs,
)
from fidfast.statistics import FeatureStatistics, check_comparable

# The bracket that a certified distance must have, relative to tr Σ1 + tr Σ2; never asked below 1e-6.
TOLERANCE = 1e-8


@dataclass(frozen=True)
class FrechetTerm:
    """A Fréchet distance and where it came from."""

    value: float  # never negative
    raw: float  # before rounding below 0 was taken as 0
    route: str  # which factor and which spectrum: "cholesky, eigvalsh", "rows, polar quintic l=1e-8, certified ±2e-9" …
    mean_term: float  # |μ1-μ2|²
    trace_term: float  # tr Σ1 + tr Σ2 - 2 tr (Σ1 Σ2)^½
    seconds: float
    error_bound: float | None = None  # |raw - distance| is at most this; None on LAPACK's routes, which give none


@overload
def statistics_distance(
    generated: FeatureStatistics, reference: FeatureStatistics, *, tolerance: float = ..., sync: Literal[True] = ...
) -> FrechetTerm: ...
@overload
def statistics_distance(
    generated: FeatureStatistics, reference: FeatureStatistics, *, tolerance: float = ..., sync: Literal[False]
) -> FrechetBracket: ...
def statistics_distance(
    generated: FeatureStatistics, reference: FeatureStatistics, *, tolerance: float = TOLERANCE, sync: bool = True
) -> FrechetTerm | FrechetBracket:
    """The Fréchet distance between two sets' statistics, float64. Symmetric; the reference's factor is the one kept.

    tr (Σ1 Σ2)^½ is the nuclear norm of F1ᵀ F2 for any factors Σ = F Fᵀ, so a set of n ≤ D rows enters by those rows
    (docs/numerics.md 1). No Σ1 Σ2 is formed: nothing is complex, and nothing is added to a diagonal. On a CUDA device
    the norm comes from a polar iteration with a bracket around it; where that is wider than ``tolerance`` or a factor
    fails, from a longer iteration, then from eigenvalues. A CPU takes eigenvalues at once.

    Args:
        tolerance: how wide the bracket may be, relative to tr Σ1 + tr Σ2 (and never below 1e-6).
        sync: False gives tensors and waits for nothing: the polar iteration on any device, once, with its status.

    Raises:
        StatisticsError: fewer than 2 samples; statistics of different features.
    """
    check_comparable(generated, reference)
    started = time.perf_counter()
    for side in (generated, reference):
        side.mu  # noqa: B018  says what is missing before any long work
    with torch.inference_mode(False), torch.no_grad():
        factor2 = reference.factor()
        devices = (generated.mu.device, factor2.matrix.device)
        device = next((device for device in devices if device.type == "cuda"), devices[1])
        factor2 = factor2.on(device)
        mean1, mean2 = generated.mu.to(device), reference.mu.to(device)
        covariance1 = None if generated.keeps_features else generated.sigma.to(device)

        def attempt(rung: Rung, clip: bool) -> Distance:
            failed = None
            if covariance1 is None or clip:
                factor1 = generated.factor().on(device)
            else:
                factor1, failed = cholesky_factor(covariance1)
            return distance_bracket(mean1, factor1, mean2, factor2, rung=rung, tolerance=tolerance, failed=failed)

        if not sync:
            return attempt(rungs(tolerance, iterate_dtype(device))[0], False).bracket
        if takes_polar(device):
            term = _certified(attempt, tolerance, device, started)
            if term is not None:
                return term
        parts = _trace_of_root(covariance1, lambda: generated.factor().on(device), factor2)
        mean_term = float((mean1 - mean2).square().sum())
    return _term(mean_term, *parts, started)


@overload
def frechet_distance(
    mu1: Tensor, sigma1: Tensor, mu2: Tensor, sigma2: Tensor, *, tolerance: float = ..., sync: Literal[True] = ...
) -> Tensor: ...
@overload
def frechet_distance(
    mu1: Tensor, sigma1: Tensor, mu2: Tensor, sigma2: Tensor, *, tolerance: float = ..., sync: Literal[False]
) -> FrechetBracket: ...
@overload
def frechet_distance(
    mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray, *, tolerance: float = ...
) -> float: ...
def frechet_distance(
    mu1: Any, sigma1: Any, mu2: Any, sigma2: Any, *, tolerance: float = TOLERANCE, sync: bool = True
) -> float | Tensor | FrechetBracket:
    """The Fréchet distance between N(mu1, sigma1) and N(mu2, sigma2), computed in float64 and never negative.

    Args:
        mu1, mu2: (D,) means. Where any of the four is on a CUDA device, all are taken there.
        sigma1, sigma2: (D, D) symmetric positive semidefinite covariances; negative eigenvalues are taken as 0, with a
            warning that says how large they were.
        tolerance: on a CUDA device, how wide the certified bracket may be, relative to tr sigma1 + tr sigma2 (never
            below 1e-6), before a longer iteration or eigenvalues take its place.
        sync: False, for tensors: the value with its bounds and a status, all as tensors. Nothing is read back and
            nothing is decided by a value, so that it can be captured in a CUDA graph; the values of the arguments are
            not checked, and singular covariances end with status 2.

    Returns:
        A float for numpy arrays; for torch tensors a float64 tensor of no dimensions, differentiable (once) in all
        four: I - T for the covariances, T from the polar factor, no Lyapunov equation (docs/numerics.md 3). Where
        a covariance is singular the slope is infinite outwards; the gradient is then the one inside its range.
        With ``sync=False`` a FrechetBracket, whose value is differentiable.

    Raises:
        StatisticsError: naming the argument that is not finite, not symmetric or of the wrong shape.
    """
    mean1, covariance1 = check_moments(mu1, sigma1, "mu1", "sigma1", values=sync)
    mean2, covariance2 = check_moments(mu2, sigma2, "mu2", "sigma2", values=sync)
    if mean1.shape != mean2.shape:
        raise StatisticsError(f"mu2: expected shape {tuple(mean1.shape)} as mu1, got {tuple(mean2.shape)}")
    # Where one is on a device, there: a reference read from a file goes with what a training step made.
    devices = [one.device for one in (mean1, covariance1, mean2, covariance2) if one.is_cuda]
    device = devices[0] if devices else mean1.device
    moments = (mean1.to(device), covariance1.to(device), mean2.to(device), covariance2.to(device))
    if not any(isinstance(value, Tensor) for value in (mu1, sigma1, mu2, sigma2)):
        if not sync:
            raise StatisticsError("sync: expected True for numpy arrays, got False")
        return _distance(*moments).value
    if not sync:
        rung = rungs(tolerance, iterate_dtype(device))[0]
        return FrechetBracket(*PolarDistance.apply(*moments, rung, tolerance, False))
    if takes_polar(device):
        clip = False
        for rung in rungs(tolerance, iterate_dtype(device)):
            found = FrechetBracket(*PolarDistance.apply(*moments, rung, tolerance, clip))
            status = int(found.status)
            if status == UNFACTORED:
                clip = True
                found = FrechetBracket(*PolarDistance.apply(*moments, rung, tolerance, clip))
                status = int(found.status)
            if status == CERTIFIED:
                return found.value
    return _FrechetDistance.apply(*moments)


def _certified(
    attempt: Callable[[Rung, bool], Distance], tolerance: float, device: torch.device, started: float
) -> FrechetTerm | None:
    """The first attempt whose bracket is within tolerance; one reading of the device each. None if there is none."""
    clip = False
    for rung in rungs(tolerance, iterate_dtype(device)):
        found, numbers = _read(attempt(rung, clip))
        if numbers[-1] == UNFACTORED:
            clip = True
            found, numbers = _read(attempt(rung, clip))
        raw, mean_term, lower, upper, status = numbers
        if status == CERTIFIED:
            bound = max(upper - raw, raw - lower)
            route = f"{found.kinds}, {rung}, certified ±{bound:.1e}"
            seconds = time.perf_counter() - started
            return FrechetTerm(max(raw, 0.0), raw, route, mean_term, raw - mean_term, seconds, bound)
    return None


def _read(found: Distance) -> tuple[Distance, list[float]]:
    bracket = found.bracket
    return found, torch.stack(
        [found.raw, found.mean_term, bracket.lower, bracket.upper, bracket.status.double()]
    ).tolist()


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
            return float(covariance1.diagonal().sum()), float(factor2.trace), root, f"{factor2.kind}, eigvalsh"
    first = factor1()
    turned = times_factor(first.matrix.T.to(factor2.matrix.device), factor2)  # M = F1ᵀ F2
    if covariance1 is None:
        root, spectrum = nuclear_norm(turned)
    else:  # its eigenvalues were not enough
        root, spectrum = singular_sum(turned), "svdvals"
    return float(first.trace), float(factor2.trace), root, f"{kinds(first, factor2)}, {spectrum}"


class _FrechetDistance(torch.autograd.Function):
    """The distance, with the gradients of docs/numerics.md 3 for both covariances."""

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
