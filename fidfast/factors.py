"""Covariance factors Σ = F Fᵀ, the triangular products they allow, and the nuclear norm of what they make."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fidfast.moments import StatisticsError, centre_rows
from fidfast.ops import add_lower_product

# Square roots of eigenvalues lose half of the digits of those near zero. Up to this bound on the error, relative to the
# sum, they are taken; beyond it singular values are, which square nothing and take three times as long. At full rank
# the true error is some thousand times smaller than the bound (1e-12 at condition 1e7); singular sets exceed it, and a
# set against itself would be off by 2e-5 (docs/numerics.md 1).
_ROOT_ERROR = 1e-9
# Rounding of a float32 covariance makes negative eigenvalues of 1e-7 of the trace; past this share it is not rounding.
_MOST_NEGATIVE = 0.1
# The size at which a triangular product stops splitting: 512 is the fastest of 64 … 1024 at D = 2048, two cores.
_BLOCK = 512


@dataclass(frozen=True)
class Factor:
    """F with Σ = F Fᵀ, and tr Σ from the same numbers."""

    matrix: Tensor  # (D, r) float64
    kind: str  # "cholesky" (lower triangular), "eigh" (clipped eigenvectors) or "rows" (centred features)
    trace: Tensor  # () float64, where the matrix is
    _copies: dict[torch.device, Factor] = field(default_factory=dict, repr=False, compare=False)

    def on(self, device: torch.device) -> Factor:
        """This factor on ``device``; a copy made for that is kept as long as the factor is."""
        if device == self.matrix.device:
            return self
        if device not in self._copies:
            moved = replace(self, matrix=self.matrix.to(device), trace=self.trace.to(device), _copies={})
            self._copies[device] = moved
        return self._copies[device]


def noise_level(size: int, largest: float) -> float:
    """How large rounding makes zero eigenvalues of a (size, size) float64 matrix; the rule of numpy's matrix_rank."""
    return size * torch.finfo(torch.float64).eps * largest


def covariance_factor(sigma: Tensor, source: str) -> Factor:
    """Cholesky of a symmetric sigma (D, D) float64; if a pivot is rounding noise, eigenvectors without the noise.

    Negative eigenvalues beyond rounding are clipped with a warning that names ``source`` and their sum.
    """
    factor, failed = cholesky_factor(sigma)
    if not bool(failed):
        return factor
    eigenvalues, vectors = clipped_eigh(sigma, source)
    return Factor(vectors * eigenvalues.sqrt(), "eigh", eigenvalues.sum())


def clipped_eigh(sigma: Tensor, source: str) -> tuple[Tensor, Tensor]:
    """The eigenvalues (r,) of a symmetric sigma (D, D) above rounding noise, ascending, and their vectors (D, r).

    Negative eigenvalues beyond rounding are dropped with a warning that names ``source`` and their sum.
    """
    eigenvalues, vectors = torch.linalg.eigh(sigma)
    noise = noise_level(sigma.shape[0], float(eigenvalues.abs().max()))
    negative, positive = float(-eigenvalues[eigenvalues < 0].sum()), float(eigenvalues[eigenvalues > 0].sum())
    if negative > max(16 * noise, _MOST_NEGATIVE * positive):
        raise StatisticsError(
            f"{source}: expected a covariance (positive semidefinite), got a matrix whose negative eigenvalues sum to "
            f"-{negative:.3g} and the positive ones to {positive:.3g}"
        )
    if negative > 16 * noise:
        warnings.warn(
            f"{source}: expected a positive semidefinite matrix, but its negative eigenvalues sum to -{negative:.3g} "
            f"(smallest {float(eigenvalues[0]):.3g}, largest {float(eigenvalues[-1]):.3g}); they are taken as 0",
            stacklevel=2,
        )
    kept = eigenvalues > noise
    return eigenvalues[kept], vectors[:, kept]


def cholesky_factor(sigma: Tensor) -> tuple[Factor, Tensor]:
    """Cholesky of sigma (D, D) float64, and whether it failed: a pivot was not positive, or only rounding noise.

    That is a () bool tensor, so that nothing here waits for a device; a factor that failed holds no square root.
    """
    diagonal = sigma.diagonal()
    lower, info = torch.linalg.cholesky_ex(sigma)
    noise = sigma.shape[0] * torch.finfo(torch.float64).eps * diagonal.max()
    held = (info == 0) & (lower.diagonal().min().square() > noise)
    return Factor(lower, "cholesky", diagonal.sum()), ~held


def kinds(first: Factor, second: Factor) -> str:
    """What a route calls the two: "cholesky", "rows × cholesky" ..."""
    return first.kind if first.kind == second.kind else f"{first.kind} × {second.kind}"


def rows_factor(rows: Tensor) -> Factor:
    """F (D, n-1) from features (n, D) float32, n ≥ 2: centred, then reflected so that no row is redundant.

    The n centred rows sum to zero: their Gram matrix is always singular. A Householder reflection that takes (1, …, 1)
    to the first axis makes the first row vanish and leaves n-1 rows with the same scatter.
    """
    count, centred = rows.shape[0], centre_rows(rows)[1]
    reduced = centred[1:]
    reduced += centred[0] / (count**0.5 - 1)
    reduced /= (count - 1) ** 0.5
    return Factor(reduced.T, "rows", torch.linalg.vector_norm(reduced).square())


def times_factor(a: Tensor, factor: Factor) -> Tensor:
    """A F, (m, D) times (D, r): half the work where F is triangular."""
    if factor.kind != "cholesky":
        return a @ factor.matrix
    out = torch.empty_like(a, memory_format=torch.contiguous_format)
    _times_lower(a, factor.matrix, out)
    return out


def congruence(sigma: Tensor, factor: Factor) -> Tensor:
    """The lower triangle of Fᵀ Σ F, (r, r) float64; what stands above it is unspecified.

    Where F is triangular this takes D³ operations, not the 4 D³ of two products (LAPACK's sygst, which torch lacks).
    """
    if factor.kind != "cholesky":
        return factor.matrix.T @ (sigma @ factor.matrix)
    out = torch.zeros_like(sigma)
    _congruence_lower(sigma, factor.matrix, out)
    return out


def gram(m: Tensor) -> Tensor:
    """The lower triangle of M Mᵀ, (rows, rows); what stands above it is unspecified."""
    out = m.new_zeros(m.shape[0], m.shape[0])
    add_lower_product(out, m, m.T)
    return out


def sum_of_roots(eigenvalues: Tensor) -> float | None:
    """Σ√λ of the ascending eigenvalues (r,) of a positive semidefinite matrix; None where rounding could be felt."""
    if len(eigenvalues) == 0:
        return 0.0
    noise = torch.finfo(torch.float64).eps * eigenvalues[-1].clamp(min=0)  # of every eigenvalue
    if float(eigenvalues[0]) < -noise_level(len(eigenvalues), float(eigenvalues[-1])):
        return None
    roots = eigenvalues.clamp(min=0).sqrt()
    total = float(roots.sum())
    error = float((noise / (2 * torch.maximum(roots, noise.sqrt()))).nan_to_num().sum())
    return total if error <= _ROOT_ERROR * total else None


def nuclear_norm(m: Tensor) -> tuple[float, str]:
    """The sum of the singular values of M (p, q) float64, and how it was found: "eigvalsh" or "svdvals"."""
    if 0 in m.shape:
        return 0.0, "eigvalsh"
    total = sum_of_roots(torch.linalg.eigvalsh(gram(m if m.shape[0] <= m.shape[1] else m.T)))
    if total is not None:
        return total, "eigvalsh"
    return singular_sum(m), "svdvals"


def singular_sum(m: Tensor) -> float:
    """The sum of the singular values of M, by LAPACK on the CPU: what every other route can fall back to."""
    return float(torch.linalg.svdvals(m.cpu()).sum())


def _times_lower(a: Tensor, lower: Tensor, out: Tensor) -> None:
    """out = A L for a lower triangular L, skipping the zero blocks."""
    size = lower.shape[0]
    if size <= _BLOCK:
        torch.mm(a, lower, out=out)
        return
    half = size // 2
    _times_lower(a[:, :half], lower[:half, :half], out[:, :half])
    out[:, :half].addmm_(a[:, half:], lower[half:, :half])
    _times_lower(a[:, half:], lower[half:, half:], out[:, half:])


def _congruence_lower(a: Tensor, lower: Tensor, out: Tensor) -> None:
    """The lower triangle of Lᵀ A L for a symmetric A, by halves; A = [[A₁, Bᵀ], [B, A₂]], L = [[L₁, 0], [K, L₂]]."""
    size = lower.shape[0]
    if size <= _BLOCK:
        torch.mm(lower.T, a @ lower, out=out)
        return
    half = size // 2
    first, second = slice(None, half), slice(half, None)
    side = a[second, second] @ lower[second, first]  # A₂ K
    cross = torch.empty_like(side)
    _times_lower(a[second, first], lower[first, first], cross)  # B L₁
    turned = torch.empty(half, size - half, dtype=a.dtype, device=a.device)
    _times_lower((cross + side).T.contiguous(), lower[second, second], turned)
    out[second, first] = turned.T  # L₂ᵀ (B L₁ + A₂ K)
    _congruence_lower(a[first, first], lower[first, first], out[first, first])
    mixed = lower[second, first].T @ cross.add_(side, alpha=0.5)  # Kᵀ (B L₁ + A₂ K / 2)
    out[first, first] += mixed
    out[first, first] += mixed.T
    _congruence_lower(a[second, second], lower[second, second], out[second, second])
