"""The functions of pytorch-image-generation-metrics; preset "pytorch-fid", float images not rounded to 8 bits.

``use_torch`` changes no FID: fidfast needs neither scipy nor the fixed Newton-Schulz iteration that it stands for there
(float32, and NaN where it diverges). On several ranks every rank calls these, and all return the same.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from glob import escape, glob
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

import fidfast
from fidfast.compat.reference import load_reference
from fidfast.decode import decode_file, rgb_tensor
from fidfast.distributed import Ranks
from fidfast.metrics.inception_score import inception_score

PRESET = "pytorch-fid"
_EXTENSIONS = ["png", "jpg", "JPEG"]
_meetings = itertools.count()


class ImageDataset(Dataset):
    """The images of a folder and its subfolders with these extensions: float in [0, 1], or what ``transform`` makes.

    Sorted, unlike the original's, whose ``num_images`` depend on the file system.
    """

    def __init__(
        self,
        root: str,
        exts: Sequence[str] = _EXTENSIONS,
        transform: Any = None,
        num_images: int | None = None,
    ) -> None:
        found = (glob(os.path.join(escape(root), f"**/*.{ext}"), recursive=True) for ext in exts)
        self.paths = [path for paths in found for path in sorted(paths)][:num_images]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, idx: int) -> Any:
        if self.transform is None:
            return decode_file(self.paths[idx]).float().contiguous() / 255
        from PIL import Image

        with Image.open(self.paths[idx]) as image:
            return self.transform(image.convert("RGB"))


def get_fid(images: Tensor | DataLoader | list[str], fid_ref: str, use_torch: bool = False, **kwargs: Any) -> float:
    """The FID of float images in [0, 1], a tensor (N, 3, H, W) or a loader of such, against a statistics file."""
    return _measure(images, fid_ref, None, use_torch, kwargs)[1]


def get_inception_score(
    images: Tensor | DataLoader | list[str], splits: int = 10, use_torch: bool = False, **kwargs: Any
) -> tuple[float, float]:
    """(mean, standard deviation) of the Inception Score, in the images' order. Needs weights with the final layer."""
    return _measure(images, None, splits, use_torch, kwargs)[0]


def get_inception_score_and_fid(
    images: Tensor | DataLoader | list[str], fid_ref: str, splits: int = 10, use_torch: bool = False, **kwargs: Any
) -> tuple[tuple[float, float], float]:
    """Both, from one pass."""
    return _measure(images, fid_ref, splits, use_torch, kwargs)


def get_fid_from_directory(
    path: str,
    fid_ref: str,
    exts: list[str] = ["png", "jpg"],  # noqa: B006
    batch_size: int = 50,
    use_torch: bool = False,
    **kwargs: Any,
) -> float:
    """The FID of the images of a folder and its subfolders."""
    return get_fid(_files(path, exts), fid_ref, use_torch, batch_size=batch_size, **kwargs)


def get_inception_score_from_directory(
    path: str,
    splits: int = 10,
    exts: list[str] = ["png", "jpg"],  # noqa: B006
    batch_size: int = 50,
    use_torch: bool = False,
    **kwargs: Any,
) -> tuple[float, float]:
    """The Inception Score of the images of a folder and its subfolders."""
    return get_inception_score(_files(path, exts), splits, use_torch, batch_size=batch_size, **kwargs)


def get_inception_score_and_fid_from_directory(
    path: str,
    fid_ref: str,
    exts: list[str] = ["png", "jpg"],  # noqa: B006
    batch_size: int = 50,
    splits: int = 10,
    use_torch: bool = False,
    **kwargs: Any,
) -> tuple[tuple[float, float], float]:
    """Both, of the images of a folder and its subfolders."""
    return get_inception_score_and_fid(_files(path, exts), fid_ref, splits, use_torch, batch_size=batch_size, **kwargs)


def calc_fid_ref(
    input_path: str,
    output_path: str | None = None,
    batch_size: int = 50,
    img_size: int | None = None,
    use_torch: bool = False,
    num_workers: int | None = os.cpu_count(),
    verbose: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """mu (2048,) and sigma (2048, 2048) of a folder's images, and a statistics file of them at ``output_path``.

    Args:
        img_size: resize to this square first, as Pillow's bilinear does.
    """
    file = None
    if output_path is not None:  # now, not after the work
        file = output_path if output_path.endswith(".npz") else f"{output_path}.npz"
        os.makedirs(os.path.dirname(file) or ".", exist_ok=True)
    paths = _files(input_path, _EXTENSIONS)
    source: Any = paths if img_size is None else _Resized(paths, img_size)
    ranks = Ranks()
    statistics = fidfast.compute_statistics(
        source,
        preset=PRESET,
        batch_size=batch_size,
        num_workers=None if num_workers is None else min(num_workers, 8),
        progress=verbose,
        all_ranks=ranks.size > 1,
    )
    if file is not None and ranks.rank == 0:
        statistics.save(file)
    return statistics.mu.cpu().numpy(), statistics.sigma.cpu().numpy()


class _Resized(Dataset):
    """Image files at one square size, uint8 (3, size, size)."""

    def __init__(self, paths: Sequence[str], size: int) -> None:
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        from PIL import Image

        with Image.open(self.paths[index]) as image:
            return rgb_tensor(image.convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR))


def _files(path: str, exts: Sequence[str]) -> list[str]:
    paths = ImageDataset(path, exts).paths
    if not paths:
        raise ValueError(f"path: expected images in {path} with an extension of {', '.join(exts)}, found none")
    return paths


def _measure(
    images: Any, fid_ref: str | None, splits: int | None, use_torch: bool, options: dict[str, Any]
) -> tuple[Any, Any]:
    """((mean, std) of the Inception Score, FID), each None where it was not asked for."""
    unknown = sorted(set(options) - {"batch_size", "verbose", "device", "allow_pickle"})
    if unknown:
        raise TypeError(f"expected the keywords batch_size, verbose and device, got {', '.join(unknown)}")
    real = None
    if fid_ref is not None:  # now: what is wrong with it is said before the work
        pickles = options.get("allow_pickle", False)
        real = load_reference(fid_ref, preset=PRESET, feature_dim=2048, allow_pickle=pickles)
    taps = [*(["2048"] if fid_ref is not None else []), *(["logits_unbiased"] if splits is not None else [])]
    features = _features(images, taps, options)
    score, fid = None, None
    if splits is not None:
        found = inception_score(features["logits_unbiased"], splits=splits, shuffle=False)
        score = (found.mean, float(found.values.std(ddof=1 if use_torch else 0)))  # torch.std's, as there
    if real is not None:
        made = real.metadata
        generated = fidfast.FeatureStatistics(2048, preset=PRESET, precision="fp32", weights=made.weights)
        generated.update(features["2048"])
        fid = float(fidfast.compute_fid(real, generated, preset=PRESET))
    return score, fid


def _features(images: Any, taps: Sequence[str], options: dict[str, Any]) -> dict[str, Tensor]:
    """Of all ranks' images, in the order of the whole set: each rank computes its share."""
    ranks = Ranks()
    total: int | None = None
    if ranks.size > 1:
        if isinstance(images, DataLoader) and isinstance(images.sampler, DistributedSampler):
            total = len(images.dataset)  # type: ignore[arg-type]
        elif not isinstance(images, DataLoader):
            total = len(images)
            images = images[ranks.rank :: ranks.size]
    features = fidfast.compute_features(
        images,
        taps=tuple(taps),
        preset=PRESET,
        batch_size=options.get("batch_size", 50),
        device=options.get("device"),
        progress=options.get("verbose", False),
        value_range=(0, 1),
        quantize=None,
    )
    if total is None:
        return features
    counts = [len(range(rank, total, ranks.size)) for rank in range(ranks.size)]  # without the sampler's padding
    meeting = f"compat/pytorch_image_generation_metrics/{next(_meetings)}"
    ranks.meet(meeting, {"number of images": total, "taps": list(taps)})
    joined = {}
    for tap, rows in features.items():
        parts = ranks.gather_rows(rows[: counts[ranks.rank]], counts)
        whole = rows.new_empty(total, rows.shape[1])
        for rank, part in enumerate(parts):
            whole[rank :: ranks.size] = part
        joined[tap] = whole
    ranks.leave(meeting)
    return joined
