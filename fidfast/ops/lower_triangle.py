"""Symmetric matrices by their lower triangle: half the work of a product whose result is known to be symmetric."""

from __future__ import annotations

from torch import Tensor

# Rows of one product and of one transposed copy. At D = 2048 and two cores a whole product takes 177 ms, panels of 128,
# 192, 256, 384 and 512 rows 113, 102, 115, 107 and 117; halves that are halved again 134.
_PANEL = 192


def add_lower_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """out (r, r) += A B for A (r, k), B (k, r), on and below the diagonal; what stands above it is unspecified."""
    for start in range(0, out.shape[0], _PANEL):
        stop = min(start + _PANEL, out.shape[0])
        out[start:stop, :stop].addmm_(a[start:stop], b[:, :stop])


def mirror_lower(matrix: Tensor) -> Tensor:  # (r, r)
    """The matrix itself, made symmetric in place: what stands below the diagonal is copied above it."""
    if matrix.device.type != "cpu":
        return matrix.tril_().add_(matrix.tril(-1).T)
    for start in range(0, matrix.shape[0], _PANEL):  # six times as fast as the line above, which reads across memory
        stop = min(start + _PANEL, matrix.shape[0])
        matrix[:start, start:stop] = matrix[start:stop, :start].T
        square = matrix[start:stop, start:stop]
        square.copy_(square.tril() + square.tril(-1).T)
    return matrix
