"""Run benchmarks: `--quick` for CI (under 3 minutes, compared with the committed ratios), `--full` for the README.

    python -m benchmarks.run --quick            fails if a ratio against scipy falls by half
    python -m benchmarks.run --quick --accept   commit to today's ratios: writes benchmarks/results/quick.json
    python -m benchmarks.run --full             every part, about 10 minutes; in the environment of benchmarks/peers.sh

End to end and parity run by themselves (benchmarks/README.md): they take longer than the rest together.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import bench_covariance, bench_frechet, bench_network, bench_resize
from benchmarks.paths import BUILD, RESULTS
from benchmarks.timing import environment, plain, write_result

PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "resize": bench_resize.run,
    "covariance": bench_covariance.run,
    "frechet": bench_frechet.run,
    "network": bench_network.run,
}
GUARDED = ("frechet: sqrtm", "frechet: sqrtm, nothing cached")


def ratios(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """How many times faster than each rival, by part."""
    found = {f"resize: {row['preset']}, {row['size']}²": row["ratio"] for row in results["resize"]["rows"]}
    found |= {f"covariance: {name}": results["covariance"][f"ratio_{name}"] for name in ("numpy", "torchmetrics")}
    found |= {f"frechet: {name}": value for name, value in results["frechet"]["ratios"].items()}
    if "network" in results:
        found |= {f"network: {name}": value for name, value in results["network"]["ratios"].items()}
    return found


def quick(accept: bool) -> int:
    start = time.perf_counter()
    results = {name: plain(PARTS[name](quick=True)) for name in ("resize", "covariance", "frechet")}
    found = ratios(results)
    taken = time.perf_counter() - start
    if accept:
        write_result("quick", {"ratios": found}, environment())
    committed = json.loads((RESULTS / "quick.json").read_text())["ratios"]
    fallen = []
    for name, ratio in found.items():
        before = committed.get(name)
        guarded = name in GUARDED
        if guarded and ratio < committed[name] / 2:
            fallen.append(name)
        was = "new" if before is None else f"committed {before:.2f}"
        print(f"{name:40s} {ratio:7.2f} times faster   {was}{'   guarded' if guarded else ''}")
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "quick.json").write_text(json.dumps(results, indent=1))
    print(f"quick benchmarks: {taken:.0f} s")
    for name in fallen:
        print(f"{name}: {found[name]:.2f} is below half of the committed {committed[name]:.2f}", file=sys.stderr)
    return 1 if fallen else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--quick", action="store_true")
    chosen.add_argument("--full", action="store_true")
    parser.add_argument(
        "--accept", action="store_true", help="with --quick: write the ratios that later runs must keep"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="with --full: only these parts")
    given = parser.parse_args()
    if given.quick:
        return quick(given.accept)
    for name in given.only:
        start = time.perf_counter()
        file = write_result(name, PARTS[name](), environment())
        print(f"{name}: {time.perf_counter() - start:.0f} s, {file.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
