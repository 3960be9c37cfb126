"""What the measures share: checked features, and their Gram matrices tile by tile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Rows and columns of a tile. 1024² float64 are 8 MB: the passes over a tile stay in a CPU's cache. A device wants
# fewer launches: 4096² are 134 MB.
CPU_TILE = 1024
DEVICE_TILE = 4096


def as_rows(values: Any, name: str, *, least: int = 1, columns: int | None = None) -> Tensor:
    """(N, D) finite floating-point tensor of at least ``least`` rows, detached; MPS, without float64, → CPU.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    if isinstance(values, np.ndarray):
        # torch takes no other byte order or direction, and warns of an array that is read-only, as a mapped file is
        values = torch.from_numpy(np.require(values, values.dtype.newbyteorder("="), ["C", "W"]))
    if not isinstance(values, Tensor) or not values.is_floating_point():
        got = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"{name}: expected a floating-point tensor or array (N, D), got {got}")
    if values.ndim != 2 or 0 in values.shape[1:]:
        raise ValueError(f"{name}: expected shape (N, D), got {tuple(values.shape)}")
    if columns is not None and values.shape[1] != columns:
        raise ValueError(f"{name}: expected (N, {columns}) as the other side has, got {tuple(values.shape)}")
    if len(values) < least:
        raise ValueError(f"{name}: expected at least {least} rows, got {len(values)}")
    values = values.detach()
    for start in range(0, len(values), DEVICE_TILE):
        bad = (~values[start : start + DEVICE_TILE].isfinite().all(dim=1)).nonzero()
        if len(bad):
            raise ValueError(f"{name}: expected finite values, got NaN or infinity in row {start + int(bad[0])}")
    return values.cpu() if values.device.type == "mps" else values


def as_sides(a: Any, b: Any, names: tuple[str, str], *, least: int = 1) -> tuple[Tensor, Tensor]:
    """Both sides checked, of one D, the second on the device of the first."""
    first = as_rows(a, names[0], least=least)
    return first, as_rows(b, names[1], least=least, columns=first.shape[1]).to(first.device)


def tile_rows(device: torch.device) -> int:
    return CPU_TILE if device.type == "cpu" else DEVICE_TILE


def parts(
    rows: Tensor, shift: Tensor | None = None, dtype: torch.dtype = torch.float64
) -> Iterator[tuple[slice, Tensor]]:
    """(where, rows minus ``shift``, rounded to ``dtype``) of one tile after the other."""
    size = tile_rows(rows.device)
    wide = torch.promote_types(rows.dtype, dtype)
    for start in range(0, len(rows), size):
        part = rows[start : start + size].to(wide)
        yield slice(start, start + len(part)), (part if shift is None else part - shift.to(wide)).to(dtype)


def tiles(
    x: Tensor,  # (m, D)
    y: Tensor | None = None,  # (n, D); None: x itself, of which then only the tiles on and above the diagonal come
    shift: Tensor | None = None,  # (D,) float64
    dtype: torch.dtype = torch.float64,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """(rows, columns, inner products) of one tile after the other."""
    for here, left in parts(x, shift, dtype):
        for there, right in parts(x if y is None else y, shift, dtype):
            if y is not None or there.start >= here.start:
                yield here, there, left @ right.T
