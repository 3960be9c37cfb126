"""One image at a time: a file, encoded bytes or what a dataset yields → an RGB tensor (3, H, W)."""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

IMAGE_KEYS = ("image", "images", "pixel_values")
FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class ImagesError(ValueError):
    """A source of images, or one image of it, that cannot be used."""


class Unreadable(NamedTuple):
    """Stands in a batch in the place of an image that could not be read."""

    path: str
    reason: str
    fatal: bool = False  # a mistake in the caller's code, which on_error="skip" must not hide
    cause: Exception | None = None


def decode_file(path: str) -> torch.Tensor:
    """uint8 (3, H, W) RGB of one image file, a view of (H, W, 3); OSError or ValueError when it cannot be read.

    ``Image.open(path).convert("RGB")``, as pytorch-fid, clean-fid and torch-fidelity do: the first frame, without EXIF
    rotation; palettes, alpha, CMYK and 16 bits as Pillow converts them. ``.npy`` as clean-fid reads it: (H, W, 3).
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a regular file")  # opening a pipe would wait for ever
    if status.st_size == 0:
        raise OSError("the file is empty")
    if path.lower().endswith(".npy"):
        array = np.load(path, allow_pickle=False)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
            raise ValueError(f"expected a uint8 array (H, W, 3), got {array.dtype} {array.shape}")
        return torch.from_numpy(array).permute(2, 0, 1)
    return _decode(path)


def decode_bytes(data: bytes) -> torch.Tensor:
    """uint8 (3, H, W) RGB of one encoded image, as :func:`decode_file`."""
    if not data:
        raise OSError("the file is empty")
    return _decode(io.BytesIO(data))


def _decode(file: str | io.BytesIO) -> torch.Tensor:
    with warnings.catch_warnings():
        # Pillow warns of odd metadata, and of images between one and two times MAX_IMAGE_PIXELS, which peers read.
        # Above twice that limit it raises DecompressionBombError, and so do we.
        warnings.simplefilter("ignore")
        with Image.open(file) as image:
            if image.format == "EPS":  # a program that Pillow would hand to Ghostscript
                raise ValueError("PostScript is not read")
            return rgb_tensor(image)


def rgb_tensor(image: Image.Image) -> torch.Tensor:
    """uint8 (3, H, W), a view of (H, W, 3), of a Pillow image of any mode."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def reason_of(error: Exception) -> str:
    """Why an image could not be read, in words that do not repeat its path."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read"
    if isinstance(error, Image.DecompressionBombError):
        return f"refused, a decompression bomb: {error}"
    if isinstance(error, FileNotFoundError):
        return "no such file, or a symbolic link to nothing"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if type(error) in (OSError, ValueError) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def images_of(item: Any) -> list[torch.Tensor]:
    """The images (3, H, W) in what a dataset, loader or generator yields: views wherever possible.

    An item is an image or a batch of images: a Pillow image, a tensor, an array, a path or encoded bytes; or a mapping
    with one of the keys image, images, pixel_values; or a tuple or list that starts with the image or batch, as
    ``(image, label)``; or a list of images. Gray becomes RGB by repetition, without a copy.

    Tensors are (3, H, W) or (1, H, W) if that fits, else (H, W, 3) or (H, W, 1); arrays the other way round. Batches
    have one dimension more, N in front. Two dimensions are one gray image. ImagesError for anything else.
    """
    if isinstance(item, Image.Image):
        return [rgb_tensor(item)]
    if isinstance(item, (str, os.PathLike)):
        return [decode_file(os.fsdecode(item))]
    if isinstance(item, (bytes, bytearray)):
        return [decode_bytes(bytes(item))]
    if isinstance(item, Mapping):
        for key in IMAGE_KEYS:
            if key in item:
                return images_of(item[key])
        raise ImagesError(f"expected a mapping with a key image, images or pixel_values, got {sorted(map(str, item))}")
    if isinstance(item, (tuple, list)):
        if not item:
            raise ImagesError("expected an image, got an empty " + type(item).__name__)
        if isinstance(item, list) and all(map(_is_one_image, item)):
            return [image for one in item for image in images_of(one)]
        return images_of(item[0])
    if not is_array(item):
        raise ImagesError(f"expected an image or a batch of images, got {type(item).__name__}")
    if len(item.shape) == 4:
        return array_images(item)
    if len(item.shape) == 3:
        return [_rgb_view(_tensor(item), hwc_first=not isinstance(item, torch.Tensor))]
    if len(item.shape) == 2:
        return [_rgb_view(_tensor(item)[None], hwc_first=False)]
    raise ImagesError(f"expected an image with 2 or 3 dimensions or a batch with 4, got shape {tuple(item.shape)}")


def array_images(batch: Any) -> list[torch.Tensor]:
    """The images (3, H, W), views, of a batch with 4 dimensions (see :func:`images_of`) or of gray images (N, H, W)."""
    tensor = _tensor(batch)
    if tensor.ndim == 3:
        return list(_rgb_view(tensor[:, None], hwc_first=False))
    return list(_rgb_view(tensor, hwc_first=not isinstance(batch, torch.Tensor)))


def is_array(item: Any) -> bool:
    """A tensor, an array, or another library's array that numpy can read."""
    return isinstance(item, (torch.Tensor, np.ndarray)) or (hasattr(item, "__array__") and hasattr(item, "shape"))


def _is_one_image(item: Any) -> bool:
    if isinstance(item, (Image.Image, str, os.PathLike, bytes, bytearray)):
        return True
    return is_array(item) and len(item.shape) in (2, 3)


def _tensor(array: Any) -> torch.Tensor:
    """The array as a tensor of a dtype that images have, sharing memory where it can."""
    if isinstance(array, torch.Tensor):
        tensor = array.detach()
    else:
        array = np.asarray(array)
        if array.dtype.kind not in "uifb":
            raise ImagesError(f"expected uint8 or floating-point images, got an array of {array.dtype}")
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if not array.flags.writeable or any(stride < 0 for stride in array.strides):
            array = array.copy()  # torch has no read-only tensors and no negative strides
        if array.dtype == np.longdouble:
            array = array.astype(np.float64)
        tensor = torch.from_numpy(array)
    if tensor.dtype != torch.uint8 and tensor.dtype not in FLOAT_DTYPES:
        raise ImagesError(
            f"expected uint8 images in [0, 255], or floating-point images with value_range, got {tensor.dtype}"
        )
    return tensor


def _rgb_view(images: torch.Tensor, hwc_first: bool) -> torch.Tensor:
    """(..., C, H, W) or (..., H, W, C) with C = 1 or 3 → (..., 3, H, W)."""
    fits_chw, fits_hwc = images.shape[-3] in (1, 3), images.shape[-1] in (1, 3)
    narrow = (
        images.shape[-1] == 1 and images.shape[-3] == 3
    )  # (3, H, 1): one column of RGB, not a gray image of height 3
    if fits_hwc and ((hwc_first and not narrow) or not fits_chw):
        images = images.movedim(-1, -3)
    elif not fits_chw:
        shape = tuple(images.shape[-3:])
        raise ImagesError(f"expected 3 channels (RGB) or 1 (gray), first or last, got images of shape {shape}")
    if 0 in images.shape[-2:]:
        raise ImagesError(f"expected images with pixels, got height {images.shape[-2]} and width {images.shape[-1]}")
    return images.expand(*images.shape[:-3], 3, *images.shape[-2:])
