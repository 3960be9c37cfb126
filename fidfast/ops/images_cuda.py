"""The image ops on a CUDA device: tap tables that stay there, and the launches. Nothing here waits for the device.

Under CUDA graph capture the images must have sizes seen before (a warm-up does that), because a table that is not on
the device yet would have to be copied there. The images' addresses travel in the kernels' arguments, so a replay reads
the same memory, and the tables used are kept for good.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from types import ModuleType

import torch
from torch import Tensor
from torch.utils.dlpack import to_dlpack

from fidfast.ops.images_torch import empty_out
from fidfast.ops.modules import cuda_module

IN_DTYPES = (torch.uint8, torch.float32, torch.bfloat16, torch.float16)
TABLE_BYTES = 64 * 2**20  # 4096 pixels take 0.3 MB an axis, 256 pixels 20 kB


def module_for(images: Sequence[Tensor]) -> ModuleType | None:
    """The compiled CUDA kernels, if they are installed and made for these images."""
    module = cuda_module()
    if module is None or images[0].device.type != "cuda":
        return None
    return module if all(max(image.shape[1:]) <= module.max_side for image in images) else None


class TapTables:
    """Tap tables on their devices, the least recently used ones dropped beyond `capacity` bytes."""

    def __init__(self, capacity: int = TABLE_BYTES) -> None:
        self._capacity = capacity
        self._bytes = 0
        self._tables: OrderedDict[tuple[str, str, int, torch.device], tuple[Tensor, torch.cuda.Event | None]] = (
            OrderedDict()
        )
        self._captured: dict[int, Tensor] = {}
        self._lock = threading.Lock()

    def get(
        self, module: ModuleType, axis: str, preset: str, sizes: Iterable[int], device: torch.device
    ) -> dict[int, Tensor]:
        """{size: table} of "column" or "row" tables, usable on the current stream."""
        with self._lock:
            found = {size: self._get_one(module, axis, preset, size, device) for size in sizes}
            while self._bytes > self._capacity:
                self._bytes -= self._tables.popitem(last=False)[1][0].numel()
        return found

    def _get_one(self, module: ModuleType, axis: str, preset: str, size: int, device: torch.device) -> Tensor:
        key = (axis, preset, size, device)
        capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        if key not in self._tables:
            if capturing:
                raise RuntimeError(
                    f"images: expected sizes seen before the CUDA graph capture, got {size} pixels for the first time "
                    f'with preset "{preset}"; run once before capturing'
                )
            self._tables[key] = _upload(getattr(module, f"{axis}_table")(preset, size), device)
            self._bytes += self._tables[key][0].numel()
        self._tables.move_to_end(key)
        table, ready = self._tables[key]
        if capturing:  # torch.cuda.graph has waited for the device
            self._captured[id(table)] = table
        elif ready is not None:
            stream = torch.cuda.current_stream(device)
            stream.wait_event(ready)
            table.record_stream(stream)
        return table


def _upload(table: bytes, device: torch.device) -> tuple[Tensor, torch.cuda.Event | None]:
    host = torch.frombuffer(bytearray(table), dtype=torch.uint8)
    if device.type != "cuda":
        return host.clone(), None  # torch's memory is aligned for vector loads
    on_device = host.pin_memory().to(device, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record(torch.cuda.current_stream(device))
    return on_device, ready


TABLES = TapTables()


def launch(
    module: ModuleType,  # fidfast._cuda
    images: Sequence[Tensor],  # N x (3, H, W) uint8 or float
    out: Tensor | None,  # (N, 3, 299, 299) float32, bfloat16 or float16
    hashes: Tensor | None,  # (N, 2) int64 zeros
    preset: str,
    low: float,
    high: float,
    quantize: str,
    channels_last: bool,
    tables: TapTables = TABLES,
) -> Tensor | None:
    """Enqueues the kernels; for float images, returns (N,) int32 flags: 1 for NaN or values far outside [low, high]."""
    device = images[0].device
    supported = [image if image.dtype in IN_DTYPES else image.float() for image in images]
    if len({image.dtype for image in supported}) > 1:
        supported = [image.float() for image in supported]
    unusable = None
    if supported[0].is_floating_point():
        unusable = torch.zeros(len(images), dtype=torch.int32, device=device)
    columns: dict[int, Tensor] = {}
    rows: dict[int, Tensor] = {}
    if out is not None:
        columns = tables.get(module, "column", preset, {image.shape[2] for image in images}, device)
        rows = tables.get(module, "row", preset, {image.shape[1] for image in images}, device)
    module.resize_normalize(
        [to_dlpack(image) for image in supported],
        {size: to_dlpack(table) for size, table in columns.items()},
        {size: to_dlpack(table) for size, table in rows.items()},
        None if out is None else to_dlpack(out),
        None if hashes is None else to_dlpack(hashes),
        None if unusable is None else to_dlpack(unusable),
        preset,
        low,
        high,
        quantize,
        channels_last,
        torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0,
    )
    return unusable


def enqueue_resize_normalize(
    module: ModuleType,  # fidfast._cuda
    images: Sequence[Tensor],  # N x (3, H, W) uint8 or float
    preset: str,
    low: float,
    high: float,
    quantize: str,
    dtype: torch.dtype,
    channels_last: bool,
    content_hash: bool,
    tables: TapTables = TABLES,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(out, hashes, unusable) as resize_normalize returns them, without the host's look at `unusable`.

    Whoever defers that look hands the images and the indices of the ones to images_torch.raise_unusable later.
    """
    device = images[0].device
    out = empty_out(len(images), dtype, channels_last, device)
    hashes = torch.zeros(len(images) if content_hash else 0, 2, dtype=torch.int64, device=device)
    wanted = hashes if content_hash else None
    unusable = launch(module, images, out, wanted, preset, low, high, quantize, channels_last, tables)
    return out, hashes, unusable


def bad_indices(unusable: Tensor | None) -> list[int]:
    """The indices that are set: the one wait for the device, and only for float images."""
    return [] if unusable is None else unusable.nonzero().flatten().tolist()
