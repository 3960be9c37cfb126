"""Mean and covariance of features: streamed, merged exactly, saved where every other tool can read them."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fidfast.factors import Factor, covariance_factor, rows_factor
from fidfast.metadata import StatisticsMetadata, compare_metadata, join_metadata, parse_metadata
from fidfast.moments import (
    StatisticsError,
    Sums,
    add_rows,
    centre_rows,
    check_features,
    check_moments,
    check_shift,
    combine,
    moments_of_sums,
    sums_of_moments,
    zero_sums,
)
from fidfast.ops import mirror_lower
from fidfast.statistics_io import is_statistics_file, read_statistics, write_statistics

__all__ = ["FeatureStatistics", "StatisticsError", "StatisticsMetadata", "check_comparable", "is_statistics_file"]

# Rows are added to the sums in blocks, so that the sums do not depend on how the caller batches. A block is at least
# 512 rows (a product with fewer is bound by the traffic of the sums) and holds all rows while they are few.
_BLOCK_ROWS = 512


class FeatureStatistics:
    """Mean and unbiased covariance of a stream of features, in float64 whatever autocast and the default dtype say.

    The sums are bit-equal however the rows are split into updates. While n ≤ D the float32 rows themselves are kept
    (``features``), because the distance is then cheaper and more exact; memory never grows with n. Lives on the device
    of the first features; MPS, which has no float64, hands over to the CPU. Picklable, deep-copyable, not thread-safe.

    Args:
        feature_dim: D.
        shift: (D,) subtracted from every row before it is squared, such as the reference's mean; default: the mean of
            the first 512 rows.
        preset, precision, weights: what makes the features, kept with them; see :class:`StatisticsMetadata`.
    """

    def __init__(
        self,
        feature_dim: int,
        *,
        shift: Tensor | np.ndarray | None = None,
        preset: str | None = None,
        precision: str | None = None,
        weights: str | None = None,
    ) -> None:
        if not isinstance(feature_dim, int) or isinstance(feature_dim, bool) or feature_dim < 1:
            raise StatisticsError(f"feature_dim: expected a whole number of at least 1, got {feature_dim!r}")
        from fidfast import __version__

        self.metadata = StatisticsMetadata(feature_dim, preset, precision, weights, version=__version__)
        self.source = "statistics"  # what messages call it: the file it came from
        # (U, 2) int64: the different content hashes of the images behind the features, in order, where they are known
        self.content_hashes: np.ndarray | None = None
        self._shift: Tensor | None = None if shift is None else check_shift(shift, feature_dim)  # (D,) float32
        self._sums: Sums | None = None
        self._given: tuple[int | None, Tensor, Tensor] | None = None  # n, mu, sigma of a file, in the place of sums
        self._rows: Tensor | None = None  # (block, D) float32, the rows not yet in the sums
        self._filled = 0
        self._moments: tuple[Tensor, Tensor] | None = None
        self._mean: Tensor | None = None
        self._factor: Factor | None = None

    @classmethod
    def from_moments(
        cls,
        mu: Tensor | np.ndarray,  # (D,)
        sigma: Tensor | np.ndarray,  # (D, D), unbiased
        num_samples: int | None = None,
        *,
        preset: str | None = None,
        precision: str | None = None,
        weights: str | None = None,
    ) -> FeatureStatistics:
        """Statistics of known mean and covariance; without ``num_samples`` they can be compared but not merged."""
        mean, covariance = check_moments(mu, sigma)
        if num_samples is not None and num_samples < 2:
            raise StatisticsError(f"num_samples: a covariance needs at least 2 samples, got {num_samples}")
        made = cls(mean.shape[0], preset=preset, precision=precision, weights=weights)
        made._given = (num_samples, mean.detach().clone(), covariance.detach().clone())
        return made

    @property
    def feature_dim(self) -> int:
        return self.metadata.feature_dim

    @property
    def num_samples(self) -> int | None:
        """How many rows were seen; None if another tool's file does not say."""
        if self._given is not None:
            count = self._given[0]
            return None if count is None else count + self._filled
        return self._filled + (0 if self._sums is None else self._sums.count)

    @property
    def mu(self) -> Tensor:
        """(D,) float64. Shared, not a copy."""
        rows = self._kept_rows()
        if rows is None or self._moments is not None:
            return self._current_moments()[0]
        self._require_two()
        if self._mean is None:  # without the covariance, which the distance between rows does not need
            with torch.inference_mode(False), torch.no_grad():
                self._mean = centre_rows(rows)[0]
        return self._mean

    @property
    def sigma(self) -> Tensor:
        """(D, D) float64, unbiased (n-1). Shared, not a copy."""
        return self._current_moments()[1]

    @property
    def keeps_features(self) -> bool:
        """Whether ``features`` holds all rows, as it does while n ≤ D."""
        return self._kept_rows() is not None

    @property
    def features(self) -> Tensor | None:
        """(n, D) float32, all rows in the order they came, while n ≤ D; else None."""
        rows = self._kept_rows()
        return None if rows is None else rows.clone()

    def update(self, features: Tensor | np.ndarray) -> None:
        """Add features (N, D), of any float type; they are taken in float32, as networks give them.

        Raises:
            StatisticsError: wrong shape or dtype; a row with NaN or infinity. Nothing of the batch is then added.
        """
        if self._given is not None and self._given[0] is None:
            raise StatisticsError(f"{self.source}: nothing can be added, the number of samples is not known")
        with torch.inference_mode(False), torch.no_grad():
            batch = check_features(features, self.feature_dim, self.num_samples or 0)
            self._append(batch.to(self._device(batch.device)))
            self.content_hashes = None

    def merge(self, other: FeatureStatistics) -> None:
        """Add another's samples to these: exact for any two (Chan, Golub and LeVeque 1979)."""
        check_comparable(self, other)
        other = copy.deepcopy(other) if other is self else other
        for side in (self, other):
            if side.num_samples is None:
                raise StatisticsError(
                    f"{side.source}: cannot be merged, the file does not say how many samples it is of"
                )
        if other.num_samples == 0:
            return
        hashes = None if self.num_samples else other.content_hashes
        if self.content_hashes is not None and other.content_hashes is not None:
            hashes = np.unique(np.concatenate([self.content_hashes, other.content_hashes]), axis=0)
        with torch.inference_mode(False), torch.no_grad():
            sums, device = other._own_sums(), self._device(other._device())
            if sums is not None:
                mine, sums = self._own_sums(), sums.copied_to(device)
                self._sums, self._given = sums if mine is None else combine(mine, sums), None
            self._changed()
            if other._rows is not None and other._filled:
                self._append(other._rows[: other._filled].to(device))
        self.metadata, self.content_hashes = join_metadata(self.metadata, other.metadata), hashes

    def factor(self) -> Factor:
        """F with sigma = F Fᵀ, kept until a change: centred rows while n ≤ D, else Cholesky or clipped eigenvectors."""
        if self._factor is None:
            rows = self._kept_rows()
            self._require_two()
            with torch.inference_mode(False), torch.no_grad():
                self._factor = covariance_factor(self.sigma, self.source) if rows is None else rows_factor(rows)
        return self._factor

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write an ``.npz``, whole or not at all; returns where. Other tools read its mu and sigma.

        Beside these: num_samples, the metadata as JSON (``fidfast``), the images' ``content_hashes`` where they are
        known and, while n ≤ D, the rows (``features``).
        """
        arrays = {
            "mu": self.mu.cpu().numpy(),
            "sigma": self.sigma.cpu().numpy(),
            "fidfast": np.array(json.dumps(asdict(self.metadata))),
        }
        rows = self._kept_rows()
        if self.num_samples is not None:
            arrays["num_samples"] = np.array(self.num_samples, dtype=np.int64)
        if rows is not None:
            arrays["features"] = rows.cpu().numpy()
        if self.content_hashes is not None:
            arrays["content_hashes"] = self.content_hashes
        return write_statistics(path, arrays)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        preset: str | None = None,
        feature_dim: int | None = None,
        allow_pickle: bool = False,
    ) -> FeatureStatistics:
        """Read a statistics file of fidfast or of another tool, onto the CPU.

        Args:
            preset: what the statistics must be made with; a file that does not say is taken as this, with a warning.
            feature_dim: the D they must have.
            allow_pickle: also read pickles, which run code: only from those you trust.

        Raises:
            StatisticsError: naming the file and what is wrong with it.
        """
        stored = read_statistics(path, allow_pickle=allow_pickle)
        name, size = str(path), stored.mu.shape[0]
        if feature_dim is not None and size != feature_dim:
            raise StatisticsError(f"{name}: expected statistics of {feature_dim} features, got {size}")
        loaded = cls(size)
        loaded._given, loaded.source = (stored.num_samples, stored.mu, stored.sigma), name
        if stored.metadata is not None:
            loaded.metadata = stored.metadata
            made_with = stored.metadata.preset
            if None not in (preset, made_with) and preset != made_with:
                raise StatisticsError(f"{name}: expected preset {preset!r}, got statistics of {made_with!r}")
        else:
            loaded.metadata = replace(loaded.metadata, preset=preset, version=None)
            if preset is not None:
                warnings.warn(f"{name} does not say how it was made; it is taken as preset {preset!r}", stacklevel=2)
        if stored.features is not None:
            loaded._given = None
            loaded._append(stored.features)
        loaded.content_hashes = stored.content_hashes
        return loaded

    def state_dict(self) -> dict[str, Any]:
        """Everything, exactly, as tensors, numbers, strings and None; rows not yet in the sums included."""
        sums = None if self._sums is None else self._sums.copied_to(self._device())
        return {
            "metadata": asdict(self.metadata),
            "shift": self._shift,
            "rows": None if self._rows is None else self._rows[: self._filled].clone(),
            "sums": None if sums is None else [sums.count, sums.shift, sums.total, sums.scatter],
            "given": None if self._given is None else list(self._given),
            "source": self.source,
            "content_hashes": None if self.content_hashes is None else torch.from_numpy(self.content_hashes.copy()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; the feature dimension must be the same."""
        missing = {"metadata", "shift", "rows", "sums", "given", "source"} - set(state)
        if missing:
            raise StatisticsError(
                f"state: expected the keys of state_dict(), got none named {', '.join(sorted(missing))}"
            )
        metadata = parse_metadata(state["metadata"], self.feature_dim, "state")
        self.metadata, self.source, self._shift = metadata, state["source"], state["shift"]
        with torch.inference_mode(False):
            self._sums = None if state["sums"] is None else Sums(*state["sums"]).copied_to(None)
        self._given = None if state["given"] is None else tuple(state["given"])
        self._rows, self._filled = None, 0
        self._changed()
        hashes = state.get("content_hashes")
        self.content_hashes = None if hashes is None else hashes.cpu().numpy().copy()
        if state["rows"] is not None and len(state["rows"]):
            with torch.inference_mode(False), torch.no_grad():
                self._append(state["rows"])

    def __getstate__(self) -> dict[str, Any]:
        return self.state_dict()

    def __setstate__(self, state: dict[str, Any]) -> None:
        FeatureStatistics.__init__(self, state["metadata"]["feature_dim"])
        self.load_state_dict(state)

    def describe(self) -> dict[str, Any]:
        """What ``fidfast inspect`` prints: counts, metadata, and the size of mean and covariance."""
        self._require_two()
        return {
            "num_samples": self.num_samples,
            **asdict(self.metadata),
            "keeps_features": self.keeps_features,
            "mean_norm": float(torch.linalg.vector_norm(self.mu)),
            "total_variance": float(self.sigma.diagonal().sum()),
        }

    def __repr__(self) -> str:
        made = ", ".join(
            f"{field.name}={value!r}"
            for field in fields(self.metadata)
            if field.name in ("preset", "precision") and (value := getattr(self.metadata, field.name)) is not None
        )
        size = self.feature_dim
        kept = f", features ({self._filled}, {size})" if self.keeps_features else ""
        return (
            f"FeatureStatistics(n={self.num_samples}, mu ({size},), sigma ({size}, {size}){kept}"
            f"{', ' if made else ''}{made})"
        )

    def _current_moments(self) -> tuple[Tensor, Tensor]:
        if self._moments is None:
            self._require_two()
            with torch.inference_mode(False), torch.no_grad():
                if self._given is not None and not self._filled:
                    self._moments = self._given[1:]
                else:
                    self._moments = self._compute_moments()
        return self._moments

    def _compute_moments(self) -> tuple[Tensor, Tensor]:
        sums, pending = self._own_sums(), self._filled
        if sums is None:
            if self._rows is None:
                raise StatisticsError(f"{self.source}: no samples yet")
            mean, centred = centre_rows(self._rows[:pending])
            return mean, mirror_lower(centred.T @ centred / (pending - 1))
        if self._rows is not None and pending:
            sums = add_rows(sums, self._rows[:pending], in_place=False)
        return moments_of_sums(sums)

    def _own_sums(self) -> Sums | None:
        if self._given is None:
            return self._sums
        count, mean, covariance = self._given
        if count is None:
            raise StatisticsError(f"{self.source}: the number of samples is not known")
        return sums_of_moments(count, mean, covariance * (count - 1))

    def _append(self, batch: Tensor) -> None:  # (N, D) float32, finite
        """Copy rows into the block; a full one goes into the sums when the next row comes."""
        start = 0
        while start < len(batch):
            if self._rows is None:
                blocks = -(-self.feature_dim // _BLOCK_ROWS)
                self._rows = torch.empty(
                    blocks * _BLOCK_ROWS, self.feature_dim, dtype=torch.float32, device=batch.device
                )
            if self._filled == len(self._rows):
                self._flush(self._rows)
            size = min(len(self._rows) - self._filled, len(batch) - start)
            self._rows[self._filled : self._filled + size] = batch[start : start + size]
            self._filled += size
            start += size
        self._changed()

    def _flush(self, rows: Tensor) -> None:
        sums, owned = self._own_sums(), self._given is None
        if sums is None:
            shift = rows[:_BLOCK_ROWS].double().mean(dim=0) if self._shift is None else self._shift
            sums = zero_sums(shift.to(rows))
        self._sums, self._given = add_rows(sums, rows, in_place=owned), None
        self._filled = 0

    def _kept_rows(self) -> Tensor | None:  # (n, D) float32
        if self._sums is not None or self._given is not None or self._filled > self.feature_dim or self._rows is None:
            return None
        return self._rows[: self._filled]

    def _require_two(self) -> None:
        count = self.num_samples
        if count is not None and count < 2:
            raise StatisticsError(f"{self.source}: a covariance needs at least 2 samples, got {count}")

    def _device(self, default: torch.device | None = None) -> torch.device:
        held = self._rows if self._rows is not None else self._sums.total if self._sums is not None else None
        if held is None and self._given is not None:
            held = self._given[1]
        device = held.device if held is not None else default or torch.device("cpu")
        return torch.device("cpu") if device.type == "mps" else device

    def _changed(self) -> None:
        self._moments = self._mean = self._factor = None


def check_comparable(first: FeatureStatistics, second: FeatureStatistics) -> None:
    """Refuse to compare or merge statistics of different features; warn where the precision differs or is not known.

    Raises:
        StatisticsError: naming which of feature_dim, preset and weights differs.
    """
    compare_metadata(first.metadata, second.metadata, (first.source, second.source))
