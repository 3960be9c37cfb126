"""Sets of images for a report: some of each, and the images that repeat, within a set and between sets."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from fidfast import ops
from fidfast.duplicates import ContentHashes, count_duplicates, count_shared
from fidfast.images import open_images


class Place(NamedTuple):
    """One image: that of this number, among those that could be read, of the ``group``-th set."""

    group: int
    number: int


class ImageSet:
    """The images of a folder, archive or array file, each read and hashed once; ``show`` reads some again.

    ``hashes`` (n, 2) int64; ``counts`` as :func:`fidfast.duplicates.count_duplicates`; ``skipped`` (path, reason).
    ImagesError where there are none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        name: str,
        value_range: tuple[float, float] | None = None,
        progress: bool = True,
    ) -> None:
        self.name, self.path, self.value_range = name, os.fspath(path), value_range
        self._source = open_images(self.path, on_error="skip", name=name)
        found = ContentHashes()
        bar = tqdm(total=self._source.count, desc=name, unit=" images", disable=not progress, file=sys.stderr)
        with self._source as source, bar:
            for images in source:
                try:
                    found.extend(ops.content_hash(images, value_range=self._range_of(images)))
                except (ValueError, TypeError) as error:
                    raise type(error)(f"{name}: {error}") from error
                bar.update(len(images))
        self.hashes = found.array()
        self.counts = count_duplicates(self.hashes)
        self.skipped = list(self._source.skipped)
        self._places: Sequence[int] = range(len(self.hashes))
        if self.skipped and self._source.reader is not None:
            unread = {path for path, _ in self.skipped}
            total = range(len(self._source.reader))
            self._places = [index for index in total if self._source.reader.label(index) not in unread]

    def __len__(self) -> int:
        return len(self.hashes)

    def label(self, index: int) -> str:
        """The file of an image where it has one, else its number in the set."""
        reader = self._source.reader
        return f"image {index}" if reader is None else os.path.relpath(reader.label(self._places[index]), self.path)

    def show(self, indices: Iterable[int]) -> dict[int, np.ndarray]:  # index -> (H, W, 3) uint8
        """These images, read again."""
        wanted, reader = set(indices), self._source.reader
        if reader is not None:
            return {index: self._pixels(reader.read(self._places[index])) for index in sorted(wanted)}
        shown: dict[int, np.ndarray] = {}
        seen = 0
        with self._source as source:
            for images in source:
                for index, image in enumerate(images, seen):
                    if index in wanted:
                        shown[index] = self._pixels(image)
                seen += len(images)
                if len(shown) == len(wanted):
                    break
        return shown

    def _range_of(self, images: Sequence[torch.Tensor]) -> tuple[float, float] | None:
        return self.value_range if any(image.is_floating_point() for image in images) else None

    def _pixels(self, image: torch.Tensor) -> np.ndarray:  # (3, H, W) -> (H, W, 3) uint8
        if image.is_floating_point():
            low, high = self.value_range or (0.0, 1.0)
            image = ((image.float() - low) * (255 / (high - low))).round().clamp(0, 255).to(torch.uint8)
        return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def spread(count: int, wanted: int) -> list[int]:
    """``wanted`` indices below ``count``, evenly apart; all of them where there are fewer."""
    if wanted >= count:
        return list(range(count))
    return [index * count // wanted for index in range(wanted)]


def repeated_images(sets: Sequence[ImageSet]) -> list[list[Place]]:
    """The images that stand more than once, all places of each: those of several sets first, then the commonest."""
    hashes = np.concatenate([one.hashes for one in sets])  # (n, 2)
    group = np.repeat(np.arange(len(sets)), [len(one) for one in sets])
    index = np.concatenate([np.arange(len(one)) for one in sets])
    order = np.lexsort((np.arange(len(hashes)), hashes[:, 1], hashes[:, 0]))
    ordered = hashes[order]
    changes = np.flatnonzero((ordered[1:] != ordered[:-1]).any(axis=1)) + 1
    runs = np.split(order, changes)
    found = [[Place(int(group[row]), int(index[row])) for row in run] for run in runs if len(run) > 1]
    return sorted(found, key=lambda places: (-len({place.group for place in places}), -len(places), places[0]))


def side_by_side(places: Sequence[Place], most: int) -> list[Place]:
    """At most ``most`` of the places of one image: the first of every set, then others."""
    first: dict[int, Place] = {}
    for place in places:
        first.setdefault(place.group, place)
    others = [place for place in places if first[place.group] != place]
    return sorted([*first.values(), *others][:most])


def shared_counts(sets: Sequence[ImageSet]) -> list[tuple[int, int, int]]:
    """(i, j, how many images of set j are also in set i) of every two sets that share any."""
    pairs = [(i, j, count_shared(sets[j].hashes, sets[i].hashes)) for j in range(len(sets)) for i in range(j)]
    return [pair for pair in pairs if pair[2]]
