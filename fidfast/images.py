"""Sources of images: whatever a user has → batches of tensors (3, H, W) in a fixed order, each image decoded once."""

from __future__ import annotations

import os
import tarfile
import time
import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset

from fidfast.decode import ImagesError, Unreadable, array_images, images_of, is_array, reason_of
from fidfast.files import (
    SUFFIXES,
    TAR_SUFFIXES,
    UNREAD_SUFFIXES,
    ArchiveReader,
    ArrayStream,
    FileReader,
    Names,
    TarStream,
    scan_folder,
    scan_tar,
    scan_zip,
    suffix_of,
)
from fidfast.workers import (
    DEATH,
    DatasetReader,
    Item,
    Reader,
    Shard,
    ShardReader,
    default_workers,
    in_tasks,
    read_all,
    read_in_workers,
    take_shard,
    worker_died,
)

Batches = Callable[[], Iterator[list[Item]]]


class ImageSource:
    """The images of one side, in order, in batches: iterate, in a ``with`` block so that no worker outlives it.

    ``count`` images (None when only reading can tell), ``notes`` for the user, ``skipped`` (path, reason) of the
    unreadable ones, ``decode_seconds`` that the consumer waited, ``reader`` of the whole set where its images can be
    read in any order. One pass at a time: a second pass ends the first.
    """

    def __init__(
        self, name: str, batches: Batches, count: int | None, batch_size: int, notes: list[str], on_error: str,
        shard: Shard = (0, 1), reader: Reader | None = None,
    ) -> None:  # fmt: skip
        self.name, self.batch_size, self.notes, self.on_error, self.shard = name, batch_size, notes, on_error, shard
        self.reader = reader
        self.total = count  # of all shards
        self.count = None if count is None else len(range(shard[0], count, shard[1]))
        self.skipped: list[tuple[str, str]] = []
        self.decode_seconds = 0.0
        self._batches = batches
        self._pass: Generator[list[torch.Tensor]] | None = None

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        """Lists of tensors (3, H, W), uint8 or floating point, any strides; ImagesError names what cannot be read."""
        self.close()
        self.skipped, self.decode_seconds = [], 0.0
        self._pass = self._run()
        return self._pass

    def _run(self) -> Generator[list[torch.Tensor]]:
        index = 0
        batches = self._batches()
        try:
            while True:
                started = time.perf_counter()
                try:
                    batch = next(batches, None)
                except ImagesError as error:
                    raise ImagesError(f"{self.name}: image {index} or a later one: {error}") from error
                self.decode_seconds += time.perf_counter() - started
                if batch is None:
                    break
                images = self._readable(batch, index)
                index += len(batch)
                for start in range(0, len(images), self.batch_size):
                    yield images[start : start + self.batch_size]
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()
        if self.shard[1] > 1:  # other ranks may have what this one lacks
            return
        if index == 0:
            raise ImagesError(f"{self.name}: expected images, got none: the source is empty")
        if index == len(self.skipped):
            path, reason = self.skipped[0]
            raise ImagesError(f"{self.name}: none of the {index} images can be read; the first is {path}: {reason}")

    def _readable(self, batch: list[Item], start: int) -> list[torch.Tensor]:
        images = []
        for place, item in enumerate(batch, start):
            index = self.shard[0] + place * self.shard[1]
            if not isinstance(item, Unreadable):
                images.append(item)
            elif item.fatal or self.on_error == "raise":
                where = f"image {index}" if self.total is None else f"image {index} of {self.total}"
                raise ImagesError(f"{self.name}: cannot read {item.path} ({where}): {item.reason}") from item.cause
            else:
                self.skipped.append((item.path, item.reason))
        return images

    def close(self) -> None:
        """End the pass under way and its workers."""
        if self._pass is not None:
            self._pass.close()
            self._pass = None

    def __enter__(self) -> ImageSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        if error is not None and worker_died(error):
            raise ImagesError(f"{self.name}: {DEATH}") from error


def open_images(
    source: Any,
    *,
    batch_size: int = 64,
    num_workers: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    recursive: bool = True,
    preset: str = "pytorch-fid",
    name: str = "images",
    shard: Shard | None = None,
) -> ImageSource:
    """The images in ``source``, which is any of:

    - a folder: its .bmp .jpeg .jpg .pgm .png .ppm .tif .tiff .webp files in any case (preset clean-fid: also .npy),
      sorted by path; hidden files too; symbolic links are images of their own;
    - a list of paths, in its order, a path that stands twice read once;
    - a .zip or .tar file of such images, sorted (a compressed tar: in its own order);
    - an .npz file with arr_0, or an .npy file, (N, H, W, 3) uint8, read block by block;
    - a tensor or array (N, 3, H, W), (N, H, W, 3), gray (N, 1, H, W), (N, H, W, 1) or (N, H, W);
    - a torch Dataset or DataLoader, or any iterable of what :func:`fidfast.decode.images_of` takes.

    Args:
        batch_size: the largest batch; files are read in smaller ones.
        num_workers: processes that decode files, or read a Dataset; default: the cores but one, from 1 to 8, for files,
            and 0 for a Dataset, which may hold handles that do not survive a fork. What only streams uses one or none.
        on_error: an unreadable image ends the pass ("raise") or is listed in ``skipped`` ("skip"). A decompression bomb
            is an unreadable image: above twice ``PIL.Image.MAX_IMAGE_PIXELS``, where Pillow itself refuses.
        recursive: read the subfolders of a folder too.
        preset: whose tool ``notes`` compares a folder with.
        name: what error messages call the source.
        shard: (first, step): only the images first, first + step, …, of all that there are.

    Raises:
        ImagesError: when the source is not there, is empty or is no set of images: now, before any long work. When an
            image cannot be read: while iterating.
    """
    if num_workers is not None and (not isinstance(num_workers, int) or num_workers < 0):
        raise ImagesError(f"num_workers must be a whole number of at least 0 or None, got {num_workers!r}")
    try:
        opened = _open(source, batch_size, num_workers, recursive, preset)
    except ImagesError as error:
        raise ImagesError(f"{name}: {error}") from error.__cause__
    batches = opened.batches if shard is None else _shard_of(opened, shard)
    return ImageSource(name, batches, opened.total, batch_size, opened.notes, on_error, shard or (0, 1), opened.reader)


class _Opened(NamedTuple):
    batches: Batches
    total: int | None
    notes: list[str]
    reader: Reader | None = None  # of images that can be read in any order
    num_workers: int = 0


def _shard_of(opened: _Opened, shard: Shard) -> Batches:
    if opened.reader is None:
        return lambda: take_shard(opened.batches(), shard)
    reader = ShardReader(opened.reader, shard)
    return lambda: read_all(reader, opened.num_workers)


def _open(source: Any, batch_size: int, num_workers: int | None, recursive: bool, preset: str) -> _Opened:
    if isinstance(source, (str, bytes, os.PathLike)):
        return _open_path(os.fsdecode(source), batch_size, num_workers, recursive, preset)
    if isinstance(source, Dataset) and not isinstance(source, IterableDataset):
        return _open_reader(DatasetReader(source), num_workers or 0)
    if is_array(source):
        return _open_array(source, batch_size)
    if isinstance(source, (list, tuple)):
        return _open_list(source, batch_size, num_workers)
    if isinstance(source, (Image.Image, Mapping)) or not (hasattr(source, "__iter__") or isinstance(source, Dataset)):
        raise ImagesError(
            "expected a set of images: a folder, a list of paths, a .zip, .tar, .npz or .npy file, a tensor, an array, "
            f"a Dataset, a DataLoader or an iterable, got {type(source).__name__}"
        )
    return _open_items(source, None, batch_size, owned=isinstance(source, DataLoader))


def _open_path(path: str, batch_size: int, num_workers: int | None, recursive: bool, preset: str) -> _Opened:
    if os.path.isdir(path):
        return _open_folder(path, num_workers, recursive, preset)
    if not os.path.exists(path):
        raise ImagesError(f"{path} does not exist")
    if not os.path.isfile(path):
        raise ImagesError(f"expected a folder or a file, but {path} is neither")
    lower = path.lower()
    try:
        if lower.endswith((".npz", ".npy")):
            return _open_array_file(ArrayStream(path, batch_size), batch_size, num_workers)
        if lower.endswith(".zip") or (not lower.endswith(TAR_SUFFIXES) and zipfile.is_zipfile(path)):
            return _open_archive(path, scan_zip(path, SUFFIXES), num_workers)
        if lower.endswith(TAR_SUFFIXES) or tarfile.is_tarfile(path):
            return _open_archive(path, scan_tar(path, SUFFIXES), num_workers)
    except PermissionError as error:
        raise ImagesError(f"{path} cannot be read: {error.strerror}") from error
    raise ImagesError(f"expected a folder, .zip, .tar, .npz or .npy of images, but {path} is one file of another kind")


def _open_folder(path: str, num_workers: int | None, recursive: bool, preset: str) -> _Opened:
    reader = scan_folder(path, recursive, (*SUFFIXES, "npy") if preset == "clean-fid" else SUFFIXES)
    _check_not_empty(path, reader)
    notes = []
    unread = {suffix: count for suffix, count in reader.others.items() if suffix in UNREAD_SUFFIXES}
    if unread:
        notes.append(f"left out because of their suffix: {_listed(unread)}")
    if preset in _TOOLS:
        tool, rule, takes = _TOOLS[preset]
        taken = sum(takes(reader.names[index]) for index in range(len(reader)))
        if taken != len(reader):
            notes.append(f"{tool} would have read {taken} of these {len(reader)} files: it takes {rule}")
    opened = _open_reader(reader, default_workers(len(reader)) if num_workers is None else num_workers)
    return opened._replace(notes=notes)


# The files of a folder that the preset's own tool takes: (tool, rule in words, rule), by path relative to the folder.
_TOOLS: dict[str, tuple[str, str, Callable[[bytes], bool]]] = {
    "pytorch-fid": (
        "pytorch-fid",
        "the top level of a folder only, and suffixes in lower case only",
        lambda name: b"/" not in name and suffix_of(name) in SUFFIXES,
    ),
    "tensorflow": (
        "torch-fidelity",
        "the top level of a folder only (unless samples_find_deep), and the suffixes png, jpg and jpeg",
        lambda name: b"/" not in name and suffix_of(name).lower() in ("png", "jpg", "jpeg"),
    ),
    "clean-fid": (
        "clean-fid",
        "no hidden files, and suffixes in lower case or JPEG, JPG and PNG",
        lambda name: (
            suffix_of(name) in (*SUFFIXES, "npy", "JPEG", "JPG", "PNG")
            and not any(part.startswith(b".") for part in name.split(b"/"))
        ),
    ),
}


def _open_archive(path: str, reader: ArchiveReader | None, num_workers: int | None) -> _Opened:
    if reader is not None:
        _check_not_empty(path, reader)
        opened = _open_reader(reader, default_workers(len(reader)) if num_workers is None else num_workers)
        return opened._replace(notes=_repeated(reader.repeated, path))
    stream = TarStream(path, SUFFIXES)
    first = next(iter(stream), None)
    if first is None or (isinstance(first, Unreadable) and first.fatal):
        raise ImagesError(f"no images in {path}" + (f": {first.reason}" if first else f": expected {_EXPECTED}"))
    workers = default_workers(1000) if num_workers is None else num_workers
    return _Opened(lambda: read_in_workers(stream, 1) if workers else in_tasks(stream), None, [])


_EXPECTED = "files ending in ." + ", .".join(SUFFIXES) + " in any case"


def _check_not_empty(path: str, reader: FileReader | ArchiveReader) -> None:
    if len(reader) == 0:
        found = f"found only other files: {_listed(reader.others)}" if reader.others else "found no files"
        raise ImagesError(f"no images in {path}: expected {_EXPECTED}, {found}")


def _listed(suffixes: Mapping[str, int]) -> str:
    most = sorted(suffixes.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {'.' + suffix if suffix else 'without a suffix'}" for suffix, count in most[:6])


def _repeated(count: int, what: str) -> list[str]:
    return [f"{count} repeated path{'s' * (count > 1)} in {what} left out"] if count else []


def _open_reader(reader: Reader, num_workers: int) -> _Opened:
    if len(reader) == 0:
        raise ImagesError("expected images, got an empty set")
    return _Opened(lambda: read_all(reader, num_workers), len(reader), [], reader, num_workers)


def _open_array_file(stream: ArrayStream, batch_size: int, num_workers: int | None) -> _Opened:
    _check_set_shape(stream.shape, hwc_first=True, what=stream.path)
    try:
        array_images(np.empty((1, *stream.shape[1:]), dtype=stream.dtype))  # layout, now
    except ImagesError as error:
        raise ImagesError(f"{stream.path}: {error}") from error
    # Inflating takes a core's time, which a worker can spend beside the network; reading plain bytes does not.
    in_worker = stream.compressed and (default_workers(stream.shape[0]) if num_workers is None else num_workers) > 0
    return _Opened(
        lambda: read_in_workers(stream, 1) if in_worker else in_tasks(stream, batch_size), stream.shape[0], []
    )


def _open_array(array: Any, batch_size: int) -> _Opened:
    shape = tuple(array.shape)
    if isinstance(array, np.ndarray) and array.dtype.kind in "OUS":  # paths in an array or a table's column
        return _open_list(array.reshape(-1).tolist(), batch_size, None)
    _check_set_shape(shape, hwc_first=not isinstance(array, torch.Tensor), what="the array")
    array_images(array[:1])  # dtype and layout, now

    def batches() -> Iterator[list[Item]]:
        for start in range(0, shape[0], batch_size):
            yield list(array_images(array[start : start + batch_size]))

    return _Opened(batches, shape[0], [])


def _check_set_shape(shape: tuple[int, ...], hwc_first: bool, what: str) -> None:
    one_image = len(shape) == 3 and (shape[-1] == 3 if hwc_first else shape[0] == 3)
    if len(shape) not in (3, 4) or one_image:
        raise ImagesError(
            f"{what}: expected images (N, 3, H, W) or (N, H, W, 3), or gray ones (N, H, W), got shape {shape}"
            + (", which looks like one image" if one_image else "")
        )
    if shape[0] == 0:
        raise ImagesError(f"{what}: expected images, got an empty set of shape {shape}")


def _open_list(items: list[Any] | tuple[Any, ...], batch_size: int, num_workers: int | None) -> _Opened:
    if not items:
        raise ImagesError(f"expected images, got an empty {type(items).__name__}")
    if not isinstance(items[0], (str, os.PathLike)):
        single = isinstance(items[0], Image.Image) or (is_array(items[0]) and len(items[0].shape) in (2, 3))
        return _open_items(items, len(items) if single else None, batch_size)
    for index, item in enumerate(items):
        if not isinstance(item, (str, os.PathLike)):
            raise ImagesError(f"expected a list of paths, but item {index} is of type {type(item).__name__}")
    first: dict[str, Any] = {}
    for item in items:
        first.setdefault(os.path.abspath(os.fsdecode(item)), item)
    reader = FileReader(b"", Names(os.fsencode(item) for item in first.values()))
    opened = _open_reader(reader, default_workers(len(reader)) if num_workers is None else num_workers)
    return opened._replace(notes=_repeated(len(items) - len(first), "the list"))


def _open_items(source: Iterable[Any], count: int | None, batch_size: int, *, owned: bool = True) -> _Opened:
    state = {"used": False}

    def batches() -> Iterator[list[Item]]:
        iterator = iter(source)
        if state["used"] and iterator is source:
            raise ImagesError("expected something that can be iterated again, got an iterator that was read before")
        state["used"] = True
        return in_tasks(_read_items(iterator, owned), batch_size)

    return _Opened(batches, count, [])


def _read_items(items: Iterator[Any], owned: bool) -> Iterator[Item]:
    """Unless ``owned``, images are copied as they come: a generator may fill one buffer again and again."""
    for index, item in enumerate(items):
        try:
            images = images_of(item)
        except ImagesError as error:
            yield Unreadable(f"item {index}", str(error), fatal=True, cause=error)
        except Exception as error:
            label = os.fsdecode(item) if isinstance(item, (str, os.PathLike)) else f"item {index}"
            yield Unreadable(label, reason_of(error), cause=error)
        else:
            yield from images if owned else map(torch.clone, images)
