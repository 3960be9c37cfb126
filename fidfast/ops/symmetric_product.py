"""Products known to be symmetric: alpha XᵀY + beta E + gamma I with half the work of a general product."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor
from torch.utils.dlpack import to_dlpack

from fidfast.ops.lower_triangle import add_lower_product, mirror_lower
from fidfast.ops.modules import cuda_module

# The smallest D from which our kernel makes the product, by compute capability; cuBLAS below it and where the
# capability is not listed. Not measured yet: these two have the float64 tensor cores that the kernel is written for.
_KERNEL_FROM = {(8, 0): 256, (9, 0): 256}

torch.library.define(
    "fidfast::symmetric_product",
    "(Tensor x, Tensor? y, Tensor? addend, float alpha, float beta, float gamma) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


def symmetric_product(
    x: Tensor,  # (m, D) float64 or float32
    y: Tensor | None = None,  # (m, D); default: x
    *,
    addend: Tensor | None = None,  # (D, D) symmetric
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float = 0.0,
) -> Tensor:
    """alpha XᵀY + beta E + gamma I, (D, D), for symmetric XᵀY and addend E; equal to its transpose to the bit.

    XᵀX with y left out, X Xᵀ by passing ``x.T``, G² for a symmetric G, and a I + b G + c G² as
    ``symmetric_product(g, addend=g, alpha=c, beta=b, gamma=a)``. Only the lower triangles of XᵀY and E count. No
    gradient passes. float64 on CUDA by our kernel or by cuBLAS, whichever the table below says.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    if x.dtype not in (torch.float64, torch.float32):
        raise TypeError(f"x: expected float64 or float32, got {x.dtype}")
    if x.ndim != 2:
        raise ValueError(f"x: expected shape (m, D), got {tuple(x.shape)}")
    for name, tensor, shape in (("y", y, x.shape), ("addend", addend, (x.shape[1], x.shape[1]))):
        if tensor is None:
            continue
        if tensor.dtype != x.dtype:
            raise TypeError(f"{name}: expected {x.dtype} as x, got {tensor.dtype}")
        if tensor.shape != shape:
            raise ValueError(f"{name}: expected shape {tuple(shape)}, got {tuple(tensor.shape)}")
        if tensor.device != x.device:
            raise ValueError(f"{name}: expected device {x.device} as x, got {tensor.device}")
    detached = [None if tensor is None else tensor.detach() for tensor in (y, addend)]
    return torch.ops.fidfast.symmetric_product(x.detach(), *detached, float(alpha), float(beta), float(gamma))


@torch.library.register_fake("fidfast::symmetric_product")
def empty_product(
    x: Tensor, y: Tensor | None, addend: Tensor | None, alpha: float, beta: float, gamma: float
) -> Tensor:
    return torch.empty(x.shape[1], x.shape[1], dtype=x.dtype, device=x.device)


def symmetric_product_torch(
    x: Tensor, y: Tensor | None, addend: Tensor | None, alpha: float, beta: float, gamma: float
) -> Tensor:
    """The op in torch, for the CPU, for float32 and for devices where our kernel is not faster."""
    right = x if y is None else y
    if x.device.type == "cpu":
        product = torch.zeros(x.shape[1], x.shape[1], dtype=x.dtype, device=x.device)
        add_lower_product(product, x.T, right)
    else:  # many blocks of a product would each leave the device half idle
        product = x.T @ right
    if alpha != 1.0:
        product *= alpha
    if addend is not None:
        product.add_(addend, alpha=beta)
    if gamma != 0.0:
        product.diagonal().add_(gamma)
    return mirror_lower(product)


@torch.library.impl("fidfast::symmetric_product", "default")
def _symmetric_product_op(
    x: Tensor, y: Tensor | None, addend: Tensor | None, alpha: float, beta: float, gamma: float
) -> Tensor:
    kernels = cuda_module() if x.is_cuda and x.dtype == torch.float64 else None
    least = None if kernels is None else _kernel_from(x.device)
    if kernels is None or least is None or x.shape[1] < least:
        return symmetric_product_torch(x, y, addend, alpha, beta, gamma)
    return symmetric_product_kernel(
        kernels, x, y, addend, alpha, beta, gamma, torch.cuda.current_stream(x.device).cuda_stream
    )


def _kernel_from(device: torch.device) -> int | None:
    return None if torch.version.hip else _KERNEL_FROM.get(torch.cuda.get_device_capability(device))


def symmetric_product_route(device: torch.device) -> str:
    """What makes the product of float64 matrices on a device that is no CPU: "cuda from D = 256" or "torch on cuda"."""
    usable = device.type == "cuda" and cuda_module() is not None and torch.cuda.is_available()
    least = _kernel_from(device) if usable else None
    return f"torch on {device.type}" if least is None else f"cuda from D = {least}"


def symmetric_product_kernel(
    kernels: ModuleType,
    x: Tensor,
    y: Tensor | None,
    addend: Tensor | None,
    alpha: float,
    beta: float,
    gamma: float,
    stream: int,
) -> Tensor:
    """The op by a module of compiled kernels, in the layout of x; y and the addend are copied if theirs is another."""
    row_major = _is_row_major(x)
    if not row_major and not _is_row_major(x.T):
        x, row_major = x.contiguous(), True
    if y is not None and not _is_row_major(y if row_major else y.T):
        y = y.contiguous() if row_major else y.T.contiguous().T
    if addend is not None and not _is_row_major(addend):
        addend = addend.contiguous()
    out = empty_product(x, y, addend, alpha, beta, gamma)
    views = [None if view is None else to_dlpack(view) for view in (x, x if y is None else y, addend, out)]
    kernels.symmetric_product(*views, row_major, alpha, beta, gamma, stream)
    return out


def _is_row_major(matrix: Tensor) -> bool:
    return matrix.stride(1) == 1 and matrix.stride(0) >= matrix.shape[1]
