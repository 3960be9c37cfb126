"""GPU benchmarks: the device's own bounds, then run() of every benchmarks/bench_cuda_*.py.

python -m benchmarks.gpu [--quick]          writes benchmarks/results/<gpu>.json
python -m benchmarks.gpu --only bounds resize
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_timing import device_copy_bandwidth, device_environment, device_gemm_rate
from benchmarks.timing import environment, write_result


def bounds(*, quick: bool = False) -> dict[str, Any]:
    size = 4096 if quick else 8192
    return {
        "copy_bytes_per_second": device_copy_bandwidth(),
        "float64_flops": device_gemm_rate(torch.float64, size=4096),
        "float32_flops": device_gemm_rate(torch.float32, size=size),
        "tf32_flops": device_gemm_rate(torch.float32, tf32=True, size=size),
        "float16_flops": device_gemm_rate(torch.float16, size=size),
        "bfloat16_flops": device_gemm_rate(torch.bfloat16, size=size),
    }


def parts() -> dict[str, Callable[..., dict[str, Any]]]:
    """Each returns what goes into the result file under its name; SystemExit or an exception where it is wrong."""
    found: dict[str, Callable[..., dict[str, Any]]] = {"bounds": bounds}
    for file in sorted(Path(__file__).parent.glob("bench_cuda_*.py")):
        found[file.stem.removeprefix("bench_cuda_")] = importlib.import_module(f"benchmarks.{file.stem}").run
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sizes")
    parser.add_argument("--only", nargs="+", help="names of parts")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks.gpu needs a CUDA device, and torch sees none", file=sys.stderr)
        return 1
    available = parts()
    unknown = set(given.only or ()) - set(available)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(available)}")
    results: dict[str, Any] = {}
    failed = []
    for name in given.only or available:
        start = time.perf_counter()
        try:
            results[name] = available[name](quick=given.quick)
        except (Exception, SystemExit) as error:  # the other parts' numbers are wanted all the same
            traceback.print_exc()
            results[name] = {"failed": str(error)}
            failed.append(name)
        print(f"{name}: {time.perf_counter() - start:.0f} s {results[name]}", flush=True)
    gpu = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    print(write_result(gpu, results, {**environment(), **device_environment()}))
    for name in failed:
        print(f"{name} failed: the lines above say how", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
