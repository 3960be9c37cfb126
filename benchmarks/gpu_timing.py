"""Timing on a CUDA device: events, medians, a cache emptied before each call; and the device's own bounds."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from typing import Any

import torch

from fidfast.precision import network_switches

FLUSH_BYTES = 512 * 2**20  # more than any device's second-level cache


def device_seconds(run: Callable[[], object], *, rounds: int = 20, flush: bool = True) -> float:
    """Median seconds of one call on the device. Launches queue behind the flush, so the host's overhead hides."""
    trash = torch.empty(FLUSH_BYTES if flush else 1, dtype=torch.uint8, device="cuda")
    for _ in range(3):
        run()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(rounds)]
    for start, end in events:
        trash.zero_()
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events) / 1e3


def device_copy_bandwidth() -> float:
    """Bytes read plus bytes written per second by a copy within the device's memory."""
    source = torch.randint(0, 256, (2**30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / device_seconds(lambda: target.copy_(source))


def device_gemm_rate(dtype: torch.dtype, *, tf32: bool = False, size: int = 8192) -> float:
    """Floating-point operations per second of a size³ product."""
    with network_switches(torch.device("cuda"), tf32=tf32):
        a, b = (torch.randn(size, size, dtype=dtype, device="cuda") for _ in range(2))
        out = torch.empty_like(a)
        return 2 * size**3 / device_seconds(lambda: torch.mm(a, b, out=out), rounds=10)


def result_name() -> str:
    """The GPU's name as that of a result file."""
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def device_environment() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
    }
