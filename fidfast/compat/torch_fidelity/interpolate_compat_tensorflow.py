"""TensorFlow 1's bilinear resize under torch-fidelity's name, for networks of one's own (and torchmetrics' imports)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fidfast.compat.torch_fidelity.helpers import vassert


def interpolate_bilinear_2d_like_tensorflow1x(
    input: Tensor,  # (N, C, H, W) floating point
    size: Sequence[int] | None = None,
    scale_factor: float | tuple[float, float] | None = None,
    align_corners: bool | None = None,
    method: str = "slow",
) -> Tensor:
    """(N, C, *size): no half-pixel centres, no antialias; differentiable. ``method`` changes nothing.

    Args:
        size: (height, width); or ``scale_factor`` in its place, one number or two.
        align_corners: as in TensorFlow 1; must be given.
    """
    vassert(method in ("slow", "fast"), f"method: expected 'slow' or 'fast', got {method!r}")
    vassert(
        input.ndim == 4 and input.is_floating_point(),
        f"input: expected floating point (N, C, H, W), got {input.dtype} {tuple(input.shape)}",
    )
    vassert(align_corners is not None, "align_corners: expected True or False, got None")
    vassert((size is None) != (scale_factor is None), "expected size or scale_factor, got both or none of them")
    if scale_factor is not None:
        factors = scale_factor if isinstance(scale_factor, tuple) else (scale_factor, scale_factor)
        size = [math.floor(length * factor) for length, factor in zip(input.shape[2:], factors, strict=True)]
    size = tuple(size or ())
    vassert(len(size) == 2, f"size: expected (height, width), got {size!r}")
    rows, columns = (
        _taps(length, out, bool(align_corners), input) for length, out in zip(input.shape[2:], size, strict=True)
    )
    low, high, share = columns
    across = torch.lerp(input[..., low], input[..., high], share)
    low, high, share = rows
    return torch.lerp(across[:, :, low], across[:, :, high], share[:, None])


def _taps(length: int, size: int, align_corners: bool, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # (size,) each
    """Of each place of one axis: its two neighbours, and the share of the second; the scale is a float32 throughout."""
    scale = (length - 1) / max(1, size - 1) if align_corners else length / size
    place = torch.arange(size, dtype=like.dtype, device=like.device) * torch.tensor(scale, dtype=torch.float32)
    low = place.long().clamp_max(length - 1)
    return low, (low + 1).clamp_max(length - 1), place - low
