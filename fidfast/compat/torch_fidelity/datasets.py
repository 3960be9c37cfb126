"""Inputs as torch Datasets of uint8 images (3, H, W)."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fidfast.decode import decode_file, rgb_tensor


class TransformPILtoRGBTensor:
    """A Pillow image → uint8 (3, H, W): the ``transform`` of a dataset to be registered."""

    def __call__(self, img: Any) -> Tensor:
        return rgb_tensor(img)


class ImagesPathDataset(Dataset):
    """Image files; ``transforms`` takes the Pillow image, and gives a tensor."""

    def __init__(self, files: Sequence[str], transforms: Any = None) -> None:
        self.files, self.transforms = list(files), transforms

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Tensor:
        if self.transforms is None:
            return decode_file(self.files[i])
        from PIL import Image

        with Image.open(self.files[i]) as image:
            return self.transforms(image.convert("RGB"))


class ResizeAndCrop:
    """A Pillow image → its short side resized to ``size`` (bilinear), the square in the middle, uint8 (3, size, size).

    The numbers of torchvision's Resize and CenterCrop, which torch-fidelity calls.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Any) -> Tensor:
        from PIL import Image

        width, height = image.size
        short, size = min(width, height), self.size
        if short != size:
            image = image.resize(
                (
                    size if width == short else int(size * width / short),
                    size if height == short else int(size * height / short),
                ),
                Image.Resampling.BILINEAR,
            )
        left, top = (round((side - size) / 2.0) for side in image.size)
        return rgb_tensor(image.crop((left, top, left + size, top + size)))


class RandomlyGeneratedDataset(Dataset):
    """``num_samples`` images of noise, the same for the same seed; torch's random state is left as it was."""

    def __init__(self, num_samples: int, *dimensions: int, dtype: torch.dtype = torch.uint8, seed: int = 2021) -> None:
        if dtype != torch.uint8:
            raise ValueError(f"dtype: expected torch.uint8, got {dtype}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.imgs = torch.randint(0, 255, (num_samples, *dimensions), dtype=dtype, device="cpu")

    def __len__(self) -> int:
        return len(self.imgs)

    def __getitem__(self, i: int) -> Tensor:
        return self.imgs[i]


class _FirstOfItem(Dataset):
    """Of a torchvision dataset's (image, label) the image, as a tensor."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> Tensor:
        return rgb_tensor(self.dataset[i][0])


def torchvision_dataset(name: str, options: Mapping[str, Any], root: str, download: bool) -> Dataset:
    """A dataset of torchvision's by name; ModuleNotFoundError says what to do where that is not installed."""
    try:
        from torchvision import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the registered input {name} is torchvision's, which is not installed here: pip install torchvision, or "
            "pass the images as a folder or a Dataset"
        ) from error
    with contextlib.redirect_stdout(sys.stderr):  # where it reports its download
        return _FirstOfItem(getattr(datasets, name)(root, download=download, **options))
