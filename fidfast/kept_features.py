"""Features of one pass for several measures: sums for the Fréchet distances, the float32 rows themselves for others."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import torch
from torch import Tensor

from fidfast.accumulate import Accumulator
from fidfast.distributed import Ranks
from fidfast.moments import check_features

_BLOCK_ROWS = 1024
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0x9E3779B97F4A7C15)


class KeptRows:
    """Float32 rows (N, D) with their global indices: all, or ``cap`` of them chosen by index alone.

    A row's key is a hash of its index and the seed, and the ``cap`` smallest keys stay: a uniform sample without
    replacement, the same whatever the batches and the number of ranks. Memory: N · D · 4 bytes, or 4 · cap · D · 4; on
    a GPU for a moment twice the first, and on several ranks, where the rows meet, three times.
    """

    def __init__(self, cap: int | None = None, seed: int = 0) -> None:
        self.cap, self.seed = cap, seed
        self._rows: list[Tensor] = []
        self._indices: list[np.ndarray] = []
        self._count = 0
        self._whole = 0  # how many of the list are blocks; after them the rows of small batches

    def add(self, rows: Tensor, indices: np.ndarray) -> None:  # (n, D), (n,) int64
        self._rows.append(rows)
        self._indices.append(indices)
        self._count += len(rows)
        small = self._rows[self._whole :]
        if sum(map(len, small)) >= _BLOCK_ROWS:  # thousands of small tensors would leave no room between them
            self._rows[self._whole :] = [torch.cat(small)]
            self._indices[self._whole :] = [np.concatenate(self._indices[self._whole :])]
            self._whole += 1
        if self.cap is not None and self._count >= 2 * max(self.cap, len(rows)):
            self._choose()

    def all_ranks(self, ranks: Ranks) -> Tensor:  # (N, D) float32
        """The rows of all ranks in the order of their indices; some rank must have one. Empties this object."""
        self._choose()
        counts = ranks.exchange([self._count, self._rows[0].shape[1] if self._rows else 0])
        width = max(width for _, width in counts)
        rows = self._rows[0] if self._rows else torch.zeros(0, width, dtype=torch.float32, device=ranks.device)
        indices = self._indices[0] if self._indices else np.zeros(0, dtype=np.int64)
        self._rows, self._indices, self._count = [], [], 0
        numbers = [count for count, _ in counts]
        gathered = ranks.gather_rows(torch.from_numpy(indices), numbers)
        self._indices = [part.numpy() for part in gathered]
        self._rows, self._count = ranks.gather_rows(rows, numbers), sum(numbers)
        del rows
        self._choose()
        return self._rows.pop()

    def _choose(self) -> None:
        """Down to one block, in the order of the indices, of at most ``cap`` rows."""
        if not self._rows:
            return
        indices = np.concatenate(self._indices)
        order = np.argsort(indices, kind="stable")
        if self.cap is not None and len(order) > self.cap:
            chosen = np.argpartition(_keys(indices, self.seed), self.cap)[: self.cap]
            order = chosen[np.argsort(indices[chosen], kind="stable")]
        if len(self._rows) > 1 or not np.array_equal(order, np.arange(len(indices))):
            place = np.full(len(indices), -1)  # of each row, where it stays
            place[order] = np.arange(len(order))
            chosen_rows = self._rows[-1].new_empty(len(order), self._rows[-1].shape[1])
            for to in np.split(place, np.cumsum([len(rows) for rows in self._rows])[:-1]):
                rows = self._rows.pop(0)  # its memory goes as that of the others is filled
                here, there = (torch.from_numpy(at).to(rows.device) for at in (np.flatnonzero(to >= 0), to[to >= 0]))
                chosen_rows[there] = rows[here]
            self._rows, indices = [chosen_rows], indices[order]
        self._indices, self._count, self._whole = [indices], len(indices), 1


def _keys(indices: np.ndarray, seed: int) -> np.ndarray:  # (n,) uint64
    """splitmix64 of each index, from a place that the seed decides: different for different indices."""
    with np.errstate(over="ignore"):
        x = indices.astype(np.uint64) + np.uint64(seed % 2**64) * np.uint64(_MIX[2]) + np.uint64(_MIX[2])
        x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX[0])
        x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX[1])
        return x ^ (x >> np.uint64(31))


class TapAccumulator(Accumulator):
    """An :class:`Accumulator` of one tap, beside it one of "spatial", and rows of the taps that are to be kept.

    Args:
        split: of the extractor: features (N, D) → each tap's.
        tap: whose statistics these are.
        keep: taps whose rows are kept.
        cap, seed: see :class:`KeptRows`.
        spatial: the accumulator of the "spatial" tap, where that is wanted.
    """

    def __init__(
        self,
        split: Callable[[Tensor], dict[str, Tensor]],
        tap: str,
        *,
        keep: Collection[str] = (),
        cap: int | None = None,
        seed: int = 0,
        spatial: Accumulator | None = None,
        groups: int = 1,
        shift: Tensor | None = None,
    ) -> None:
        super().__init__(groups=groups, shift=shift)
        self.split, self.tap, self.spatial = split, tap, spatial
        self.kept = {name: KeptRows(cap, seed) for name in keep}

    def add(
        self, features: Tensor, hashes: Tensor, indices: Tensor | None = None, *, finite: Tensor | None = None
    ) -> None:
        """Add images: all taps beside each other (N, D), hashes (N, 2) int64, indices (N,) int64, finite (N,) bool."""
        taps = self.split(features)
        for name in self.kept:
            taps[name] = check_features(taps[name], taps[name].shape[1], len(self), finite)
        places = torch.arange(len(self), len(self) + len(features), device="cpu") if indices is None else indices
        super().add(taps[self.tap], hashes, indices, finite=finite)
        if self.spatial is not None:
            self.spatial.add(taps["spatial"], hashes, indices, finite=finite)
        for name, rows in self.kept.items():
            rows.add(taps[name].clone(), places.numpy())


class RowsOnly:
    """Takes what a pass gives and keeps the features alone."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(
        self, features: Tensor, hashes: Tensor, indices: Tensor | None = None, *, finite: Tensor | None = None
    ) -> None:
        """Add features (N, D) of any float type, all finite."""
        self.rows.append(check_features(features, features.shape[1], self._count, finite))
        self._count += len(features)
