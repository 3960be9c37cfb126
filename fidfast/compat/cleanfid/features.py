"""cleanfid.features: images in [0, 255] → Inception features, and the statistics of datasets by name."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fidfast import FeatureExtractor, FeatureStatistics, StatisticsError
from fidfast.compat.cleanfid.resize import build_resizer
from fidfast.compat.cleanfid.utils import to_array, to_tensor
from fidfast.weights import cache_dir

PRESETS = {"clean": "clean-fid", "legacy_pytorch": "pytorch-fid", "legacy_tensorflow": "tensorflow"}
STATISTICS_URL = "https://www.cs.cmu.edu/~clean-fid/stats"
CUDA = torch.device("cuda")  # clean-fid's default; where it is left as it is, the CPU does on a machine without CUDA


class InceptionFeatures:
    """Float images (N, 3, H, W) in [0, 255] → (N, 2048) float32 on the network's device.

    As clean-fid's own: 299 x 299 already, but for mode legacy_tensorflow, which resizes any size. :meth:`of_images`
    takes images of any sizes in every mode.
    """

    def __init__(self, mode: str, device: Any = CUDA) -> None:
        if mode not in PRESETS:
            raise ValueError(f"mode: expected one of {', '.join(PRESETS)}, got {mode!r}")
        self.mode = mode
        self.extractor = FeatureExtractor(taps=("2048",), preset=PRESETS[mode], device=resolve_device(device))

    def __call__(self, x: Tensor) -> Tensor:
        if self.mode == "legacy_tensorflow":
            return self.of_images(x)
        if tuple(x.shape[2:]) != (299, 299):
            raise ValueError(f"x: expected images of 299 x 299 pixels in mode {self.mode}, got {tuple(x.shape)}")
        x = x.detach().to(self.extractor.device).float()
        x = (x - 128) / 128 if self.mode == "clean" else 2 * (x / 255) - 1
        x = x.contiguous(memory_format=torch.channels_last)
        return torch.cat([self.extractor.network(chunk) for chunk in x.split(self.extractor.chunk_size)])

    def of_images(self, images: Tensor | Sequence[Tensor]) -> Tensor:  # N x (3, H, W) uint8 or float, in [0, 255]
        images = list(images)
        if all(image.dtype == torch.uint8 for image in images):
            return self.extractor.taps(images)["2048"]
        outside = [((image < 0) | (image > 255)).any() for image in images]
        if self.mode != "legacy_tensorflow" and bool(torch.stack(outside).any()):  # clean-fid resizes, then clips
            resize = build_resizer(self.mode)
            return self(torch.stack([to_tensor(resize(to_array(image.float()))) for image in images]))
        scaled = [image.float() / 255 for image in images]
        return self.extractor.taps(scaled, value_range=(0, 1), quantize=None)["2048"]


def resolve_device(device: Any) -> Any:
    return torch.device("cpu") if device is CUDA and not torch.cuda.is_available() else device


def feature_extractor(
    name: str = "torchscript_inception",
    device: Any = CUDA,
    resize_inside: bool = False,
    use_dataparallel: bool = True,
) -> InceptionFeatures:
    """The network of one of clean-fid's two ports, which are one here; one device, whatever use_dataparallel."""
    if name not in ("torchscript_inception", "pytorch_inception"):
        raise ValueError(f"name: expected 'torchscript_inception' or 'pytorch_inception', got {name!r}")
    if name == "pytorch_inception":
        return InceptionFeatures("legacy_pytorch", device)
    return InceptionFeatures("legacy_tensorflow" if resize_inside else "clean", device)


def build_feature_extractor(mode: str, device: Any = CUDA, use_dataparallel: bool = True) -> InceptionFeatures:
    """The network of a mode; one device, whatever use_dataparallel."""
    return InceptionFeatures(mode, device)


def get_reference_statistics(
    name: str,
    res: int | str,
    mode: str = "clean",
    model_name: str = "inception_v3",
    seed: int = 0,
    split: str = "test",
    metric: str = "FID",
) -> Any:
    """Mean and covariance of a named dataset (metric "FID"), or its features (N, 2048) (metric "KID").

    From fidfast's cache or an installed clean-fid's stats folder, else downloaded. StatisticsError says what to do
    where that fails.
    """
    file = statistics_name(name, mode, model_name, split, "na" if split == "custom" else res, metric)
    path = find_statistics(file)
    if path is None:
        path = _download(file, name)
    if metric == "KID":
        try:
            with np.load(path, allow_pickle=False) as archive:
                return archive["feats"]
        except Exception as error:  # truncated, of other keys: numpy and zlib raise what they like
            raise StatisticsError(
                f"{path}: expected an .npz with the key feats, which cannot be read: {error}"
            ) from error
    statistics = FeatureStatistics.load(path)
    return statistics.mu.numpy(), statistics.sigma.numpy()


def statistics_name(name: str, mode: str, model_name: str, split: str, res: int | str, metric: str) -> str:
    if metric not in ("FID", "KID"):
        raise ValueError(f"metric: expected 'FID' or 'KID', got {metric!r}")
    model = "" if model_name == "inception_v3" else f"_{model_name}"
    return f"{name}_{mode}{model}_{split}_{res}{'_kid' if metric == 'KID' else ''}.npz".lower()


def statistics_folder() -> Path:
    """Where statistics are written."""
    return cache_dir() / "cleanfid"


def find_statistics(file: str) -> Path | None:
    """A statistics file in our folder, or in that of an installed clean-fid."""
    folders = [statistics_folder()]
    theirs = PathFinder.find_spec("cleanfid")  # not our façade, which install() may have put there
    if theirs is not None and theirs.origin is not None:
        folders.append(Path(theirs.origin).parent / "stats")
    return next((folder / file for folder in folders if (folder / file).is_file()), None)


def _download(file: str, name: str) -> Path:
    target, url = statistics_folder() / file, f"{STATISTICS_URL}/{urllib.parse.quote(file)}"
    print(f"downloading statistics to {target}")
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(url, timeout=20) as response:
            content = response.read()
        if not content.startswith(b"PK"):
            raise OSError("what came is no .npz file")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(target)
    except (OSError, urllib.error.URLError, http.client.HTTPException) as error:
        raise StatisticsError(
            f"{name}: there are no statistics {file} in {target.parent}, and {url} gave none ({error}). Copy the file "
            f"there, make it from the dataset's images with make_custom_stats({name!r}, FOLDER) and pass "
            "dataset_split='custom', or pass the images as fdir2"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return target
