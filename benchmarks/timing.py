"""What every benchmark shares: the machine it ran on, that machine's own bounds, paired runs, and the result files."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.paths import RESULTS

PACKAGES = ("fidfast", "torch", "torchvision", "numpy", "scipy", "pillow")
PEERS = ("pytorch-fid", "clean-fid", "torch-fidelity", "torchmetrics")

Keep = Callable[[Mapping[str, Any]], object]  # a benchmark calls it with its result so far, each time a row is done


def forget(_: Mapping[str, Any]) -> None:
    """The Keep of who waits for the end."""


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def environment() -> dict[str, Any]:
    """What a reader needs to judge a number: processor, cores, threads, versions, date."""
    versions = {}
    for package in (*PACKAGES, *PEERS):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def paired(
    runs: Mapping[str, Callable[[], object]], *, rounds: int = 5, at_least: float = 0.05
) -> dict[str, list[float]]:
    """Seconds per call of every contestant, one after another in each round, so that a slow minute hits them all.

    One untimed call goes first. A call shorter than `at_least` seconds is repeated until its turn lasts that long.
    """
    repeats = {}
    for name, run in runs.items():
        first = seconds(run)
        typical = first if first > at_least else seconds(run)
        repeats[name] = max(1, round(at_least / max(typical, 1e-9)))
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                run()
            taken[name].append((time.perf_counter() - start) / repeats[name])
    return taken


def medians(taken: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in taken.items()}


def paired_ratio(taken: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """How many times faster `fast` is: the median over rounds of slow/fast within one round."""
    return statistics.median(theirs / ours for theirs, ours in zip(taken[slow], taken[fast], strict=True))


def copy_bandwidth(megabytes: int = 256) -> float:
    """Bytes copied per second (read once, written once), torch's threads: the bound of work that touches bytes once."""
    source = torch.ones(megabytes * 2**20, dtype=torch.uint8)
    target = torch.empty_like(source)
    taken = paired({"copy": lambda: target.copy_(source)}, rounds=5)
    return source.numel() / medians(taken)["copy"]


def gemm_rate(dtype: torch.dtype, size: int = 2048) -> float:
    """Floating-point operations per second of a size³ matrix product in torch: the bound of dense linear algebra."""
    a, b = (torch.randn(size, size, dtype=dtype) for _ in range(2))
    out = torch.empty(size, size, dtype=dtype)
    taken = paired({"gemm": lambda: torch.mm(a, b, out=out)}, rounds=5)
    return 2 * size**3 / medians(taken)["gemm"]


def check_close(name: str, got: float, expected: float, *, relative: float = 0.0, absolute: float = 0.0) -> float:
    """Equal numbers before time: the difference, or SystemExit naming what disagrees."""
    difference = abs(got - expected)
    if not difference <= relative * abs(expected) + absolute:
        raise SystemExit(f"{name}: expected {expected!r}, got {got!r}: not timing wrong results")
    return difference


def plain(value: Any) -> Any:
    """JSON's types, numbers to six digits where they are measurements."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def write_result(name: str, result: Mapping[str, Any], where: Mapping[str, Any]) -> Path:
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps(plain({"benchmark": name, "environment": where, **result}), indent=1) + "\n")
    return file


def read_result(name: str) -> dict[str, Any]:
    """What a result file holds; nothing where there is none."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def merge_result(name: str, parts: Mapping[str, Any]) -> Path:
    """Write parts of a result; the others stay as they are. The file is whole at every moment."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / f"{name}.json"
    half = file.with_suffix(".part")
    half.write_text(json.dumps(plain({"benchmark": name, **read_result(name), **parts}), indent=1) + "\n")
    half.replace(file)
    return file
