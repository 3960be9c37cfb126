"""Whole commands on folders of 256×256 images, nothing cached: wall time from start to printed number.

    python -m benchmarks.bench_end_to_end --images 1000 --rounds 3

Contestants run one after another within each round. Every number is checked against the tool's twin before it counts.
Real images are PNG, generated ones JPEG; both are read once beforehand, so that no contestant pays for a cold disk.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.image_sets import make_image_set
from benchmarks.paths import REPOSITORY
from benchmarks.peer_runs import missing
from benchmarks.peer_weights import make_peer_weights, peer_environment
from benchmarks.timing import environment, write_result

RELATIVE, ABSOLUTE = 1e-4, 1e-4  # tests/tolerances.py, row "fid/peer"


def commands(real: str, generated: str, best_batch: int) -> dict[str, tuple[str, list[str]]]:
    """name: (our preset that must give the same number, the command)"""
    python = [sys.executable, "-m"]
    peer = [*python, "benchmarks.peer_runs", "fid"]
    folders = json.dumps([{"real": real, "generated": generated}])
    fidfast = [*python, "fidfast", real, generated, "--device", "cpu", "--json"]
    return {
        "fidfast": ("pytorch-fid", fidfast),
        "fidfast --compile": ("pytorch-fid", [*fidfast, "--compile"]),
        "fidfast --precision bf16": ("pytorch-fid", [*fidfast, "--precision", "bf16"]),
        "pytorch-fid": ("pytorch-fid", [*python, "pytorch_fid", real, generated, "--device", "cpu"]),
        f"pytorch-fid --batch-size {best_batch}": (
            "pytorch-fid",
            [*python, "pytorch_fid", real, generated, "--device", "cpu", "--batch-size", str(best_batch)],
        ),
        # clean-fid and torchmetrics have no command: a program of a few lines calls them at their defaults.
        "clean-fid": ("clean-fid", [*peer, "clean-fid", folders]),
        "torch-fidelity": (
            "tensorflow",
            [
                *python,
                "torch_fidelity.fidelity",
                "--fid",
                "--cpu",
                "--no-cache",
                "--json",
                "--input1",
                real,
                "--input2",
                generated,
            ],
        ),
        "torchmetrics": ("torchmetrics", [*peer, "torchmetrics", folders]),
        "fidfast --preset clean-fid": ("clean-fid", [*fidfast, "--preset", "clean-fid"]),
        "fidfast --preset tensorflow": ("tensorflow", [*fidfast, "--preset", "tensorflow"]),
        "fidfast --preset torchmetrics": ("torchmetrics", [*fidfast, "--preset", "torchmetrics"]),
    }


def parse(output: str) -> tuple[float, dict[str, Any]]:
    """The FID that a command printed, and what else it said in JSON."""
    text = re.search(r"FID:\s+(\S+)", output)
    if text is not None:
        return float(text[1]), {}
    answer = json.loads(output[output.index("{") :])
    value = answer.get("fid", answer.get("frechet_inception_distance"))
    return float(value[0] if isinstance(value, list) else value), answer


def run_once(command: Sequence[str], environ: dict[str, str]) -> dict[str, Any]:
    start = time.perf_counter()
    done = subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    value, answer = parse(done.stdout)
    return {"wall_seconds": wall, "fid": value, "stages": answer.get("seconds") if "preset" in answer else None}


def read_once(folders: Sequence[Path]) -> None:
    for folder in folders:
        for file in folder.iterdir():
            file.read_bytes()


def check_equal(runs: dict[str, list[dict[str, Any]]], presets: dict[str, str]) -> list[dict[str, Any]]:
    """Each tool's FID beside ours with the same preset; SystemExit if any two differ by more than the tolerance."""
    ours = {presets[name]: run[0]["fid"] for name, run in runs.items() if name == "fidfast" or "--preset" in name}
    rows = []
    for name, results in runs.items():
        if presets[name] in ours and name != "fidfast --precision bf16":
            for result in results:
                difference = ours[presets[name]] - result["fid"]
                if abs(difference) > RELATIVE * abs(result["fid"]) + ABSOLUTE:
                    raise SystemExit(
                        f"{name}: FID {result['fid']}, ours {ours[presets[name]]}: not timing wrong results"
                    )
            rows.append({"name": name, "fid": results[0]["fid"], "difference": ours[presets[name]] - results[0]["fid"]})
    return rows


def compile_pays_from(eager: dict[str, Any], compiled: dict[str, Any], count: int) -> float | None:
    """Images in all from which the compiled network wins: t = a + n·b for each, b from the network's own time."""
    rates = [run["stages"]["network"] / count for run in (eager, compiled) if run["stages"]]
    if len(rates) < 2 or rates[1] >= rates[0]:
        return None
    overhead = (compiled["wall_seconds"] - rates[1] * count) - (eager["wall_seconds"] - rates[0] * count)
    return max(0.0, overhead / (rates[0] - rates[1]))


def run(*, images: int = 1000, rounds: int = 3, best_batch: int = 16, only: Sequence[str] = ()) -> dict[str, Any]:
    """Rounds of every contestant; pytorch-fid and fidfast in each round, the others in the first alone."""
    make_peer_weights()
    folders = [
        make_image_set("photographs", images, size=256, seed=seed, form=form)
        for seed, form in ((1, "png"), (2, "jpeg"))
    ]
    read_once(folders)
    listed = commands(*(str(folder) for folder in folders), best_batch)
    if only:
        listed = {name: what for name, what in listed.items() if name in only}
    elif absent := [tool for tool in ("pytorch-fid", "clean-fid", "torch-fidelity", "torchmetrics") if missing(tool)]:
        raise SystemExit(
            f"{', '.join(absent)} not installed here: run benchmarks/peers.sh and use .venv-peers/bin/python"
        )
    every_round = {"fidfast", "fidfast --compile", "pytorch-fid", f"pytorch-fid --batch-size {best_batch}"}
    environ = peer_environment()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in listed}
    for number in range(rounds):
        for name, (_, command) in listed.items():
            if number == 0 or name in every_round:
                runs[name].append(run_once(command, environ))
                print(
                    f"end to end, round {number + 1}: {name}: {runs[name][-1]['wall_seconds']:.1f} s", file=sys.stderr
                )
    presets = {name: preset for name, (preset, _) in listed.items()}
    equal = check_equal(runs, presets)
    result: dict[str, Any] = {
        "images_per_side": images,
        "rounds": rounds,
        "equal": equal,
        "runs": runs,
        "wall_seconds": {name: statistics.median(run["wall_seconds"] for run in taken) for name, taken in runs.items()},
    }
    ratios = {}
    for fast in ("fidfast", "fidfast --compile"):
        for slow, taken in runs.items():
            if fast in runs and not slow.startswith("fidfast"):
                pairs = zip(taken, runs[fast], strict=False)
                ratios[f"{fast} / {slow}"] = statistics.median(a["wall_seconds"] / b["wall_seconds"] for a, b in pairs)
    result["ratios"] = ratios
    if {"fidfast", "fidfast --compile"} <= runs.keys():
        middle = {
            name: sorted(taken, key=lambda run: run["wall_seconds"])[len(taken) // 2] for name, taken in runs.items()
        }
        result["compile_pays_from_images"] = compile_pays_from(
            middle["fidfast"], middle["fidfast --compile"], 2 * images
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="images a side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--best-batch", type=int, default=16, help="pytorch-fid's fastest batch size here (bench_network)"
    )
    parser.add_argument("--only", nargs="+", default=(), help="only these contestants")
    parser.add_argument("--result", default="end_to_end", help="name of the result file")
    given = parser.parse_args()
    result = run(images=given.images, rounds=given.rounds, best_batch=given.best_batch, only=given.only)
    print(json.dumps({"wall_seconds": result["wall_seconds"], "ratios": result["ratios"]}, indent=1))
    write_result(given.result, result, environment())


if __name__ == "__main__":
    main()
