"""Images on their way from the host to a CUDA device: packed into pinned memory, copied while the device works."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

_ALIGNMENT = 16  # bytes at which an image begins: the kernels read 16 at once
PIECE_BYTES = 2**28  # of one upload: 64 photographs of 24 megapixels are 4.6 GB, on the device and pinned on the host


def pieces(images: Sequence[Tensor]) -> list[list[Tensor]]:
    """The images in their order, cut into parts that take at most PIECE_BYTES each, or are one image."""
    found: list[list[Tensor]] = [[]]
    size = 0
    for image in images:
        more = _aligned(image.numel() * image.element_size())
        if found[-1] and size + more > PIECE_BYTES:
            found.append([])
            size = 0
        found[-1].append(image)
        size += more
    return found


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


class Packed(NamedTuple):
    """Images side by side in one piece of memory."""

    dense: list[Tensor]  # each (3, H, W), or (H, W, 3) where it lies like that
    interleaved: list[bool]
    places: list[int]  # the byte at which each begins
    size: int  # bytes of all


def pack(images: Sequence[Tensor]) -> Packed:  # N x (3, H, W), any strides
    packed = Packed([], [], [], 0)
    end = 0
    for image in images:
        interleaved = not image.is_contiguous() and image.permute(1, 2, 0).is_contiguous()
        view = image.permute(1, 2, 0) if interleaved else image.contiguous()
        packed.dense.append(view)
        packed.interleaved.append(interleaved)
        packed.places.append(end)
        end += _aligned(view.numel() * view.element_size())
    return packed._replace(size=end)


def views_of(memory: Tensor, packed: Packed) -> list[Tensor]:  # (bytes,) uint8
    """The places of the dense images in memory, as these are shaped."""
    views = []
    for view, place in zip(packed.dense, packed.places, strict=True):
        part = memory[place : place + view.numel() * view.element_size()]
        views.append(part.view(view.dtype).view(view.shape))
    return views


def unpack(memory: Tensor, packed: Packed) -> list[Tensor]:
    """The images (3, H, W) in memory that holds them as packed."""
    views = zip(views_of(memory, packed), packed.interleaved, strict=True)
    return [view.permute(2, 0, 1) if interleaved else view for view, interleaved in views]


class Uploads:
    """Two pinned buffers in turn, and a stream of its own for the copies: one runs while the device still works on the
    images of the one before, and the host fills the other. Thread-safe; the memory grows to what a piece takes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._buffers: list[Tensor | None] = [None, None]
        self._copied: list[torch.cuda.Event | None] = [None, None]
        self._turn = 0
        self._lock = threading.Lock()

    def __call__(self, images: Sequence[Tensor]) -> list[Tensor]:
        """The images on the device, usable on its current stream; the host may change its own at once."""
        packed = pack(images)
        with self._lock:
            self._turn = 1 - self._turn
            copied, buffer = self._copied[self._turn], self._buffers[self._turn]
            if copied is not None:
                copied.synchronize()  # the copy before the last has left the buffer
            if buffer is None or buffer.numel() < packed.size:
                buffer = torch.empty(packed.size, dtype=torch.uint8, device="cpu", pin_memory=True)
                self._buffers[self._turn] = buffer
            for place, view in zip(views_of(buffer, packed), packed.dense, strict=True):
                place.copy_(view)
            done = torch.cuda.Event()
            with torch.cuda.stream(self._stream):
                memory = buffer[: packed.size].to(self._device, non_blocking=True)
                done.record()
            self._copied[self._turn] = done
            current = torch.cuda.current_stream(self._device)
            current.wait_event(done)
            memory.record_stream(current)
        return unpack(memory, packed)


@cache
def uploads(device: torch.device) -> Uploads:
    """The one of a device."""
    return Uploads(device)
