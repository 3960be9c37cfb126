"""The presets: one exact preprocessing per tool that fidfast replaces, and the function that applies one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from fidfast import ops


@dataclass(frozen=True)
class Preset:
    """How one family of tools turns an image into the network's input."""

    name: str
    resampling: str  # "bilinear", "bilinear-tf1", "bilinear-antialias" or "bicubic-pillow"
    normalisation: str  # "2x-1 of x/255" or "(x-128)/128"
    equals: tuple[str, ...]  # the tools that preprocess like this


_TABLE = (
    Preset(
        "pytorch-fid",
        "bilinear",
        "2x-1 of x/255",
        ("pytorch-fid", "denoising-diffusion-pytorch", "pytorch-image-generation-metrics"),
    ),
    Preset(
        "tensorflow",
        "bilinear-tf1",
        "(x-128)/128",
        ("torch-fidelity", "ADM evaluator", "EDM", "EDM2", "StyleGAN", "TTUR", "torchmetrics antialias=False"),
    ),
    Preset("clean-fid", "bicubic-pillow", "(x-128)/128", ('clean-fid mode="clean"',)),
    Preset("torchmetrics", "bilinear-antialias", "(x-128)/128", ("torchmetrics >= 1.8, antialias=True",)),
)
PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _TABLE})


def get_preset(name: str) -> Preset:
    """The preset of that name; ValueError listing the known ones."""
    if name not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]


def preprocess(
    images: Tensor | Sequence[Tensor],  # (N, 3, H, W) or N x (3, H, W) uint8 or float
    preset: str = "pytorch-fid",
    *,
    value_range: tuple[float, float] | None = None,
    quantize: str | None = "round",
    layout: str = "NCHW",
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.channels_last,
    content_hash: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The network's input (N, 3, 299, 299) of RGB images, exactly as the preset's own tool makes it.

    images: uint8 in [0, 255], or float with value_range (0, 1) or (-1, 1); any sizes and strides; layout="NHWC" for
    (N, H, W, 3). quantize: what becomes of float images: "round" or "truncate" to 8 bits, or None to keep them.
    dtype: float32, bfloat16 or float16. content_hash=True returns also (N, 2) int64 hashes of the quantised images.
    Raises TypeError or ValueError naming the argument. Sources: each preset names its tools in `equals`.
    """
    get_preset(preset)
    batch = _as_list(images, layout)
    if memory_format not in (torch.channels_last, torch.contiguous_format):
        raise ValueError(f"memory_format: expected channels_last or contiguous_format, got {memory_format}")
    out, hashes = ops.resize_normalize(
        batch,
        preset,
        value_range=value_range,
        quantize=quantize,
        dtype=dtype,
        channels_last=memory_format == torch.channels_last,
        content_hash=content_hash,
    )
    return (out, hashes) if content_hash else out


def _as_list(images: Tensor | Sequence[Tensor], layout: str) -> list[Tensor]:
    if layout not in ("NCHW", "NHWC"):
        raise ValueError(f'layout: expected "NCHW" or "NHWC", got {layout!r}')
    if isinstance(images, Tensor) and images.ndim != 4:
        raise ValueError(f"images: expected a tensor of 4 dimensions or a sequence of 3, got {tuple(images.shape)}")
    batch = list(images.unbind(0)) if isinstance(images, Tensor) else list(images)
    for i, image in enumerate(batch):
        if not isinstance(image, Tensor):
            raise TypeError(f"images[{i}]: expected a torch.Tensor, got {type(image).__name__}")
    return [image.movedim(-1, 0) for image in batch] if layout == "NHWC" else batch
