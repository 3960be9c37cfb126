"""torch.library ops over fidfast's kernels: schema, fake, checks; the only importer of the compiled modules."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fidfast import _cpu, reference

OUT = 299


def resize_normalize(
    images: Sequence[Tensor],  # N x (3, H, W) uint8 or float
    preset: str,
    *,
    value_range: Sequence[float] | None = None,
    quantize: str | None = "round",
    dtype: torch.dtype = torch.float32,
    channels_last: bool = True,
    content_hash: bool = False,
) -> tuple[Tensor, Tensor]:
    """((N, 3, 299, 299) dtype, (N, 2) int64 hashes or (0, 2)): resize and normalise as the preset's tool does."""
    return reference.resize_normalize(
        images,
        preset,
        value_range=value_range,
        quantize=quantize,
        dtype=dtype,
        channels_last=channels_last,
        content_hash=content_hash,
    )


def content_hash(images: Sequence[Tensor]) -> Tensor:
    """(N, 2) int64: 128-bit hash of each image, equal for every layout, device and thread count."""
    return reference.content_hashes(images)


def simd_level() -> str:
    """The instruction set that the CPU kernels use here: "avx512", "avx2" or "scalar"."""
    return str(_cpu.simd_level())


def kernels() -> dict[str, str]:
    """Which implementation runs, by op."""
    return {name: f"cpu {simd_level()}" for name in ("resize_normalize", "content_hash")}
