"""Polar factors and nuclear norms by Newton-Schulz iteration: matrix products only, no decision on any value.

M = U H with U of orthonormal columns and H = (MᵀM)^½, so that ‖M‖_* = tr H. Each step multiplies the singular values
by a polynomial of themselves (fidfast.quintic); sixteen steps take all above 1e-8 of the largest to 1. Whatever U
comes out, :func:`nuclear_bracket` then bounds ‖M‖_* from both sides (docs/numerics.md 2). All of it can be captured in
a CUDA graph: nothing here reads a number back.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import torch
from torch import Tensor

from fidfast import ops
from fidfast.precision import strict_float32
from fidfast.quintic import QUINTIC

_UNIT = torch.finfo(torch.float64).eps / 2
# Added to H's diagonal before its Cholesky, relative to ‖M‖_F / r. It costs the bracket as much as half of it times the
# number of zero singular values, at most 5e-10 ‖M‖_F; rounding in H is 100 times smaller at r = 2048.
_LIFT = 2.0**-30
# ‖G² - G‖_F up to which ‖U‖₂ ≤ 2 is certain: g² - g ≤ 12 makes g ≤ 4, and 1 is left for the rounding of G².
_GRAM_DEFECT = 11.0
# Compute capabilities of CUDA whose float64 runs at half of float32's rate (A100, V100, H100, B200 ...); elsewhere it
# runs at 1/32 or 1/64, and the iterates are float32 there.
_FULL_FLOAT64 = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}
_FULL_FLOAT64_HIP = {9}  # AMD's Instinct, as major version


class Polar(NamedTuple):
    """U ≈ M (MᵀM)^-½ of a tall M (m, r), and what made it."""

    factor: Tensor  # U (m, r) float64
    inverse_root: Tensor | None  # (r, r) float64 ≈ (MᵀM)^-½, with U = M times it; bounded where M is singular


class NuclearBracket(NamedTuple):
    """‖M‖_* and numbers that it lies between, all () float64."""

    value: Tensor
    lower: Tensor
    upper: Tensor


def takes_polar(device: torch.device) -> bool:
    """Whether the polar iteration is the way to a distance there: on a CPU, LAPACK's eigenvalues are faster."""
    return device.type == "cuda"


def iterate_dtype(device: torch.device) -> torch.dtype:
    """float64 where the device computes it at half of float32's rate, else float32; from the device's properties."""
    if device.type != "cuda":
        return torch.float64
    major, minor = torch.cuda.get_device_capability(device)
    full = major in _FULL_FLOAT64_HIP if torch.version.hip else (major, minor) in _FULL_FLOAT64
    return torch.float64 if full else torch.float32


def polar(
    m: Tensor, *, smallest: float = 1e-8, dtype: torch.dtype = torch.float64, inverse_root: bool = False
) -> Polar:
    """The polar factor of a tall M (m, r), float64, m ≥ r: right where σ ≥ smallest σ₁, short of length 1 below.

    Args:
        smallest: a key of :data:`fidfast.quintic.QUINTIC`.
        dtype: of the iterates. float32 leaves U a rotation of 1e-7 away, of which ‖M‖_* feels the square.
        inverse_root: accumulate (MᵀM)^-½ too, for one more product a step.
    """
    scale = _positive(m.abs().amax())
    with strict_float32(m.device) if dtype == torch.float32 else contextlib.nullcontext():
        x = (m / scale).to(dtype)
        gram = _gram(x)
        square = ops.symmetric_product(gram)
        top = _positive(_norm(square) ** 0.25)  # (Σσ⁸)^⅛, hardly above σ₁
        x, gram, square = x / top, gram / top**2, square / top**4
        root = None
        for step, (a, b, c) in enumerate(QUINTIC[smallest]):
            if step == 0:
                polynomial = b * gram + c * square
                polynomial.diagonal().add_(a)
            else:
                polynomial = _polynomial(_gram(x), a, b, c)
            x = x @ polynomial
            if inverse_root:
                root = polynomial if root is None else root @ polynomial
        if root is not None:
            root = root.double() / (top.double() * scale)
            root = (root + root.T) / 2
    return Polar(x.double(), root)


def polar_product(m: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """UᵀM and UᵀU, each (r, r) float64."""
    return u.T @ m, _gram(u)


def nuclear_bracket(m: Tensor, u: Tensor) -> NuclearBracket:
    """‖M‖_* of M (m, r) from any U (m, r) near its polar factor; where U is far from it, the bracket is wide.

    docs/numerics.md 2 has the proof. In short: the lower bound is ⟨U(3I - UᵀU)/2, M⟩, whose first factor has norm 1 at
    most if ‖U‖₂ ≤ 2. The upper bound is ‖L‖_F ‖Y‖_F + √r ‖M - YᵀLᵀ‖_F, true for any L and Y, and sharp for L Lᵀ ≈ H
    and Y = L⁻¹Mᵀ. Both are widened by the rounding of what they are made of, in any order of summation.
    """
    length, size = m.shape
    if size == 0:
        return NuclearBracket(*(m.new_zeros(()) for _ in range(3)))
    scale = _positive(m.abs().amax())
    m = m / scale
    norm = _norm(m)
    product, gram = polar_product(m, u)
    value = 1.5 * product.diagonal().sum() - 0.5 * (gram * product).sum()
    extent = gram.diagonal().sum()  # ‖U‖_F²
    rounding = 1.1 * _UNIT * (length + size) * norm * (extent + 1.5 * extent.sqrt())
    rounding = rounding + _UNIT * size**0.5 * norm  # of the division by scale
    defect = _norm(ops.symmetric_product(gram, addend=gram, beta=-1.0))
    lower = torch.where(defect <= _GRAM_DEFECT, value - rounding, 0.0).clamp(min=0)

    lifted = (product + product.T) / 2
    lifted.diagonal().add_(_LIFT / size * _positive(norm))
    triangle, failed = torch.linalg.cholesky_ex(lifted)
    solved = torch.linalg.solve_triangular(triangle, m.T, upper=False)  # Y (r, m)
    bound = _norm(triangle) * _norm(solved)
    rest = _norm(m.T - triangle @ solved) + (size + 2) * _UNIT * (bound + norm)
    upper = bound * (1 + 2.2 * (length + size) * _UNIT) + size**0.5 * (rest + _UNIT * norm)
    loosest = size**0.5 * norm * (1 + (length + size) * _UNIT)
    upper = torch.where((failed == 0) & (upper <= loosest), upper, loosest)
    return NuclearBracket(value * scale, lower * scale, upper * scale)


def _gram(x: Tensor) -> Tensor:  # (m, r) → (r, r)
    """XᵀX."""
    return ops.symmetric_product(x)


def _polynomial(gram: Tensor, a: float, b: float, c: float) -> Tensor:
    """aI + bG + cG² of a symmetric G (r, r)."""
    return ops.symmetric_product(gram, addend=gram, alpha=c, beta=b, gamma=a)


def _norm(matrix: Tensor) -> Tensor:
    """‖·‖_F in two stages, so that rounding grows with a side and not with the number of entries."""
    return torch.linalg.vector_norm(torch.linalg.vector_norm(matrix, dim=0))


def _positive(value: Tensor) -> Tensor:
    return torch.where(value > 0, value, 1.0)
