"""pytorch_fid.fid_score: its functions, their order of arguments, their defaults and what they print."""

from __future__ import annotations

import os
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fidfast import FeatureStatistics, ImagesError, StatisticsError, compute_features, compute_fid, compute_statistics
from fidfast import frechet_distance as _frechet_distance
from fidfast.compat.pytorch_fid.inception import InceptionV3
from fidfast.compat.reference import load_reference
from fidfast.images import open_images

IMAGE_EXTENSIONS = {"bmp", "jpg", "jpeg", "pgm", "png", "ppm", "tif", "tiff", "webp"}

_PRESET = "pytorch-fid"
_Path = str | os.PathLike[str]

parser = ArgumentParser(formatter_class=ArgumentDefaultsHelpFormatter)
parser.add_argument("--batch-size", type=int, default=50, help="images decoded at a time; does not change the result")
parser.add_argument("--num-workers", type=int, help="decoding processes; defaults to `min(8, num_cpus)`")
parser.add_argument("--device", type=str, default=None, help="cuda, cuda:0, cpu, ...; defaults to cuda if there is one")
parser.add_argument("--dims", type=int, default=2048, choices=list(InceptionV3.BLOCK_INDEX_BY_DIM),
                    help="dimension of the Inception features; 2048 is the final average pool")  # fmt: skip
parser.add_argument("--save-stats", action="store_true",
                    help="write the statistics of the first path, a folder, to the second, an .npz file")  # fmt: skip
parser.add_argument("path", type=str, nargs=2, help="two folders of images, or their .npz statistics files")


class ImagePathDataset(torch.utils.data.Dataset):
    """The images of a list of files, in RGB, transformed."""

    def __init__(self, files: Sequence[_Path], transforms: Callable[[Any], Any] | None = None) -> None:
        self.files = files
        self.transforms = transforms

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Any:
        with Image.open(self.files[i]) as file:
            image = file.convert("RGB")
        return image if self.transforms is None else self.transforms(image)


def get_activations(
    files: Sequence[_Path],
    model: Any,
    batch_size: int = 50,
    dims: int = 2048,
    device: Any = "cpu",
    num_workers: int = 1,
) -> np.ndarray:
    """(N, dims) float64 features of the files, in their order.

    model: an InceptionV3 of this package, which runs as fidfast's own network, or any callable of float images
    (n, 3, H, W) in [0, 1] that returns a list whose first item is (n, dims, h, w).

    Raises:
        ImagesError: no files, or a file that is no image. StatisticsError: features of another dimension.
    """
    names = [os.path.abspath(file) for file in files]
    _batch_size(batch_size, len(names))
    unique = list(dict.fromkeys(names))
    extractor = _extractor(model, dims, device)
    if extractor is None:
        rows = _rows_of_callable(unique, model, batch_size, dims, device, num_workers)
    else:
        (rows,) = compute_features(
            unique, feature_extractor=extractor, batch_size=batch_size, num_workers=num_workers
        ).values()
    place = {name: index for index, name in enumerate(unique)}
    rows = rows[[place[name] for name in names]]  # a file that is named twice counts twice, as there
    return rows.cpu().numpy().astype(np.float64)


def calculate_frechet_distance(mu1: Any, sigma1: Any, mu2: Any, sigma2: Any, eps: float = 1e-6) -> np.float64:
    """The Fréchet distance of N(mu1, sigma1) and N(mu2, sigma2); eps is accepted and never needed."""
    means = [np.atleast_1d(np.asarray(mu, dtype=np.float64)) for mu in (mu1, mu2)]
    covariances = [np.atleast_2d(np.asarray(sigma, dtype=np.float64)) for sigma in (sigma1, sigma2)]
    return np.float64(_frechet_distance(means[0], covariances[0], means[1], covariances[1]))


def calculate_activation_statistics(
    files: Sequence[_Path],
    model: Any,
    batch_size: int = 50,
    dims: int = 2048,
    device: Any = "cpu",
    num_workers: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean (dims,) and covariance (dims, dims) of the files' features, float64, as :func:`get_activations`."""
    statistics = _statistics(files, model, batch_size, dims, device, num_workers)
    return statistics.mu.cpu().numpy(), statistics.sigma.cpu().numpy()


def compute_statistics_of_path(
    path: _Path, model: Any, batch_size: int, dims: int, device: Any, num_workers: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a folder's images, or from an .npz file with mu and sigma."""
    if _is_npz(path):
        statistics = load_reference(path, preset=_PRESET, feature_dim=None)
        return statistics.mu.cpu().numpy(), statistics.sigma.cpu().numpy()
    return calculate_activation_statistics(_files(path), model, batch_size, dims, device, num_workers)


def calculate_fid_given_paths(
    paths: Sequence[_Path], batch_size: int, device: Any, dims: int, num_workers: int = 1
) -> np.float64:
    """The FID of two paths, each a folder or an .npz file of statistics."""
    for path in paths:
        if not os.path.exists(path):
            raise RuntimeError(f"Invalid path: {path}")
    stored = all(map(_is_npz, paths[:2]))  # then no layer is asked for, and dims says nothing of the files
    sides: list[Any] = [
        load_reference(path, preset=_PRESET, feature_dim=None if stored else dims) if _is_npz(path) else _files(path)
        for path in paths[:2]
    ]
    for side in sides:
        if isinstance(side, list):
            _batch_size(batch_size, len(side))
    return np.float64(
        compute_fid(
            *sides,
            preset=_PRESET,
            feature_dim=dims,
            batch_size=batch_size,
            device=device,
            num_workers=num_workers,
        )
    )


def save_fid_stats(paths: Sequence[_Path], batch_size: int, device: Any, dims: int, num_workers: int = 1) -> None:
    """Write the statistics of the folder paths[0] to the .npz file paths[1], which must not exist."""
    if not os.path.exists(paths[0]):
        raise RuntimeError(f"Invalid path: {paths[0]}")
    if os.path.exists(paths[1]):
        raise RuntimeError(f"Existing output file: {paths[1]}")
    target = Path(paths[1])
    target = target if target.suffix == ".npz" else target.with_name(f"{target.name}.npz")
    if not target.parent.is_dir():  # now, not after the work
        raise StatisticsError(f"{target}: the folder {target.parent} does not exist")
    print(f"Saving statistics for {paths[0]}")
    if _is_npz(paths[0]):
        statistics = load_reference(paths[0], preset=_PRESET, feature_dim=dims)
    else:
        files = _files(paths[0])
        _batch_size(batch_size, len(files))
        statistics = compute_statistics(
            files, preset=_PRESET, feature_dim=dims, batch_size=batch_size, device=device, num_workers=num_workers
        )
    statistics.save(target)


def main() -> None:
    """The command line of pytorch-fid."""
    options = parser.parse_args()
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    workers = options.num_workers
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0, 8)
    if options.save_stats:
        save_fid_stats(options.path, options.batch_size, torch.device(device), options.dims, workers)
        return
    value = calculate_fid_given_paths(options.path, options.batch_size, torch.device(device), options.dims, workers)
    print("FID: ", value)


def _is_npz(path: _Path) -> bool:
    return os.fspath(path).endswith(".npz")


def _files(folder: _Path) -> list[Path]:
    """The files that pytorch-fid reads: the folder's own, with a suffix in lower case, sorted."""
    files = sorted(file for suffix in IMAGE_EXTENSIONS for file in Path(folder).glob(f"*.{suffix}"))
    if not files:
        raise ImagesError(
            f"{folder}: expected images directly in this folder, named *.{', *.'.join(sorted(IMAGE_EXTENSIONS))} in "
            "lower case as pytorch-fid wants them, found none; the fidfast command reads subfolders and any case"
        )
    return files


def _batch_size(batch_size: int, count: int) -> None:
    if batch_size > count:
        print("Warning: batch size is bigger than the data size. Setting batch size to data size")


def _extractor(model: Any, dims: int, device: Any) -> Any:
    return model.extractor(dims, device) if isinstance(model, InceptionV3) else None


def _statistics(
    files: Sequence[_Path], model: Any, batch_size: int, dims: int, device: Any, num_workers: int
) -> FeatureStatistics:
    extractor = _extractor(model, dims, device)
    if extractor is not None and len(set(map(os.path.abspath, files))) == len(files):
        _batch_size(batch_size, len(files))
        return compute_statistics(
            list(files), feature_extractor=extractor, batch_size=batch_size, num_workers=num_workers
        )
    statistics = FeatureStatistics(dims)
    statistics.update(get_activations(files, model, batch_size, dims, device, num_workers))
    return statistics


def _rows_of_callable(
    files: list[str], model: Any, batch_size: int, dims: int, device: Any, num_workers: int
) -> Tensor:  # (N, dims)
    model.eval()
    rows = []
    with open_images(files, batch_size=batch_size, num_workers=num_workers) as source, torch.no_grad():
        for images in source:
            batch = torch.stack(images).to(device).float().div(255)
            features = model(batch)[0]  # (n, dims, h, w)
            if features.shape[1] != dims:
                raise StatisticsError(f"dims: expected {features.shape[1]}, as the model's features have, got {dims}")
            rows.append(features.mean(dim=(2, 3)).cpu())
    return torch.cat(rows)


if __name__ == "__main__":
    main()
