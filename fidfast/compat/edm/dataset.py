"""The images of a folder or zip file in EDM's order, and the random subset that it takes of them."""

from __future__ import annotations

import os
import zipfile
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from fidfast.decode import decode_bytes, decode_file, reason_of


class ImageFolderDataset(Dataset):
    """uint8 (3, H, W) RGB images of a folder and its subfolders, or of a zip file, sorted by relative path.

    Every file with an extension that Pillow knows is an image. ``max_size`` takes that many at random, for
    ``random_seed`` the ones that EDM takes. Gray images become RGB; so do palettes and alpha, which EDM misreads.

    Raises:
        OSError: no folder or zip file, or no image in it.
    """

    def __init__(self, path: str, max_size: int | None = None, random_seed: int = 0) -> None:
        from PIL import Image

        self.path, self._zip = os.fspath(path), None
        if os.path.isdir(self.path):
            found = {
                os.path.relpath(os.path.join(folder, name), start=self.path)
                for folder, _, names in os.walk(self.path)
                for name in names
            }
        elif os.path.splitext(self.path)[1].lower() == ".zip":
            try:
                with zipfile.ZipFile(self.path) as archive:
                    found = set(archive.namelist())
            except zipfile.BadZipFile as error:
                raise OSError(f"{self.path}: expected a zip file, but it cannot be read: {error}") from error
        else:
            raise OSError(f"Path must point to a directory or zip, got {self.path}")
        Image.init()
        names = sorted(name for name in found if os.path.splitext(name)[1].lower() in Image.EXTENSION)
        if not names:
            raise OSError(f"No image files found in the specified path {self.path}")
        self.names = [names[index] for index in chosen(len(names), max_size, random_seed)]

    @property
    def source(self) -> Any:
        """What fidfast reads fastest: the files of a folder, else this Dataset."""
        if os.path.isdir(self.path):
            return [os.path.join(self.path, name) for name in self.names]
        return self

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        if os.path.isdir(self.path):
            return decode_file(os.path.join(self.path, self.names[index]))
        if self._zip is None:  # opened by each process for itself
            self._zip = zipfile.ZipFile(self.path)  # type: ignore[assignment]
        name = self.names[index]
        try:
            return decode_bytes(self._zip.read(name))  # type: ignore[attr-defined]
        except Exception as error:  # Pillow and zlib raise what they like, and none of it names the member
            raise ValueError(f"{self.path}/{name}: {reason_of(error)}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zip": None}


def chosen(count: int, max_size: int | None, random_seed: int) -> list[int]:
    """The places of ``max_size`` of ``count`` images, ascending, as EDM draws them."""
    places = np.arange(count, dtype=np.int64)
    if max_size is not None and count > max_size:
        np.random.RandomState(random_seed % (1 << 31)).shuffle(places)
        places = np.sort(places[:max_size])
    return places.tolist()
