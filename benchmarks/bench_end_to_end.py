"""Whole commands on folders of 256×256 images, nothing cached: wall time from start to printed number.

    python -m benchmarks.bench_end_to_end                                     1000 images a side, three rounds
    python -m benchmarks.bench_end_to_end --images 24 --rounds 1
    python -m benchmarks.bench_end_to_end --only fidfast pytorch-fid --keep   one more round of these two

First every tool's number on a few images must equal ours with that tool's preset. Then the contestants run one after
another within each round, at their own defaults. Real images are PNG, generated ones JPEG; both are read once
beforehand, so that nobody pays for a cold disk. `--compile` starts with an empty compilation cache every time.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.image_sets import make_image_set
from benchmarks.paths import REPOSITORY, RESULTS
from benchmarks.peer_runs import TOOLS, missing
from benchmarks.peer_weights import make_peer_weights, peer_environment
from benchmarks.timing import environment, write_result

RELATIVE, ABSOLUTE = 1e-4, 1e-4  # tests/tolerances.py, row "fid/peer"
COMPARED = ("pytorch-fid", "clean-fid", "torch-fidelity", "torchmetrics")
Runs = dict[str, list[dict[str, Any]]]


def tool_command(tool: str, real: Path, generated: Path) -> list[str]:
    """The tool's own command at its defaults; clean-fid and torchmetrics have none: a few lines of Python call them."""
    python = [sys.executable, "-m"]
    if tool == "pytorch-fid":
        return [*python, "pytorch_fid", str(real), str(generated), "--device", "cpu"]
    if tool == "torch-fidelity":
        options = ["--fid", "--cpu", "--no-cache", "--json"]
        return [*python, "torch_fidelity.fidelity", *options, "--input1", str(real), "--input2", str(generated)]
    folders = json.dumps([{"real": str(real), "generated": str(generated)}])
    return [*python, "benchmarks.peer_runs", "fid", tool, folders]


def our_command(real: Path, generated: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "fidfast", str(real), str(generated), "--device", "cpu", "--json", *options]


def contestants(real: Path, generated: Path, best_batch: int) -> dict[str, list[str]]:
    return {
        "fidfast": our_command(real, generated),
        "fidfast --compile": our_command(real, generated, "--compile"),
        "pytorch-fid": tool_command("pytorch-fid", real, generated),
        f"pytorch-fid --batch-size {best_batch}": [
            *tool_command("pytorch-fid", real, generated),
            "--batch-size",
            str(best_batch),
        ],
        "fidfast --precision bf16": our_command(real, generated, "--precision", "bf16"),
        **{tool: tool_command(tool, real, generated) for tool in COMPARED[1:]},
    }


def parse(output: str) -> tuple[float, dict[str, Any]]:
    """The FID that a command printed, and what else it said in JSON."""
    text = re.search(r"FID:\s+(\S+)", output)
    if text is not None:
        return float(text[1]), {}
    answer = json.loads(output[output.index("{") :])
    value = answer.get("fid", answer.get("frechet_inception_distance"))
    return float(value[0] if isinstance(value, list) else value), answer


def run_once(command: Sequence[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as empty:
        environ = {**peer_environment(), "TORCHINDUCTOR_CACHE_DIR": empty}
        start = time.perf_counter()
        done = subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, check=False)
        wall = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    value, answer = parse(done.stdout)
    return {"wall_seconds": wall, "fid": value, "stages": answer.get("seconds") if "preset" in answer else None}


def check_equal(label: str, ours: float, theirs: float) -> dict[str, Any]:
    if abs(ours - theirs) > RELATIVE * abs(theirs) + ABSOLUTE:
        raise SystemExit(f"{label}: expected FID {theirs}, ours is {ours}: not timing wrong results")
    return {"name": label, "theirs": theirs, "ours": ours}


def check_tools(images: int = 24) -> list[dict[str, Any]]:
    """Every tool's command against ours with its preset, on a few images."""
    folders = image_folders(images)
    rows = []
    for tool in COMPARED:
        theirs = run_once(tool_command(tool, *folders))["fid"]
        ours = run_once(our_command(*folders, "--preset", TOOLS[tool][0]))["fid"]
        rows.append(check_equal(f"{tool}, {images} images a side", ours, theirs))
        print(f"end to end: equal to {tool}: {ours:.5f}, {theirs:.5f}", file=sys.stderr)
    return rows


def image_folders(images: int) -> list[Path]:
    folders = [
        make_image_set("photographs", images, size=256, seed=seed, form=form)
        for seed, form in ((1, "png"), (2, "jpeg"))
    ]
    for folder in folders:
        for file in folder.iterdir():
            file.read_bytes()
    return folders


def time_rounds(listed: dict[str, list[str]], rounds: int, best_batch: int, runs: Runs) -> None:
    """pytorch-fid and fidfast run in each round, the others once; `runs` grows."""
    every_round = {"fidfast", "fidfast --compile", "pytorch-fid", f"pytorch-fid --batch-size {best_batch}"}
    for _ in range(rounds):
        for name, command in listed.items():
            taken = runs.setdefault(name, [])
            if not taken or name in every_round:
                taken.append(run_once(command))
                print(f"end to end: {name}, run {len(taken)}: {taken[-1]['wall_seconds']:.1f} s", file=sys.stderr)


def summary(runs: Runs, images: int) -> dict[str, Any]:
    """Medians, ratios of runs of the same round, and what compilation costs."""
    ratios = {}
    for fast in ("fidfast", "fidfast --compile"):
        for slow, taken in runs.items():
            if fast in runs and not slow.startswith("fidfast"):
                pairs = zip(taken, runs[fast], strict=False)
                ratios[f"{fast} / {slow}"] = statistics.median(a["wall_seconds"] / b["wall_seconds"] for a, b in pairs)
    result: dict[str, Any] = {
        "wall_seconds": {name: statistics.median(run["wall_seconds"] for run in taken) for name, taken in runs.items()},
        "ratios": ratios,
    }
    network = {
        name: statistics.median(run["stages"]["network"] for run in runs[name]) / (2 * images)
        for name in ("fidfast", "fidfast --compile")
        if name in runs
    }
    result["network_images_per_second"] = {name: 1 / seconds for name, seconds in network.items()}
    if len(network) == 2:
        # wall = fixed + images · network seconds: the compiled run's fixed part is larger by the compilation.
        eager, compiled = network["fidfast"], network["fidfast --compile"]
        walls = result["wall_seconds"]
        more = walls["fidfast --compile"] - walls["fidfast"] + 2 * images * (eager - compiled)
        result["compile_extra_seconds"] = more
        result["compile_pays_from_images"] = more / (eager - compiled) if eager > compiled else None
    return result


def run(
    *, images: int, rounds: int, best_batch: int, only: Sequence[str], keep: dict[str, Any] | None
) -> dict[str, Any]:
    make_peer_weights()
    listed = contestants(*image_folders(images), best_batch)
    if unknown := [name for name in only if name not in listed]:
        raise SystemExit(f"--only: expected some of {', '.join(listed)}, got {', '.join(unknown)}")
    if absent := [tool for tool in COMPARED if missing(tool)]:
        raise SystemExit(f"{', '.join(absent)} not installed: run benchmarks/peers.sh and use .venv-peers/bin/python")
    equal = keep["equal"] if keep else check_tools()
    runs: Runs = keep["runs"] if keep else {}
    time_rounds({name: what for name, what in listed.items() if not only or name in only}, rounds, best_batch, runs)
    for name, taken in runs.items():
        if name == "fidfast --compile" or name.startswith("pytorch-fid"):
            for one in taken:
                check_equal(f"{name}, {images} images a side", runs["fidfast"][0]["fid"], one["fid"])
    return {"images_per_side": images, "best_batch": best_batch, "equal": equal, "runs": runs, **summary(runs, images)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="images a side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--best-batch", type=int, default=16, help="pytorch-fid's fastest batch size (bench_network)")
    parser.add_argument("--only", nargs="+", default=(), help="only these contestants")
    parser.add_argument(
        "--keep", action="store_true", help="add to the runs of the result file, if its images are the same"
    )
    parser.add_argument("--result", default="end_to_end", help="name of the result file (default: %(default)s)")
    given = parser.parse_args()
    file = RESULTS / f"{given.result}.json"
    keep = json.loads(file.read_text()) if given.keep and file.exists() else None
    if keep is not None and keep["images_per_side"] != given.images:
        keep = None
    result = run(images=given.images, rounds=given.rounds, best_batch=given.best_batch, only=given.only, keep=keep)
    print(json.dumps({key: result[key] for key in ("wall_seconds", "ratios")}, indent=1))
    write_result(given.result, result, environment())


if __name__ == "__main__":
    main()
