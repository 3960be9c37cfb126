"""cleanfid.utils: the files that clean-fid reads, as a dataset of resized images."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fidfast.compat.cleanfid.resize import Resizer, build_resizer
from fidfast.decode import decode_bytes, decode_file, reason_of

EXTENSIONS = {"bmp", "jpg", "jpeg", "pgm", "png", "ppm", "tif", "tiff", "webp", "npy", "JPEG", "JPG", "PNG"}


class ResizeDataset(torch.utils.data.Dataset):
    """Images of files, or of members of the zip file fdir, as float32 (3, H, W) in [0, 255] after fn_resize.

    custom_image_tranform (spelled as there) is applied before: an attribute, like fn_resize, that callers may set.
    """

    def __init__(
        self, files: Sequence[Any], mode: str, size: tuple[int, int] = (299, 299), fdir: str | None = None
    ) -> None:
        self.files, self.fdir, self.size = files, fdir, size
        self.fn_resize: Resizer = build_resizer(mode)
        self.custom_image_tranform: Callable[[np.ndarray], np.ndarray] | None = None
        self._members = ZipMembers(fdir, files) if fdir is not None and is_zip(fdir) else None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Tensor:
        path = str(self.files[i])
        if self._members is not None:
            image = self._members[i].permute(1, 2, 0).numpy()
        elif path.endswith(".npy"):
            image = _read_array(path)
        else:
            image = decode_file(path).permute(1, 2, 0).numpy()
        if self.custom_image_tranform is not None:
            image = self.custom_image_tranform(image)
        return to_tensor(self.fn_resize(image))


class ZipMembers(torch.utils.data.Dataset):
    """uint8 (3, H, W) images of a zip file, by the names of its members."""

    def __init__(self, fdir: str, names: Sequence[Any]) -> None:
        self.fdir, self.names = fdir, names
        self._archive: tuple[int, zipfile.ZipFile] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Tensor:
        name = str(self.names[i])
        # one handle for each process: a forked one would share its place in the file
        if self._archive is None or self._archive[0] != os.getpid():
            self._archive = os.getpid(), zipfile.ZipFile(self.fdir)
        try:
            return decode_bytes(self._archive[1].read(name))
        except Exception as error:  # Pillow and zlib raise what they like, and none of it names the member
            raise ValueError(f"{self.fdir}/{name}: {reason_of(error)}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None}


def _read_array(path: str) -> np.ndarray:
    """(H, W, 3) in [0, 255] of any dtype, as FolderResizer writes them."""
    image = np.load(path, allow_pickle=False)
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"{path}: expected an array (H, W, 3), got {image.dtype} {image.shape}")
    return image


def is_float_array(path: str) -> bool:
    """Whether this is an .npy that fidfast's own reader, which takes uint8, leaves to :class:`ResizeDataset`."""
    if not path.endswith(".npy"):
        return False
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False).dtype != np.uint8
    except (OSError, ValueError, EOFError):  # said where it is read
        return False


def is_zip(fdir: str) -> bool:
    return str(fdir).lower().endswith(".zip")


def to_tensor(image: np.ndarray) -> Tensor:  # (H, W, 3) -> (3, H, W) float32
    return torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1)


def to_array(image: Any) -> np.ndarray:
    """(H, W, 3) of a Pillow image, an array (H, W, 3) or a tensor (3, H, W)."""
    if isinstance(image, Image.Image):
        return np.array(image.convert("RGB"))
    return image.detach().cpu().permute(1, 2, 0).numpy() if isinstance(image, Tensor) else image
