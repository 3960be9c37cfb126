"""cleanfid.resize: resizers of arrays (H, W, 3) in [0, 255], by Pillow or torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

Resizer = Callable[[np.ndarray], np.ndarray]

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


def build_resizer(mode: str) -> Resizer:
    """The resizer of a mode; that of legacy_tensorflow does nothing, because its network resizes."""
    if mode == "clean":
        return make_resizer("PIL", False, "bicubic", (299, 299))
    if mode == "legacy_pytorch":
        return make_resizer("PyTorch", False, "bilinear", (299, 299))
    if mode == "legacy_tensorflow":
        return _unchanged
    raise ValueError(f"mode: expected one of clean, legacy_pytorch, legacy_tensorflow, got {mode!r}")


def make_resizer(library: str, quantize_after: bool, filter: str, output_size: tuple[int, int]) -> Resizer:
    """(H, W, 3) → output_size (width, height): uint8 if quantize_after, else float32, in [0, 255].

    library: "PIL" (antialiased; in float32 channel by channel unless quantize_after) or "PyTorch" (no antialias;
    output_size is then (height, width), as there).
    """
    if library not in ("PIL", "PyTorch"):
        raise NotImplementedError(
            f"library: expected 'PIL' or 'PyTorch', got {library!r}; clean-fid itself has TensorFlow and OpenCV"
        )
    if library == "PIL" and filter not in _FILTERS:
        raise ValueError(f"filter: expected one of {', '.join(_FILTERS)}, got {filter!r}")
    if library == "PyTorch":
        return _TorchResizer(quantize_after, filter, output_size)
    return _PillowResizer(quantize_after, filter, output_size)


class _PillowResizer:
    """A class, not a closure: worker processes can be given it."""

    def __init__(self, quantize_after: bool, filter: str, output_size: tuple[int, int]) -> None:
        self.quantize_after, self.filter, self.output_size = quantize_after, _FILTERS[filter], output_size

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if self.quantize_after:
            return np.array(Image.fromarray(x).resize(self.output_size, self.filter))  # the caller's to change
        channels = [Image.fromarray(x[:, :, i].astype(np.float32)) for i in range(3)]  # mode F
        resized = [np.asarray(channel.resize(self.output_size, self.filter)) for channel in channels]
        return np.stack(resized, axis=2).clip(0, 255)


class _TorchResizer:
    def __init__(self, quantize_after: bool, filter: str, output_size: tuple[int, int]) -> None:
        self.quantize_after, self.filter, self.output_size = quantize_after, filter, output_size

    def __call__(self, x: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)[None].float()
        image = torch.nn.functional.interpolate(image, self.output_size, mode=self.filter, align_corners=False)
        resized = image[0].permute(1, 2, 0).numpy().clip(0, 255)
        return resized.astype(np.uint8) if self.quantize_after else resized


def _unchanged(x: np.ndarray) -> np.ndarray:
    return x


class FolderResizer(torch.utils.data.Dataset):
    """Reading item i resizes file i and writes it below outpath; the item itself is 0."""

    def __init__(self, files: Sequence[Any], outpath: str, fn_resize: Resizer, output_ext: str = ".png") -> None:
        if output_ext not in (".npy", ".png"):
            raise ValueError(f"output_ext: expected '.npy' or '.png', got {output_ext!r}")
        self.files, self.outpath, self.fn_resize, self.output_ext = files, outpath, fn_resize, output_ext

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> int:
        with Image.open(self.files[i]) as image:
            resized = self.fn_resize(np.asarray(image))
        name = os.path.basename(str(self.files[i])).split(".")[0] + self.output_ext
        target = os.path.join(self.outpath, name)
        if self.output_ext == ".npy":
            np.save(target, resized)
        else:
            Image.fromarray(resized).save(target)
        return 0
