"""StyleGAN2's and 3's ``FeatureStats``: features or their sums, and the pickles that hold them."""

from __future__ import annotations

import os
import pickle
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fidfast
from fidfast.statistics_io import written_whole


class FeatureStats:
    """Features (N, D) as they come: all of them, or their raw sums, of at most ``max_items``.

    ``get_mean_cov`` divides by n, as StyleGAN does (ddof 0); every other tool divides by n - 1, and so does
    :meth:`statistics`. FIDs of the two conventions differ by about trace(Σ)/n.
    """

    def __init__(self, capture_all: bool = False, capture_mean_cov: bool = False, max_items: int | None = None) -> None:
        self.capture_all, self.capture_mean_cov, self.max_items = capture_all, capture_mean_cov, max_items
        self.num_items = 0
        self.num_features: int | None = None
        self.all_features: list[np.ndarray] | None = None
        self.raw_mean: np.ndarray | None = None  # (D,) float64, Σ x
        self.raw_cov: np.ndarray | None = None  # (D, D) float64, Σ x xᵀ

    def set_num_features(self, num_features: int) -> None:
        if self.num_features is None:
            self.num_features, self.all_features = num_features, []
            self.raw_mean, self.raw_cov = np.zeros(num_features), np.zeros((num_features, num_features))
        elif num_features != self.num_features:
            raise ValueError(f"x: expected {self.num_features} features as before, got {num_features}")

    def is_full(self) -> bool:
        return self.max_items is not None and self.num_items >= self.max_items

    def append(self, x: Any) -> None:  # (N, D)
        """Add rows; those beyond ``max_items`` are left out."""
        rows = np.asarray(x, dtype=np.float32)
        if rows.ndim != 2:
            raise ValueError(f"x: expected features (N, D), got shape {rows.shape}")
        if self.max_items is not None:
            rows = rows[: max(0, self.max_items - self.num_items)]
        if not len(rows):
            return
        self.set_num_features(rows.shape[1])
        self.num_items += len(rows)
        if self.capture_all:
            self.all_features.append(rows)  # type: ignore[union-attr]
        if self.capture_mean_cov:
            exact = rows.astype(np.float64)
            self.raw_mean += exact.sum(axis=0)
            self.raw_cov += exact.T @ exact

    def append_torch(self, x: Tensor, num_gpus: int = 1, rank: int = 0) -> None:  # (N, D)
        """Add the rows of all ranks, interleaved: row i of rank 0, of rank 1, …; a collective."""
        if num_gpus > 1:
            parts = [torch.empty_like(x) for _ in range(num_gpus)]
            torch.distributed.all_gather(parts, x.contiguous())
            x = torch.stack(parts, dim=1).flatten(0, 1)
        self.append(x.detach().cpu().numpy())

    def get_all(self) -> np.ndarray:  # (n, D) float32
        if not self.capture_all or not self.all_features:
            raise ValueError("get_all: expected features captured with capture_all=True, got none")
        return np.concatenate(self.all_features)

    def get_all_torch(self) -> Tensor:
        return torch.from_numpy(self.get_all())

    def get_mean_cov(self) -> tuple[np.ndarray, np.ndarray]:
        """(D,) and (D, D), the covariance divided by n as StyleGAN's own."""
        if not self.capture_mean_cov or self.raw_mean is None or self.raw_cov is None:
            raise ValueError("get_mean_cov: expected sums captured with capture_mean_cov=True, got none")
        mean = self.raw_mean / self.num_items
        return mean, self.raw_cov / self.num_items - np.outer(mean, mean)

    def statistics(self) -> fidfast.FeatureStatistics:
        """The same as statistics of preset "tensorflow", unbiased (ddof 1): for every other tool."""
        if self.capture_all:
            made = fidfast.FeatureStatistics(self.get_all().shape[1], preset="tensorflow")
            made.update(self.get_all())
            return made
        mean, biased = self.get_mean_cov()
        if self.num_items < 2:
            raise fidfast.StatisticsError(f"num_items: a covariance needs at least 2 samples, got {self.num_items}")
        unbiased = biased * (self.num_items / (self.num_items - 1))
        return fidfast.FeatureStatistics.from_moments(mean, unbiased, self.num_items, preset="tensorflow")

    def save(self, pkl_file: str | os.PathLike[str]) -> None:
        """The pickle that StyleGAN's own ``load`` reads."""
        with written_whole(pkl_file) as file:
            pickle.dump(self.__dict__, file)

    @staticmethod
    def load(pkl_file: str | os.PathLike[str], *, allow_pickle: bool = False) -> FeatureStats:
        """Of a file that this or StyleGAN's ``save`` wrote. Loading a pickle runs code: only those you trust."""
        if not allow_pickle:
            raise fidfast.StatisticsError(
                f"{pkl_file}: this is a pickle, which can run any code when it is loaded; if you trust its author, "
                "pass allow_pickle=True"
            )
        with open(pkl_file, "rb") as file:
            try:
                state = pickle.load(file)
            except Exception as error:  # what a damaged or foreign pickle raises is anybody's guess
                raise fidfast.StatisticsError(
                    f"{pkl_file}: the pickle cannot be read: truncated or damaged ({error!r})"
                ) from error
        made = FeatureStats()
        missing = set(vars(made)) - (set(state) if isinstance(state, dict) else set())
        if missing:
            raise fidfast.StatisticsError(
                f"{pkl_file}: expected StyleGAN's FeatureStats, got none of {', '.join(sorted(missing))}"
            )
        made.__dict__.update(state)
        return made
