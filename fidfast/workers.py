"""Decoding in worker processes: images arrive in order, whatever the number of workers."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from fidfast.decode import ImagesError, Unreadable, images_of, reason_of

Item = torch.Tensor | Unreadable

# Images a worker sends at once: 8 to 32 are equally fast, and what is under way takes shared memory (1.5 MB at 256²).
TASK_SIZE = 8


class Reader(Protocol):
    """Images that can be read in any order; pickles into a worker."""

    def __len__(self) -> int: ...
    def label(self, index: int) -> str: ...
    def read(self, index: int) -> torch.Tensor: ...


class DatasetReader:
    """A torch Dataset of images, (image, label) tuples or dicts."""

    def __init__(self, dataset: Dataset) -> None:
        if not hasattr(dataset, "__len__"):
            raise ImagesError("expected a Dataset with a length or an IterableDataset, got one with neither")
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def label(self, index: int) -> str:
        return f"item {index} of the Dataset"

    def read(self, index: int) -> torch.Tensor:
        images = images_of(self.dataset[index])
        if len(images) != 1:
            raise ImagesError(f"expected one image for each item of a Dataset, got {len(images)}")
        return images[0]


Shard = tuple[int, int]  # (first, step)


class ShardReader:
    """Every step-th image of a reader, from the first on."""

    def __init__(self, reader: Reader, shard: Shard) -> None:
        self.reader, self.places = reader, range(shard[0], len(reader), shard[1])

    def __len__(self) -> int:
        return len(self.places)

    def label(self, index: int) -> str:
        return self.reader.label(self.places[index])

    def read(self, index: int) -> torch.Tensor:
        return self.reader.read(self.places[index])


def take_shard(batches: Iterator[list[Item]], shard: Shard) -> Iterator[list[Item]]:
    """Every step-th item of a stream, which must be read as a whole; what is wrong with it stays in every shard."""
    seen = 0
    for batch in batches:
        yield [
            item
            for index, item in enumerate(batch, seen)
            if index % shard[1] == shard[0] or (isinstance(item, Unreadable) and item.fatal)
        ]
        seen += len(batch)


class Packed(NamedTuple):
    """One task's images as a single tensor: one file descriptor, where a list would need one for each image."""

    data: Any  # (bytes,) uint8 tensor in shared memory, or an array that goes through the pipe
    places: list[tuple[int, int, int, torch.dtype] | Unreadable]  # offset, H, W, dtype of each image


def read_item(reader: Reader, index: int) -> Item:
    """One image, or why it cannot be had."""
    try:
        return reader.read(index)
    except ImagesError as error:  # the wrong kind of thing, not a damaged image
        return Unreadable(reader.label(index), str(error), fatal=True, cause=error)
    except Exception as error:
        return Unreadable(reader.label(index), reason_of(error), cause=error)


def pack(items: list[Item]) -> Packed:
    places: list[tuple[int, int, int, torch.dtype] | Unreadable] = []
    pieces: list[tuple[int, torch.Tensor]] = []
    offset = 0
    for item in items:
        if isinstance(item, Unreadable):
            places.append(item._replace(cause=None))  # exceptions need not survive pickling
            continue
        pixels = item.permute(1, 2, 0).contiguous().view(-1).view(torch.uint8)  # (H * W * 3 * itemsize,) uint8
        places.append((offset, item.shape[1], item.shape[2], item.dtype))
        pieces.append((offset, pixels))
        offset += -(-pixels.numel() // 16) * 16
    data = torch.empty(offset, dtype=torch.uint8)
    for start, pixels in pieces:
        data[start : start + pixels.numel()] = pixels
    try:
        return Packed(data.share_memory_(), places)
    except (RuntimeError, OSError):  # /dev/shm is full (64 MB in a container): slower through the pipe, but it arrives
        return Packed(data.numpy(), places)


def unpack(packed: Packed) -> list[Item]:
    data = packed.data if isinstance(packed.data, torch.Tensor) else torch.from_numpy(packed.data)
    items: list[Item] = []
    for place in packed.places:
        if isinstance(place, Unreadable):
            items.append(place)
            continue
        offset, height, width, dtype = place
        pixels = data[offset : offset + height * width * 3 * dtype.itemsize].view(dtype)
        items.append(pixels.view(height, width, 3).permute(2, 0, 1))
    return items


class _Tasks(Dataset):
    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return -(-len(self.reader) // TASK_SIZE)

    def __getitem__(self, task: int) -> Packed:
        indices = range(task * TASK_SIZE, min((task + 1) * TASK_SIZE, len(self.reader)))
        return pack([read_item(self.reader, index) for index in indices])


class _StreamTasks(IterableDataset):
    def __init__(self, stream: Iterable[Item]) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[Packed]:
        return map(pack, in_tasks(self.stream))


def in_tasks(items: Iterable[Item], size: int = TASK_SIZE) -> Iterator[list[Item]]:
    iterator = iter(items)
    while task := list(islice(iterator, size)):
        yield task


def read_here(reader: Reader) -> Iterator[list[Item]]:
    """The images of ``reader`` in order, read in this process."""
    return in_tasks(read_item(reader, index) for index in range(len(reader)))


def read_all(reader: Reader, num_workers: int) -> Iterator[list[Item]]:
    """The images of ``reader`` in order, read in ``num_workers`` processes or, for 0, in this one."""
    return read_in_workers(reader, num_workers) if num_workers and len(reader) else read_here(reader)


def read_in_workers(source: Reader | Iterable[Item], num_workers: int) -> Iterator[list[Item]]:
    """The images of ``source`` in order, read in ``num_workers`` processes, or in one when it can only be streamed.

    Close the iterator to end the processes. ImagesError when one of them dies.
    """
    stream = not hasattr(source, "read")
    dataset: Dataset = _StreamTasks(source) if stream else _Tasks(source)  # type: ignore[arg-type]
    num_tasks = 1 if stream else len(dataset)  # type: ignore[arg-type]
    methods = multiprocessing.get_all_start_methods()
    others = {child.pid for child in multiprocessing.active_children()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # the caller asked for that many
        loader = DataLoader(
            dataset,
            batch_size=None,
            num_workers=min(num_workers, num_tasks),
            collate_fn=_as_is,  # type: ignore[arg-type] # not a list: batch_size is None
            worker_init_fn=_start_worker,
            multiprocessing_context="fork" if "fork" in methods else None,
            generator=torch.Generator(),  # else the loader would draw from, and so change, the caller's random state
        )
        iterator: Any = iter(loader)
    pids = {child.pid for child in multiprocessing.active_children()} - others
    try:
        for packed in iterator:
            yield unpack(packed)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        # A worker that dies while it sends leaves half a message, or a connection that nobody answers.
        if isinstance(error, RuntimeError) and not worker_died(error):
            raise
        raise ImagesError(f"{DEATH} ({error})") from error
    finally:
        # Dropping the iterator ends the workers as well, but not while a traceback still refers to it.
        iterator._shutdown_workers()
        for child in multiprocessing.active_children():  # joins those that have ended
            if child.pid in pids:
                child.join(timeout=1)


DEATH = (
    "a decoding process died: killed, or out of memory. num_workers=0 (--num-workers 0) decodes in the main process, "
    "fewer workers need less memory"
)


def worker_died(error: BaseException) -> bool:
    """Torch reports the death of a worker through SIGCHLD, at whatever line the main process happens to be."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")


def default_workers(num_images: int) -> int:
    """How many decoding processes pay for ``num_images`` files on this machine."""
    if num_images < 32 or multiprocessing.current_process().daemon:  # a daemon may have no children
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores //= max(1, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))  # torchrun's processes share them
    # One core is left to the process that consumes: on two cores, beside the network, one worker (370 PNG of 256² a
    # second) made it wait least.
    return min(max(cores - 1, 1), 8)


def _as_is(packed: Packed) -> Packed:
    return packed


def _start_worker(worker_id: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the main process ends the workers
    sys.excepthook = _unless_left


def _unless_left(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A main process that ends while it takes over a batch says why itself; multiprocessing's thread adds nothing."""
    if not issubclass(kind, (EOFError, ConnectionError)):
        sys.__excepthook__(kind, error, trace)
