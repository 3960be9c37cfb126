"""The image ops in plain torch, for devices without a kernel: the same tap tables as dense matrices."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from fidfast import _cpu

OUT = 299


def empty_out(count: int, dtype: torch.dtype, channels_last: bool, device: torch.device) -> Tensor:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(count, 3, OUT, OUT, dtype=dtype, device=device, memory_format=memory_format)


def raise_unusable(images: Sequence[Tensor], indices: Sequence[int], low: float, high: float) -> None:
    """ValueError about the first of the float images that hold NaN or values far outside [low, high]."""
    if not indices:
        return
    image = images[indices[0]]
    not_numbers = int(image.isnan().sum())
    got = f"NaN at {not_numbers} places" if not_numbers else f"values from {image.min():g} to {image.max():g}"
    raise ValueError(f"images[{indices[0]}]: expected values in [{low:g}, {high:g}] (value_range), got {got}")


def with_places(message: str, before: int) -> str:
    """``images[i]`` of a part → the image's place in the whole, where `before` images come before the part."""
    return re.sub(r"images\[(\d+)\]", lambda found: f"images[{before + int(found[1])}]", message)


def torch_to_255(
    images: Tensor,  # (N, 3, H, W) uint8 or float
    low: float,
    high: float,
    quantize: str,
) -> Tensor:
    if images.dtype == torch.uint8:
        return images.float()
    scale = 255.0 / (high - low)
    values = images.float() * scale + -low * scale
    if not quantize:
        return values
    values = values.clamp(0.0, 255.0)
    return values.round() if quantize == "round" else values.trunc()


def _resize_matrix(preset: str, size: int) -> Tensor:
    """(299, size) float64: one axis of the preset's resize."""
    matrix = torch.zeros(OUT, size, dtype=torch.float64)
    for row, (start, weights) in enumerate(_cpu.taps(preset, size)):
        matrix[row, start : start + len(weights)] = torch.tensor(weights, dtype=torch.float64)
    return matrix


def resize_normalize_torch(
    images: Sequence[Tensor],
    preset: str,
    low: float,
    high: float,
    quantize: str,
    dtype: torch.dtype,
    channels_last: bool,
    content_hash: bool,
) -> tuple[Tensor, Tensor]:
    device = images[0].device
    # float64 also keeps TF32 out of the products; MPS has none of either
    real = torch.float32 if device.type == "mps" else torch.float64
    centre, scale, clip = _cpu.preset(preset)
    out = empty_out(len(images), dtype, channels_last, device)
    hashes = torch.empty(len(images) if content_hash else 0, 2, dtype=torch.int64, device=device)
    check_torch(images, low, high)
    by_size: dict[tuple[int, int], list[int]] = {}
    for i, image in enumerate(images):
        by_size.setdefault((image.shape[1], image.shape[2]), []).append(i)
    for (height, width), members in by_size.items():
        columns = _resize_matrix(preset, width).to(real).to(device)
        rows = _resize_matrix(preset, height).to(real).to(device)
        chunk = max(1, 2**22 // (height * width))  # images at a time: at most 100 MB of float64
        for first in range(0, len(members), chunk):
            indices = members[first : first + chunk]
            values = torch_to_255(torch.stack([images[i] for i in indices]), low, high, quantize)
            resized = rows @ (values.to(real) @ columns.T).float().to(real)
            resized = resized.float().clamp(0.0, 255.0) if clip else resized.float()
            out[indices] = ((resized - centre) * scale).to(dtype)
            if content_hash:
                hashes[indices] = torch_hash(values)
    return out, hashes


def check_torch(images: Sequence[Tensor], low: float, high: float) -> None:
    if images[0].dtype == torch.uint8:
        return
    slack = 0.25 * (high - low)
    usable = torch.stack([((image >= low - slack) & (image <= high + slack)).all() for image in images])
    raise_unusable(images, (~usable).nonzero().flatten().tolist(), low, high)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """x >> bits of the 64 bits as an unsigned number; torch's own shift copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(x: int) -> int:
    x &= (1 << 64) - 1
    return x - (1 << 64) if x >> 63 else x


def torch_hash(
    values: Tensor,  # (N, 3, H, W) float32 on the scale 0..255
) -> Tensor:
    """(N, 2) int64; content_hash.h says what is computed. int64 products wrap as unsigned ones do."""
    segment, golden, multipliers, keys = _cpu.hash_constants()
    count, _, height, width = values.shape
    values = values.clamp(0.0, 255.0).round().to(torch.int64)
    pixels = values[:, 0] + values[:, 1] * 2**8 + values[:, 2] * 2**16
    segments = -(-width // segment)
    pixels = torch.nn.functional.pad(pixels, (0, segments * segment - width)).view(count, height, segments, segment)
    place = torch.arange(height, device=values.device)[:, None] * 2**20
    place = (place + torch.arange(segments, device=values.device) + 1) * _signed(golden)  # (H, segments)
    halves = []
    for j in range(2):
        terms = pixels + torch.tensor(keys[j], device=values.device)
        x = (terms[..., 0::2] * terms[..., 1::2]).sum(-1) + place
        x = (x ^ _shift_right(x, 29)) * _signed(multipliers[j])
        x = (x ^ _shift_right(x, 32)).sum((1, 2)) + _signed((height * 2**32 + width) * golden)
        x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
        x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
        halves.append(x ^ _shift_right(x, 31))
    return torch.stack(halves, 1)
