"""3×3 convolution + ReLU on the CPU by Winograd's minimal filtering (csrc/kernels/cpu/winograd.h)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.dlpack import to_dlpack

from fidfast import _cpu
from fidfast.ops.threads import num_threads

torch.library.define(
    "fidfast::winograd_conv_relu",
    "(Tensor x, Tensor weight, Tensor bias, int padding) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


def winograd_weight(
    weight: Tensor,  # (K, C, 3, 3) float32
    simd: str = "",
) -> Tensor | None:
    """(K / panel, 36, C, panel) float32 for winograd_conv_relu, or None where this CPU or this shape has no kernel."""
    panel, (k, c, *size) = _cpu.winograd_panel(simd), weight.shape
    if not panel or size != [3, 3] or k % 32 or c % 16 or weight.dtype != torch.float32 or weight.device.type != "cpu":
        return None
    a, b = 0.5, 2.0  # squares of the points ±1/√2 and ±√2; the others are 0 and infinity
    norms = [(0.0, a * b)] + [(s * p**0.5, 2 * p * (p - q)) for p, q in ((a, b), (b, a)) for s in (1, -1)]
    rows = [[1 / norm, point / norm, point**2 / norm] for point, norm in norms] + [[0.0, 0.0, 1.0]]
    g = torch.tensor(rows, dtype=torch.float64, device="cpu")  # (6, 3)
    points = (g @ weight.double() @ g.T).reshape(k // panel, panel, c, 36)
    return points.permute(0, 3, 2, 1).float().contiguous()


def winograd_conv_relu(
    x: Tensor,  # (N, C, H, W) float32
    weight: Tensor,  # (K / panel, 36, C, panel) float32 of winograd_weight
    bias: Tensor,  # (K,) float32
    padding: int,
    simd: str = "",
) -> Tensor:
    """relu(3×3 convolution of stride 1 + bias) → (N, K, H', W') channels_last; Lavin and Gray, arXiv:1509.09308."""
    out = _winograd_out(x, weight, bias, padding)
    nhwc = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    views = [to_dlpack(tensor) for tensor in (nhwc, weight, bias, out.permute(0, 2, 3, 1))]
    _cpu.winograd_conv_relu(views[0], views[1], views[2], views[3], padding, num_threads(), simd)
    return out


torch.library.impl("fidfast::winograd_conv_relu", "cpu")(winograd_conv_relu)


@torch.library.register_fake("fidfast::winograd_conv_relu")
def _winograd_out(x: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    size = (x.shape[0], bias.shape[0], x.shape[2] + 2 * padding - 2, x.shape[3] + 2 * padding - 2)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
