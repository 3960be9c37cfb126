"""Running sums for mean and covariance, in float64: Σ(x-k), and the lower triangle of Σ(x-k)(x-k)ᵀ."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.dlpack import to_dlpack

from fidfast.ops.lower_triangle import add_lower_product
from fidfast.ops.modules import cuda_module

ROW_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

torch.library.define(
    "fidfast::add_covariance",
    "(Tensor rows, Tensor shift, Tensor(a!) total, Tensor(b!) scatter, int first_index) -> ()",
    tags=torch.Tag.pt2_compliant_tag,
)


def add_covariance(
    rows: Tensor,  # (n, D) float32, float16 or bfloat16
    shift: Tensor,  # (D,) float32
    total: Tensor,  # (D,) or (K, D) float64
    scatter: Tensor,  # (D, D) or (K, D, D) float64
    first_index: int = 0,
) -> None:
    """Add, in place, Σ(x-k) to total and the lower triangle of Σ(x-k)(x-k)ᵀ to scatter; above it is unspecified.

    With K accumulators row i goes to number (first_index + i) mod K: the K partial sums cost no more than one. rows
    may have any strides. On CUDA by a kernel without atomics: the same call gives the same bits.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    if rows.dtype not in ROW_DTYPES:
        raise TypeError(f"rows: expected float32, float16 or bfloat16, got {rows.dtype}")
    if rows.ndim != 2:
        raise ValueError(f"rows: expected shape (n, D), got {tuple(rows.shape)}")
    size, groups = rows.shape[1], total.shape[:-1] if total.ndim == 2 else ()
    if groups and not groups[0]:
        raise ValueError("total: expected at least one accumulator, got 0")
    expected = {"shift": (shift, torch.float32, (size,)), "total": (total, torch.float64, (*groups, size))}
    expected["scatter"] = (scatter, torch.float64, (*groups, size, size))
    for name, (tensor, dtype, shape) in expected.items():
        if tensor.dtype != dtype:
            raise TypeError(f"{name}: expected {dtype}, got {tensor.dtype}")
        if tensor.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
        if tensor.device != rows.device:
            raise ValueError(f"{name}: expected device {rows.device} as rows, got {tensor.device}")
    for name, tensor in (("total", total), ("scatter", scatter)):
        if not tensor.is_contiguous():
            raise ValueError(f"{name}: expected contiguous memory, got strides {tensor.stride()}")
    torch.ops.fidfast.add_covariance(rows.detach(), shift.detach(), total, scatter, first_index)


def add_covariance_torch(rows: Tensor, shift: Tensor, total: Tensor, scatter: Tensor, first_index: int) -> None:
    """The op in torch, for the CPU and for devices without a kernel."""
    size = rows.shape[1]
    totals, scatters = total.view(-1, size), scatter.view(-1, size, size)
    groups = len(totals)
    for group in range(groups):
        shifted = rows[(group - first_index) % groups :: groups].double().sub_(shift.double())
        totals[group] += shifted.sum(dim=0)
        if shifted.is_cuda:  # many blocks of a product would each leave the device half idle
            scatters[group].addmm_(shifted.T, shifted)
        else:
            add_lower_product(scatters[group], shifted.T, shifted)


@torch.library.impl("fidfast::add_covariance", "default")
def _add_covariance_op(rows: Tensor, shift: Tensor, total: Tensor, scatter: Tensor, first_index: int) -> None:
    kernels = cuda_module() if rows.is_cuda else None
    if kernels is None:
        add_covariance_torch(rows, shift, total, scatter, first_index)
        return
    size = rows.shape[1]
    stream = torch.cuda.current_stream(rows.device).cuda_stream
    side_by_side = rows if rows.stride(1) == 1 or size <= 1 else rows.contiguous()
    views = (side_by_side, shift.contiguous(), total.view(-1, size), scatter.view(-1, size, size))
    kernels.add_covariance(*[to_dlpack(view) for view in views], first_index, stream)


@torch.library.register_fake("fidfast::add_covariance")
def _(rows: Tensor, shift: Tensor, total: Tensor, scatter: Tensor, first_index: int) -> None:
    return None
