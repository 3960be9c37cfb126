"""Convolution + ReLU on the CPU by Winograd's minimal filtering (csrc/kernels/cpu/winograd.h)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.dlpack import to_dlpack

from fidfast import _cpu
from fidfast.ops.threads import num_threads

torch.library.define(
    "fidfast::winograd_conv_relu",
    "(Tensor x, Tensor weight, Tensor bias, int[2] taps, int[2] padding) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


def winograd_weight(
    weight: Tensor,  # (K, C, kh, kw) float32
    simd: str = "",
) -> Tensor | None:
    """(K / panel, points, C, panel) float32 for winograd_conv_relu; None if this CPU or this shape has no kernel."""
    k, c, kh, kw = weight.shape
    scheme = _cpu.winograd_scheme(kh, kw, simd)
    if scheme is None or k % 32 or c % 16 or weight.dtype != torch.float32 or weight.device.type != "cpu":
        return None
    panel, points_y, points_x = scheme
    at_points = _at_points(points_y, kh) @ weight.double() @ _at_points(points_x, kw).T
    return at_points.reshape(k // panel, panel, c, -1).permute(0, 3, 2, 1).float().contiguous()


def _at_points(
    positive: list[float],  # the points are 0, ±these and infinity
    taps: int,
) -> Tensor:  # (points, taps) float64
    """G of Lavin and Gray: a filter's polynomial at the points, each over the product of its distances to the rest."""
    if taps == 1:
        return torch.ones(1, 1, dtype=torch.float64, device="cpu")
    finite = [0.0] + [sign * point for point in positive for sign in (1, -1)]
    rows = []
    for point in finite:
        norm = 1.0
        for other in finite:
            norm *= point - other if other != point else 1.0
        rows.append([point**tap / norm for tap in range(taps)])
    rows.append([0.0] * (taps - 1) + [1.0])
    return torch.tensor(rows, dtype=torch.float64, device="cpu")


def winograd_conv_relu(
    x: Tensor,  # (N, C, H, W) float32
    weight: Tensor,  # (K / panel, points, C, panel) float32 of winograd_weight
    bias: Tensor,  # (K,) float32
    taps: Sequence[int],  # (kh, kw) of the filter
    padding: Sequence[int],
    simd: str = "",
) -> Tensor:
    """relu(convolution of stride 1 + bias) → (N, K, H', W') channels_last; Lavin and Gray, arXiv:1509.09308."""
    out = _winograd_out(x, weight, bias, taps, padding)
    nhwc = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    views = [to_dlpack(tensor) for tensor in (nhwc, weight, bias, out.permute(0, 2, 3, 1))]
    _cpu.winograd_conv_relu(
        views[0], views[1], views[2], views[3], (taps[0], taps[1]), (padding[0], padding[1]), num_threads(), simd
    )
    return out


torch.library.impl("fidfast::winograd_conv_relu", "cpu")(winograd_conv_relu)


@torch.library.register_fake("fidfast::winograd_conv_relu")
def _winograd_out(x: Tensor, weight: Tensor, bias: Tensor, taps: Sequence[int], padding: Sequence[int]) -> Tensor:
    height, width = (x.shape[2 + i] + 2 * padding[i] - taps[i] + 1 for i in (0, 1))
    size = (x.shape[0], bias.shape[0], height, width)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
