"""The square root of a symmetric positive semidefinite matrix."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from fidfast.factors import cholesky_factor, clipped_eigh
from fidfast.moments import check_symmetric, symmetric
from fidfast.polar import polar, polar_product, takes_polar

# ‖H² - A‖_F / ‖A‖_F above which the polar iteration's H is not taken; float64 gives 1e-14 at condition 1e12.
_RESIDUAL = 1e-12


@overload
def matrix_sqrt(a: Tensor) -> Tensor: ...
@overload
def matrix_sqrt(a: np.ndarray) -> np.ndarray: ...
def matrix_sqrt(a: Any) -> Tensor | np.ndarray:
    """The symmetric positive semidefinite H with H² = A, float64, on A's device; differentiable (once) for a tensor.

    On a CUDA device A = L Lᵀ, and the polar factor of Lᵀ = U H gives H by matrix products alone (docs/numerics.md 2);
    on a CPU, and for a singular A, H comes from eigenvectors. ‖H² - A‖_F ≤ 1e-12 ‖A‖_F either way.

    Args:
        a: (D, D) symmetric positive semidefinite, finite; negative eigenvalues are taken as 0, with a warning that
            says how large they were, up to a tenth of the positive ones.

    Returns:
        (D, D) float64, a tensor for a tensor and an array for an array. The gradient solves H X + X H = dH by the
        eigenvectors of H; where A is singular, it is the one inside its range.

    Raises:
        StatisticsError: a is not square, not symmetric, not finite or far from positive.
    """
    matrix = check_symmetric(a, "a")
    root = _MatrixSqrt.apply(matrix)
    return root if isinstance(a, Tensor) else root.numpy()


class _MatrixSqrt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        root = _by_polar(matrix) if takes_polar(matrix.device) else None
        if root is None:
            eigenvalues, vectors = clipped_eigh(matrix, "a")
            root = symmetric(vectors * eigenvalues.sqrt() @ vectors.T)
        ctx.save_for_backward(root)
        return root

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (root,) = ctx.saved_tensors
        eigenvalues, vectors = torch.linalg.eigh(root)
        sums = eigenvalues[:, None] + eigenvalues
        noise = torch.finfo(torch.float64).eps * len(root) * sums.max()
        inside = vectors.T @ symmetric(grad) @ vectors
        return symmetric(vectors @ torch.where(sums > noise, inside / sums, 0.0) @ vectors.T)


def _by_polar(matrix: Tensor) -> Tensor | None:
    """H by the polar factor of Lᵀ; None where Cholesky fails or the square of H is not A. Reads the device once."""
    factor, failed = cholesky_factor(matrix)
    m = factor.matrix.T
    product, gram = polar_product(m, polar(m).factor)
    root = symmetric(1.5 * product - 0.5 * gram @ product)
    scale = matrix.abs().amax()
    scale = torch.where(scale > 0, scale, 1.0)
    scaled, square = matrix / scale, (root / scale.sqrt()) @ (root / scale.sqrt())
    off = torch.linalg.vector_norm(square - scaled) / torch.linalg.vector_norm(scaled)
    return root if bool(~failed & (off <= _RESIDUAL)) else None
