"""denoising_diffusion_pytorch.fid_evaluation: the FID inside that package's Trainer, which needs no change.

``fidfast.compat.install("denoising_diffusion_pytorch")`` before the Trainer is made. The statistics of the real images
are kept in the same file under the same names, with what they were made of: other data, another size or another block
means that they are made again. Features are summed as they come; none are stacked in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from tqdm.auto import tqdm

from fidfast import FeatureStatistics, FidfastWarning, StatisticsError
from fidfast.compat.pytorch_fid.inception import InceptionV3
from fidfast.frechet import statistics_distance
from fidfast.precision import undisturbed
from fidfast.statistics_io import write_statistics


def num_to_groups(num: int, divisor: int) -> list[int]:
    """`num` in parts of `divisor`, and the rest."""
    rest = num % divisor
    return [divisor] * (num // divisor) + ([rest] if rest else [])


class FIDEvaluation:
    """The FID of ``sampler.sample(batch_size=n)``, images in [0, 1], against batches of real images.

    Args:
        batch_size: of sampling.
        dl: iterator of real batches (N, C, H, W) in [0, 1], as Trainer makes it.
        sampler: has eval() and sample(batch_size=).
        channels: 1 (repeated to 3) or 3.
        accelerator: whose print is used.
        stats_dir: where dataset_stats.npz is kept.
        num_fid_samples: how many are generated, and at least how many real images are read.
        inception_block_idx: 64, 192, 768 or 2048.
    """

    def __init__(
        self,
        batch_size: int,
        dl: Iterator[Tensor],
        sampler: Any,
        channels: int = 3,
        accelerator: Any = None,
        stats_dir: Any = "./results",
        device: Any = "cuda",
        num_fid_samples: int = 50000,
        inception_block_idx: int = 2048,
    ) -> None:
        if inception_block_idx not in InceptionV3.BLOCK_INDEX_BY_DIM:
            known = ", ".join(map(str, InceptionV3.BLOCK_INDEX_BY_DIM))
            raise ValueError(f"inception_block_idx: expected one of {known}, got {inception_block_idx!r}")
        self.batch_size = batch_size
        self.n_samples = num_fid_samples
        self.device = device
        self.channels = channels
        self.dl = dl
        self.sampler = sampler
        self.stats_dir = stats_dir
        self.print_fn: Callable[..., Any] = print if accelerator is None else accelerator.print
        self.inception_v3 = InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[inception_block_idx]]).to(device)
        self.dataset_stats_loaded = False
        self._dims = inception_block_idx
        self._real: FeatureStatistics | None = None

    def calculate_inception_features(self, samples: Tensor) -> Tensor:  # (N, C, H, W) -> (N, D)
        if self.channels == 1:
            samples = samples.expand(-1, 3, -1, -1)
        return self.inception_v3.pooled(samples)

    def load_or_precalc_dataset_stats(self) -> None:
        """Set m2 (D,) and s2 (D, D) of the real images, from the file if it is of these images."""
        path = Path(os.path.join(self.stats_dir, "dataset_stats.npz"))
        made_of = self._made_of()
        stored = self._stored(path, made_of)
        if stored is not None:
            self._real = stored
            self.print_fn("Dataset stats loaded from disk.")
        else:
            self.print_fn(f"Stacking Inception features for {self.n_samples} samples from the real dataset.")
            path.parent.mkdir(parents=True, exist_ok=True)  # now, not after the work
            self._real = self._statistics_of(self._real_batches(), math.ceil(self.n_samples / self.batch_size))
            arrays = {
                "m2": self._real.mu.cpu().numpy(),
                "s2": self._real.sigma.cpu().numpy(),
                "num_samples": np.array(self._real.num_samples),
                "made_of": np.array(json.dumps(made_of)),
            }
            write_statistics(path, arrays)
            said = os.path.join(self.stats_dir, "dataset_stats")  # "./results" stays "./results"
            self.print_fn(f"Dataset stats cached to {said}.npz for future use.")
        self.m2, self.s2 = self._real.mu.cpu().numpy(), self._real.sigma.cpu().numpy()
        self.dataset_stats_loaded = True

    @torch.inference_mode()
    def fid_score(self) -> np.float64:
        """The FID of n_samples new images."""
        if not self.dataset_stats_loaded:
            self.load_or_precalc_dataset_stats()
        real = FeatureStatistics.from_moments(self.m2, self.s2) if self._real is None else self._real
        self.sampler.eval()
        self.print_fn(f"Stacking Inception features for {self.n_samples} generated samples.")
        groups = num_to_groups(self.n_samples, self.batch_size)
        generated = self._statistics_of((self.sampler.sample(batch_size=count) for count in groups), len(groups))
        return np.float64(statistics_distance(generated, real).value)

    def _real_batches(self) -> Iterator[Tensor]:
        for _ in range(math.ceil(self.n_samples / self.batch_size)):
            try:
                batch = next(self.dl)
            except StopIteration:
                return
            yield batch.to(self.device)

    def _statistics_of(self, batches: Iterator[Tensor], count: int) -> FeatureStatistics:
        statistics = FeatureStatistics(self._dims)
        for batch in tqdm(batches, total=count):
            statistics.update(self.calculate_inception_features(batch))
        return statistics

    def _made_of(self) -> dict[str, Any]:
        """What the statistics depend on, as JSON; "data" is None where it cannot be told what `dl` reads."""
        loader: Any = self.dl
        if inspect.isgenerator(loader):  # Trainer's cycle(dl)
            found = [value for value in inspect.getgeneratorlocals(loader).values() if isinstance(value, DataLoader)]
            loader = found[0] if found else loader
        dataset = getattr(loader, "dataset", getattr(loader, "_dataset", None))  # of a loader, of its iterator
        data = image = None
        if dataset is not None and not isinstance(dataset, IterableDataset):
            with contextlib.suppress(Exception):  # anybody's class: what cannot be looked at is not known
                data = _fingerprint(dataset)
                image = self._image_shape(dataset)
        return {
            "data": data,
            "image": image,
            "block": self._dims,
            "channels": self.channels,
            "samples": math.ceil(self.n_samples / self.batch_size) * self.batch_size,
        }

    def _image_shape(self, dataset: Any) -> list[int] | None:
        with undisturbed(torch.device(self.device)):  # a random flip must not change what is trained on next
            item = dataset[0]
        item = item[0] if isinstance(item, (tuple, list)) else item
        return list(item.shape) if isinstance(item, Tensor) else None

    def _stored(self, path: Path, made_of: dict[str, Any]) -> FeatureStatistics | None:
        """The statistics in the file, where they are of these images; else what they lack is said."""
        if not path.is_file():
            return None
        try:
            statistics = FeatureStatistics.load(path, feature_dim=self._dims)
            with np.load(path) as archive:
                stored = json.loads(str(archive["made_of"])) if "made_of" in archive.files else None
        except (StatisticsError, ValueError) as error:
            self.print_fn(f"{path} is made again: {error}")
            return None
        if stored is None:
            warnings.warn(
                f"{path} does not say of which images it is; it is taken as those of this run. Delete it to be sure.",
                FidfastWarning,
                stacklevel=4,
            )
            return statistics
        changed = [name for name, value in made_of.items() if value is None or stored.get(name) != value]
        if changed:
            self.print_fn(f"{path} is made again: it is not known to be of the same {', '.join(changed)}.")
            return None
        return statistics


def _fingerprint(dataset: Any) -> str | None:
    """sha256 of a map dataset's files (path, size, time of change) or tensors, and of its settings as they print
    themselves; None if it shows neither files nor tensors."""
    digest, has_data = hashlib.sha256(f"{type(dataset).__qualname__} {len(dataset)}".encode()), False
    for name, value in sorted(vars(dataset).items()):
        digest.update(f"\n{name}".encode())
        if isinstance(value, np.ndarray) and value.dtype.kind in "OUS":  # paths, or pointers to anything
            value = value.tolist()
        for item in value if isinstance(value, (list, tuple)) else [value]:
            first = item[0] if isinstance(item, tuple) and item else item  # torchvision's (path, class)
            if isinstance(first, (Tensor, np.ndarray)):
                _digest_numbers(digest, first)
                has_data = True
                continue
            digest.update(re.sub(r" at 0x[0-9a-f]+", "", f"\n{item!r}").encode())
            if isinstance(first, (str, os.PathLike)) and os.path.isfile(first):
                status = os.stat(first)
                digest.update(f" {status.st_size} {status.st_mtime_ns}".encode())
                has_data = True
    return digest.hexdigest() if has_data else None


def _digest_numbers(digest: Any, numbers: Tensor | np.ndarray) -> None:
    """In parts of 64 MB: a mapped file need not fit in memory, nor other numbers once more."""
    digest.update(f"{numbers.dtype} {tuple(numbers.shape)}".encode())
    numbers = numbers if numbers.ndim else numbers.reshape(1)
    rows = max(1, 2**26 * len(numbers) // max(1, numbers.nbytes))
    for start in range(0, len(numbers), rows):
        part = numbers[start : start + rows]
        if isinstance(part, Tensor):
            part = part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8))
