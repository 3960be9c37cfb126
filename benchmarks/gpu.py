"""GPU benchmarks: the device's own bounds, then run() of every benchmarks/bench_cuda_*.py and matrix_sqrt.

python -m benchmarks.gpu [--quick]              writes benchmarks/results/<gpu>.json, after each row of each part
python -m benchmarks.gpu --quick bounds resize  these parts; what the file says of the others stays
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.timing import Keep, environment, forget, merge_result, plain


def bounds(*, quick: bool = False, keep: Keep = forget) -> dict[str, Any]:
    import torch

    from benchmarks.gpu_timing import device_copy_bandwidth, device_gemm_rate

    size = 4096 if quick else 8192
    rates: dict[str, Callable[[], float]] = {
        "copy_bytes_per_second": device_copy_bandwidth,
        "float64_flops": lambda: device_gemm_rate(torch.float64, size=4096),
        "float32_flops": lambda: device_gemm_rate(torch.float32, size=size),
        "tf32_flops": lambda: device_gemm_rate(torch.float32, tf32=True, size=size),
        "float16_flops": lambda: device_gemm_rate(torch.float16, size=size),
        "bfloat16_flops": lambda: device_gemm_rate(torch.bfloat16, size=size),
    }
    found: dict[str, float] = {}
    for name, rate in rates.items():
        found[name] = rate()
        keep(found)
    return found


def _run_of(module: str) -> Callable[..., dict[str, Any]]:
    """Imported when it runs: a module that cannot be imported fails alone."""
    return lambda **options: importlib.import_module(f"benchmarks.{module}").run(**options)


# Each returns what goes into the result file under its name, and hands what it has of that to keep= after each row;
# SystemExit or an exception where it is wrong.
PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "bounds": bounds,
    **{
        file.stem.removeprefix("bench_cuda_"): _run_of(file.stem)
        for file in sorted(
            Path(__file__).parent.glob("bench_cuda_*.py"), key=lambda file: (file.stem == "bench_cuda_fid", file)
        )
    },
    "matrix_sqrt": _run_of("bench_matrix_sqrt"),
}


def measured(name: str, where: Mapping[str, Any], *, quick: bool) -> bool:
    """Runs a part and writes what it found, so far after each row: a part may be killed at any moment."""
    from benchmarks.gpu_timing import result_name

    so_far: dict[str, Any] = {}

    def keep(found: Mapping[str, Any]) -> None:
        so_far.update(plain(found))
        merge_result(result_name(), {"environment": where, name: {**so_far, "finished": False}})

    start, failed = time.perf_counter(), False
    try:
        found = plain(PARTS[name](quick=quick, keep=keep))
    except (Exception, SystemExit) as error:  # the other parts' numbers are wanted all the same
        traceback.print_exc()
        found, failed = {**so_far, "failed": str(error)}, True
    print(f"{name}: {time.perf_counter() - start:.0f} s {found}", flush=True)
    merge_result(result_name(), {"environment": where, name: found})
    return not failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer sizes")
    given = parser.parse_args()
    import torch

    from benchmarks.gpu_timing import device_environment

    if not torch.cuda.is_available():
        print("benchmarks.gpu needs a CUDA device, and torch sees none", file=sys.stderr)
        return 1
    where = {**environment(), **device_environment(), "quick": given.quick}
    failed = [name for name in given.parts or PARTS if not measured(name, where, quick=given.quick)]
    for name in failed:
        print(f"{name} failed: the lines above say how", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
