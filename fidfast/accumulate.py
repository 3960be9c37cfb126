"""One side of an evaluation: the pass over its images on this rank, then the sums, rows and hashes of all ranks."""

from __future__ import annotations

import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fidfast.distributed import Ranks, name_ranks
from fidfast.duplicates import ContentHashes
from fidfast.features import CallableExtractor, FeatureExtractor
from fidfast.groups import TAIL_ROWS, GroupedStatistics
from fidfast.images import ImageSource
from fidfast.landing import Landing
from fidfast.moments import Sums
from fidfast.ops.images_torch import with_places
from fidfast.statistics import FeatureStatistics, StatisticsError

Extractor = FeatureExtractor | CallableExtractor


@dataclass
class Side:
    """One side, of all ranks."""

    statistics: FeatureStatistics
    hashes: list[np.ndarray] | None = None  # of each rank, (n, 2) int64, where the images were seen
    group_counts: list[int] = field(default_factory=list)  # images in each group
    group_sums: Callable[[int | None], Sums] | None = None  # of this rank's images: one group, or (None) all
    eigenvalues: Tensor | None = None  # (D,) float64 of the covariance, once they were needed
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def all_hashes(self) -> np.ndarray | None:  # (n, 2) int64
        """Of images that were seen, else the different ones that a statistics file carries."""
        return np.concatenate(self.hashes) if self.hashes is not None else self.statistics.content_hashes


class Accumulator:
    """Features, content hashes and, where known, global indices of this rank's images: constant but for 24 bytes each.

    Args:
        groups: K, of the error bars; an image's group is its global index, or else its place on this rank, mod K.
        shift: (D,) to subtract from features before they are squared.
    """

    def __init__(self, *, groups: int = 1, shift: Tensor | None = None) -> None:
        self.groups, self.shift = groups, shift
        self.statistics: GroupedStatistics | None = None
        self.hashes = ContentHashes()
        self.indices: array[int] | None = None

    def __len__(self) -> int:
        return len(self.hashes)

    def add(
        self, features: Tensor, hashes: Tensor, indices: Tensor | None = None, *, finite: Tensor | None = None
    ) -> None:
        """Add images: features (N, D), hashes (N, 2) int64, indices (N,) int64; all of them or, on an error, none.

        finite: (N,) bool on the host, which features are; where it is not known, the device is asked and waited for.
        """
        if len(self) and (indices is None) != (self.indices is None):
            raise ValueError("index: expected in every update of an evaluation or in none; reset() begins another")
        statistics = self.statistics
        if statistics is None:
            if self.shift is not None and len(self.shift) != features.shape[1]:
                raise StatisticsError(
                    f"the feature_dim differs: expected {len(self.shift)} as of the real side, got {features.shape[1]}"
                )
            statistics = GroupedStatistics(features.shape[1], groups=self.groups, shift=self.shift)
        places = torch.arange(len(self), len(self) + len(features), device="cpu") if indices is None else indices
        statistics.add(features, places % self.groups, finite=finite)
        self.statistics = statistics
        self.hashes.extend(hashes)
        if indices is not None:
            self.indices = array("q") if self.indices is None else self.indices
            self.indices.extend(indices.tolist())

    def facts(self) -> dict[str, Any]:
        """What the other ranks must know of this one, as JSON types."""
        own = self.statistics
        return {
            "count": len(self),
            "held": 0 if own is None else own.num_held,
            "feature_dim": None if own is None else own.feature_dim,
            "indexed": self.indices is not None if len(self) else None,
        }

    def together(
        self, ranks: Ranks, facts: Sequence[Mapping[str, Any]], empty: Callable[[int], FeatureStatistics], name: str
    ) -> Side:
        """The side of all ranks, the same on each; after a meeting in which everybody gave its :meth:`facts`.

        Args:
            empty: feature_dim → statistics without samples, with the metadata.
            name: what messages call this side.
        """
        indexed = {one["indexed"] for one in facts if one["indexed"] is not None}
        if len(indexed) > 1:
            without = [rank for rank, one in enumerate(facts) if one["indexed"] is False]
            raise ValueError(
                f"{name}: index: expected from every rank or from none, got none from {name_ranks(without)}"
            )
        counts = [one["count"] for one in facts]
        table = np.full((len(self), 3), -1, dtype=np.int64)
        table[:, :2] = self.hashes.array()
        if self.indices is not None:
            table[:, 2] = self.indices
        tables = [part.numpy() for part in ranks.gather_rows(torch.from_numpy(table), counts)]
        keeps = [np.ones(count, dtype=bool) for count in counts]
        if True in indexed:
            keeps = keep_once([part[:, 2] for part in tables], [one["held"] for one in facts])
        tables = [part[keep] for part, keep in zip(tables, keeps, strict=True)]
        total = sum(map(len, tables))
        dims = [one["feature_dim"] for one in facts if one["feature_dim"] is not None]
        if total < 2:
            raise StatisticsError(f"{name}: a covariance needs at least 2 images, got {total}")
        own = self.statistics or GroupedStatistics(dims[0], groups=self.groups, shift=self.shift)
        keep = torch.from_numpy(keeps[ranks.rank][len(self) - own.num_held :])
        statistics = empty(dims[0])
        holds_all = all(one["count"] == one["held"] for one in facts)
        shift = _agreed_shift(own, ranks, counts)
        if holds_all and (ranks.size == 1 or total <= dims[0]):
            rows = torch.cat(ranks.gather_rows(own.held_rows(keep), [len(part) for part in tables]))
            if True in indexed:  # the rows in the same order, whatever the number of ranks
                order = np.argsort(np.concatenate([part[:, 2] for part in tables]), kind="stable")
                rows = rows[torch.from_numpy(order).to(rows.device)]
            statistics.update(rows)
        else:
            sums = own.sums(shift, keep=keep)
            statistics = _of_sums(
                Sums(total, sums.shift, ranks.all_reduce(sums.total), ranks.all_reduce(sums.scatter)), statistics
            )
        return Side(
            statistics,
            [np.ascontiguousarray(part[:, :2]) for part in tables],
            _group_counts(tables, keeps, self.groups),
            lambda group: own.sums(shift, group=group, keep=keep),
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything, exactly, as tensors, numbers and None."""
        return {
            "statistics": None if self.statistics is None else self.statistics.state_dict(),
            "hashes": torch.from_numpy(self.hashes.array().copy()),
            "indices": None if self.indices is None else torch.tensor(self.indices, dtype=torch.int64, device="cpu"),
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | None = None) -> None:
        """Take over what :meth:`state_dict` gave, features on ``device``; nothing changes where that fails."""
        statistics = None
        if state["statistics"] is not None:
            statistics = GroupedStatistics.from_state(state["statistics"], device)
            if statistics.groups != self.groups:
                raise StatisticsError(f"state: expected {self.groups} groups of sums, got {statistics.groups}")
        found = 0 if statistics is None else statistics.num_samples
        if len(state["hashes"]) != found:
            raise StatisticsError(f"state: expected hashes of {found} images, got {len(state['hashes'])}")
        hashes = ContentHashes()
        hashes.extend(state["hashes"].cpu())
        self.statistics, self.hashes = statistics, hashes
        self.indices = None if state["indices"] is None else array("q", state["indices"].tolist())


def check_index(index: Tensor | Sequence[int], count: int) -> Tensor:  # (N,) int64 on the CPU
    indices = torch.as_tensor(index, device="cpu") if not isinstance(index, Tensor) else index.detach().cpu()
    if indices.numel() == 0 and count == 0:
        return indices.to(torch.int64)
    if indices.shape != (count,) or indices.is_floating_point() or indices.dtype == torch.bool:
        raise ValueError(
            f"index: expected {count} whole numbers, one for each image, got {indices.dtype} of {tuple(indices.shape)}"
        )
    if int(indices.min()) < 0:
        raise ValueError(f"index: expected numbers of at least 0, got {int(indices.min())}")
    return indices.to(torch.int64)


def keep_once(indices: Sequence[np.ndarray], held: Sequence[int]) -> list[np.ndarray]:
    """Which images of each rank, (n,) bool, so that every global index counts once; ``held`` of its last can go.

    Raises:
        ValueError: an index that came twice before that: no sampler's padding, which comes last.
    """
    counts = [len(part) for part in indices]
    index = np.concatenate(list(indices))
    rank = np.repeat(np.arange(len(counts)), counts)
    place = np.concatenate([np.arange(count) for count in counts])
    fixed = np.concatenate([np.arange(n) < n - rows for n, rows in zip(counts, held, strict=True)])
    order = np.lexsort((place, rank, ~fixed, index))  # of equal indices the first in this order stays
    again = np.r_[False, index[order][1:] == index[order][:-1]]
    lost = order[again & fixed[order]]
    if len(lost):
        ranks = sorted(set(rank[index == index[lost[0]]].tolist()))
        raise ValueError(
            f"index: expected each global index once, apart from the last {TAIL_ROWS} images of a rank, where samplers "
            f"pad; got {index[lost[0]]} again, from {name_ranks(ranks)} ({len(lost)} such images)"
        )
    keep = np.ones(len(index), dtype=bool)
    keep[order[again]] = False
    return np.split(keep, np.cumsum(counts)[:-1])


def _group_counts(tables: Sequence[np.ndarray], keeps: Sequence[np.ndarray], groups: int) -> list[int]:
    counts = np.zeros(groups, dtype=np.int64)
    for table, keep in zip(tables, keeps, strict=True):
        places = table[:, 2] if len(table) and table[0, 2] >= 0 else np.flatnonzero(keep)
        counts += np.bincount(places % groups, minlength=groups)
    return counts.tolist()


def _agreed_shift(own: GroupedStatistics, ranks: Ranks, counts: Sequence[int]) -> Tensor:  # (D,) float32
    """The shift of the first rank that has images."""
    mine = own.first_shift()
    if mine is None:
        mine = torch.zeros(own.feature_dim, dtype=torch.float32, device="cpu")
    return ranks.broadcast(mine, next(rank for rank, count in enumerate(counts) if count))


def _of_sums(sums: Sums, empty: FeatureStatistics) -> FeatureStatistics:
    state = {**empty.state_dict(), "shift": sums.shift, "sums": [sums.count, sums.shift, sums.total, sums.scatter]}
    empty.load_state_dict(state)
    return empty


class Collector(Protocol):
    """What a pass fills: an :class:`Accumulator`, or whatever else takes features."""

    def __len__(self) -> int: ...
    def add(
        self, features: Tensor, hashes: Tensor, indices: Tensor | None = None, *, finite: Tensor | None = None
    ) -> None: ...


def collect(
    source: ImageSource,
    extractor: Extractor,
    accumulator: Collector,
    *,
    value_range: tuple[float, float] | None,
    quantize: Literal["round", "truncate"] | None,
    progress: bool,
    ranks: Ranks,
) -> dict[str, float]:
    """One pass over this rank's images into ``accumulator``; returns the host's seconds of each stage.

    On a GPU nothing waits for a chunk's results before the next one is on its way.
    """
    seconds = dict.fromkeys(("decode", "preprocess", "network", "statistics"), 0.0)
    started = time.perf_counter()
    with tqdm(
        total=source.count,
        desc=source.name,
        unit=" images",
        disable=not progress or sys.stderr is None or ranks.rank > 0,
        file=sys.stderr,
        # a log file wants a line now and then, not a thousand
        mininterval=0.5 if sys.stderr is not None and sys.stderr.isatty() else 10.0,
    ) as bar:
        late: deque[tuple[Landing, Tensor | None]] = deque()  # on a GPU, the chunk that it works on
        seen = len(accumulator)
        for images in _chunks(source, extractor.chunk_size):
            times = [time.perf_counter()]
            is_float = any(image.is_floating_point() for image in images)  # the other side may be uint8
            try:
                inputs, hashes = extractor.preprocess(
                    images, value_range=value_range if is_float else None, quantize=quantize, content_hash=True
                )
            except (ValueError, TypeError) as error:
                raise type(error)(f"{source.name}: {with_places(str(error), seen)}") from error
            times.append(time.perf_counter())
            features = extractor.network(inputs)  # (n, D) float32
            times.append(time.perf_counter())
            indices = None
            if ranks.size > 1:  # of the images that could be read
                indices = ranks.rank + torch.arange(seen, seen + len(images), device="cpu") * ranks.size
            late.append((Landing(features, hashes), indices))  # type: ignore[arg-type] # content_hash=True
            seen += len(images)
            if len(late) > features.is_cuda:
                _add(accumulator, *late.popleft(), source.name)
            times.append(time.perf_counter())
            for stage, begin, end in zip(("preprocess", "network", "statistics"), times, times[1:], strict=False):
                seconds[stage] += end - begin
            bar.update(len(images))
        for landing, indices in late:
            _add(accumulator, landing, indices, source.name)
    seconds["decode"] = source.decode_seconds
    seconds["total"] = time.perf_counter() - started
    return seconds


def _add(accumulator: Collector, landing: Landing, indices: Tensor | None, name: str) -> None:
    hashes, finite = landing.wait()
    try:
        accumulator.add(landing.features, hashes, indices, finite=finite)
    except StatisticsError as error:
        raise StatisticsError(f"{name}: {error}") from error


def _chunks(source: Iterable[list[Tensor]], size: int) -> Iterator[list[Tensor]]:
    """Regroup batches into chunks of exactly ``size`` images: what the network computes never depends on batch_size."""
    pending: list[Tensor] = []
    for batch in source:
        pending += batch
        while len(pending) >= size:
            yield pending[:size]
            del pending[:size]
    if pending:
        yield pending
