"""The Fréchet distance by the polar iteration: tensors in, tensors out, bounds and gradients with them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fidfast.factors import Factor, cholesky_factor, covariance_factor, kinds
from fidfast.polar import Polar, nuclear_bracket, polar, polar_product
from fidfast.quintic import QUINTIC

CERTIFIED, WIDE, UNFACTORED, NOT_FINITE = range(4)
_UNIT = torch.finfo(torch.float64).eps / 2


class FrechetBracket(NamedTuple):
    """A Fréchet distance and numbers that it lies between, as () tensors on their device; nothing was read back.

    The bounds hold for the Gaussians whose covariances are F Fᵀ with the factors F as they were computed, rounding of
    everything after them included (docs/numerics.md 2).
    """

    value: Tensor  # () float64, never negative, never NaN
    lower: Tensor  # () float64
    upper: Tensor  # () float64
    # () int64. 0: upper - lower is within tolerance. 1: it is not. 2: a covariance is singular to working precision and
    # Cholesky cannot factor it; the bounds then follow from the traces alone. 3: a mean or a trace is not finite.
    status: Tensor


class Rung(NamedTuple):
    """How one attempt is made."""

    smallest: float  # singular values resolved, relative to the largest
    dtype: torch.dtype  # of the iterates

    def __str__(self) -> str:
        kind = "" if self.dtype == torch.float64 else ", float32 iterates"
        return f"polar quintic l={self.smallest:.0e}{kind}".replace("e-0", "e-")


class Distance(NamedTuple):
    """All that one attempt leaves."""

    bracket: FrechetBracket
    raw: Tensor  # () value before rounding below 0 was taken as 0
    mean_term: Tensor  # () |μ1-μ2|²
    polar: Polar  # of tallᵀ short
    tall: Factor
    short: Factor
    kinds: str  # of the factors


def rungs(tolerance: float, dtype: torch.dtype) -> list[Rung]:
    """The attempts in turn: l from the tolerance down, in `dtype`, then the smallest l in float64.

    An unresolved singular value costs at most l σ₁ ≤ l tr(Σ1 + Σ2) / 2, so l = tolerance is where to begin.
    """
    fitting = sorted((smallest for smallest in QUINTIC if smallest <= tolerance), reverse=True)
    first = Rung((fitting or [min(QUINTIC)])[0], dtype)
    last = Rung(min(QUINTIC), torch.float64)
    return [first] if first == last else [first, last]


def distance_bracket(
    mean1: Tensor,  # (D,) float64
    factor1: Factor,
    mean2: Tensor,
    factor2: Factor,
    *,
    rung: Rung,
    tolerance: float,
    failed: Tensor | None = None,  # () bool: a factor is not one
    inverse_root: bool = False,
) -> Distance:
    """|μ1-μ2|² + tr Σ1 + tr Σ2 - 2 ‖F1ᵀF2‖_* with its bracket; tolerance is relative to tr(Σ1 + Σ2)."""
    by_width = factor1.matrix.shape[1] >= factor2.matrix.shape[1]
    tall, short = (factor1, factor2) if by_width else (factor2, factor1)
    m = tall.matrix.T @ short.matrix
    if 0 in m.shape:
        found = Polar(torch.zeros_like(m), m.new_zeros(m.shape[1], m.shape[1]) if inverse_root else None)
    else:
        found = polar(m, smallest=rung.smallest, dtype=rung.dtype, inverse_root=inverse_root)
    root = nuclear_bracket(m, found.factor)

    size = len(mean1)
    mean_term = (mean1 - mean2).square().sum()
    trace1, trace2 = (factor.trace.clamp(min=0) for factor in (factor1, factor2))  # below 0: no covariance, no factor
    traces = trace1 + trace2
    total = mean_term + traces
    largest = trace1.sqrt() * trace2.sqrt()  # ‖F1‖_F ‖F2‖_F ≥ ‖F1ᵀF2‖_*; the traces' product may underflow
    rounding = (size + 8) * _UNIT * total + 2.2 * size * _UNIT * m.shape[1] ** 0.5 * largest  # of the sums; of M
    from_traces = total - 2 * largest - rounding, total + rounding
    raw = total - 2 * root.value
    lower = torch.fmax(total - 2 * root.upper - rounding, from_traces[0])
    upper = torch.fmin(total - 2 * root.lower + rounding, from_traces[1])
    # Rounding of a mean term that is a million times the traces is wider than that, and no other attempt makes it less.
    width = torch.fmin(upper - lower, 2 * (root.upper - root.lower))
    within = width <= (tolerance * traces).clamp(min=1e-6)
    status = torch.where(within, CERTIFIED, WIDE)
    if failed is not None:
        lower, upper = torch.where(failed, from_traces[0], lower), torch.where(failed, from_traces[1], upper)
        status = torch.where(failed, UNFACTORED, status)
    finite = torch.isfinite(total)
    lower = torch.where(finite, lower, 0.0).clamp(min=0)
    upper = torch.where(finite, upper, torch.inf)
    raw = torch.where(torch.isfinite(raw), raw, upper)
    if failed is not None:
        raw = torch.where(failed, raw.clamp(lower, upper), raw)
    status = torch.where(finite, status, NOT_FINITE)
    bracket = FrechetBracket(raw.clamp(min=0), lower, upper, status)
    return Distance(bracket, raw, mean_term, found, tall, short, kinds(factor1, factor2))


class PolarDistance(torch.autograd.Function):
    """The value of :func:`distance_bracket` for four moments, with the gradients of docs/numerics.md 3."""

    @staticmethod
    def forward(
        ctx: Any,
        mean1: Tensor,
        covariance1: Tensor,
        mean2: Tensor,
        covariance2: Tensor,
        rung: Rung,
        tolerance: float,
        clip: bool,  # factor by eigenvectors where Cholesky fails, which reads numbers back
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if clip:
            factor1, factor2 = covariance_factor(covariance1, "sigma1"), covariance_factor(covariance2, "sigma2")
            failed = None
        else:
            (factor1, failed1), (factor2, failed2) = cholesky_factor(covariance1), cholesky_factor(covariance2)
            failed = failed1 | failed2
        slopes = ctx.needs_input_grad[1] or ctx.needs_input_grad[3]
        found = distance_bracket(
            mean1, factor1, mean2, factor2, rung=rung, tolerance=tolerance, failed=failed, inverse_root=slopes
        )
        ctx.first_is_tall = found.tall is factor1
        if slopes:
            u, root = found.polar.factor, found.polar.inverse_root
            ctx.save_for_backward(mean1, mean2, found.tall.matrix, found.short.matrix, u, root)
        else:
            ctx.save_for_backward(mean1, mean2)
        bracket = found.bracket
        ctx.mark_non_differentiable(bracket.lower, bracket.upper, bracket.status)
        return bracket.value, bracket.lower, bracket.upper, bracket.status

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        mean1, mean2, *spectrum = ctx.saved_tensors
        apart = 2 * grad * (mean1 - mean2)
        along1 = along2 = None
        if spectrum:
            tall, short, u, root = spectrum
            along_tall = along_short = None
            needs_tall, needs_short = ctx.needs_input_grad[1], ctx.needs_input_grad[3]
            if not ctx.first_is_tall:
                needs_tall, needs_short = needs_short, needs_tall
            if needs_tall:  # short (MᵀM)^-½ shortᵀ; UᵀU on both sides takes the slope out of what M has lost
                along_tall = grad * _identity_less(short @ polar_product(u, u)[0], root)
            if needs_short:  # short M⁺ ... turned round: tall U (MᵀM)^-½ Uᵀ tallᵀ
                along_short = grad * _identity_less(tall @ u, root)
            along1, along2 = (along_tall, along_short) if ctx.first_is_tall else (along_short, along_tall)
        return (
            apart if ctx.needs_input_grad[0] else None,
            along1,
            -apart if ctx.needs_input_grad[2] else None,
            along2,
            None,
            None,
            None,
        )


def _identity_less(side: Tensor, middle: Tensor) -> Tensor:  # (D, r), (r, r) → (D, D)
    """I - A B Aᵀ, exactly symmetric."""
    product = side @ middle @ side.T
    result = (product + product.T) / -2
    result.diagonal().add_(1)
    return result
