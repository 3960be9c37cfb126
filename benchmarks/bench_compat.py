"""Each façade against the tool that it stands for: the same lines of a user's program, run twice, 256×256 images.

    python -m benchmarks.bench_compat                          500 images a side, one round; in .venv-peers
    python -m benchmarks.bench_compat --images 24 --only pytorch-fid
    python -m benchmarks.bench_compat --rounds 3 --result compat

A row is a program in the tool's own names. It runs in a process of its own as it stands, then once more after
`fidfast.compat.install(...)`, at the tool's default batch size, and as it stands at a better one. The numbers must be
equal before a ratio counts. Wall time is of the whole process: imports, weights, images, distance.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench_end_to_end import check_equal, image_folders
from benchmarks.paths import CLEAN_FID_WEIGHTS, REPOSITORY
from benchmarks.peer_runs import CPUS, uint8_batches
from benchmarks.peer_weights import make_peer_weights, peer_environment
from benchmarks.timing import environment, write_result


@dataclass(frozen=True)
class Row:
    """A program of the tool's user: (real folder, generated folder, batch size or None for the default) → FID."""

    imports: str  # the argument of install(), and what must be importable
    program: Callable[[str, str, int | None], float]
    better_batch: int | None = None  # the fastest for the tool on this benchmark's machine
    prepare: Callable[[], None] | None = None  # before the tool itself runs: where its weights are


def pytorch_fid(real: str, generated: str, batch_size: int | None) -> float:
    from pytorch_fid.fid_score import calculate_fid_given_paths

    return float(calculate_fid_given_paths([real, generated], batch_size or 50, "cpu", 2048, CPUS))


def clean_fid(real: str, generated: str, batch_size: int | None) -> float:
    import torch
    from cleanfid import fid

    workers = {} if batch_size is None else {"num_workers": CPUS, "batch_size": batch_size}
    return float(fid.compute_fid(real, generated, device=torch.device("cpu"), use_dataparallel=False, **workers))


def clean_fid_weights() -> None:
    """clean-fid looks for its weights in /tmp only."""
    import cleanfid.features
    from cleanfid.inception_torchscript import InceptionV3W

    cleanfid.features.InceptionV3W = lambda path, download, resize_inside: InceptionV3W(
        str(CLEAN_FID_WEIGHTS), download=False, resize_inside=resize_inside
    )


def torchmetrics(real: str, generated: str, batch_size: int | None) -> float:
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance()
    with torch.no_grad():
        for folder, is_real in ((real, True), (generated, False)):
            for batch in uint8_batches(Path(folder), batch_size or 32):
                metric.update(batch, real=is_real)
        return float(metric.compute())


def torch_fidelity(real: str, generated: str, batch_size: int | None) -> float:
    from torch_fidelity import calculate_metrics

    inputs = {"input1": generated, "input2": real}
    values = calculate_metrics(**inputs, fid=True, cuda=False, cache=False, batch_size=batch_size or 64, verbose=False)
    return float(values["frechet_inception_distance"])


class GeneratedFolder:
    """A sampler for FIDEvaluation that reads its images: what is timed is the evaluation."""

    def __init__(self, folder: str) -> None:
        self.images = batches_in_unit_range(folder, 1)

    def eval(self) -> None:
        pass

    def sample(self, batch_size: int) -> Any:
        import torch

        return torch.cat([next(self.images) for _ in range(batch_size)])


def batches_in_unit_range(folder: str, batch_size: int) -> Iterator[Any]:
    return (batch.float() / 255 for batch in uint8_batches(Path(folder), batch_size))


def denoising_diffusion(real: str, generated: str, batch_size: int | None) -> float:
    import tempfile

    from denoising_diffusion_pytorch.fid_evaluation import FIDEvaluation

    size = batch_size or 16  # Trainer's default
    count = len(list(Path(generated).iterdir()))
    with tempfile.TemporaryDirectory() as stats_dir:
        reals = batches_in_unit_range(real, size)
        evaluation = FIDEvaluation(
            size, reals, GeneratedFolder(generated), stats_dir=stats_dir, device="cpu", num_fid_samples=count
        )
        return float(evaluation.fid_score())


ROWS = {
    "pytorch-fid": Row("pytorch_fid", pytorch_fid, better_batch=16),
    "clean-fid": Row("cleanfid", clean_fid, better_batch=16, prepare=clean_fid_weights),
    "torchmetrics": Row("torchmetrics", torchmetrics, better_batch=16),
    "torch-fidelity": Row("torch_fidelity", torch_fidelity, better_batch=16),
    "denoising-diffusion-pytorch": Row("denoising_diffusion_pytorch", denoising_diffusion),
}


def child(tool: str, side: str, real: str, generated: str, batch_size: int) -> None:
    """One program, in this process; JSON on the last line of standard output."""
    row = ROWS[tool]
    with contextlib.redirect_stdout(sys.stderr):  # the tools print as they go
        if side == "ours":
            from fidfast.compat import install

            install(row.imports)
        elif row.prepare is not None:
            row.prepare()
        start = time.perf_counter()
        value = row.program(real, generated, batch_size or None)
        taken = time.perf_counter() - start
    print(json.dumps({"fid": value, "call_seconds": taken}))


def run_once(tool: str, side: str, folders: Sequence[Path], batch_size: int | None) -> dict[str, Any]:
    arguments = [tool, side, *map(str, folders), str(batch_size or 0)]
    command = [sys.executable, "-m", "benchmarks.bench_compat", "--child", *arguments]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=REPOSITORY, env=peer_environment(), capture_output=True, text=True, check=False)
    wall = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    result = {**json.loads(done.stdout.splitlines()[-1]), "wall_seconds": wall}
    print(f"compat: {tool}, {side}, batch {batch_size or 'default'}: {wall:.1f} s", file=sys.stderr)
    return result


def measure(tool: str, folders: Sequence[Path], rounds: int) -> dict[str, Any]:
    """Runs of one row, and how many times faster ours is, within the same round."""
    row = ROWS[tool]
    contestants = {"ours": ("ours", None), "theirs": ("theirs", None)}
    if row.better_batch is not None:
        contestants[f"theirs, batch {row.better_batch}"] = ("theirs", row.better_batch)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, (side, batch_size) in contestants.items():
            runs[name].append(run_once(tool, side, folders, batch_size))
    for name, taken in runs.items():
        check_equal(f"{tool}, {name}", runs["ours"][0]["fid"], taken[0]["fid"])
    ratios = {
        name: statistics.median(
            slow["wall_seconds"] / fast["wall_seconds"] for slow, fast in zip(taken, runs["ours"], strict=True)
        )
        for name, taken in runs.items()
        if name != "ours"
    }
    return {"runs": runs, "ratios": ratios}


def run(*, images: int, rounds: int, only: Sequence[str]) -> dict[str, Any]:
    make_peer_weights()
    folders = image_folders(images)
    rows, absent = {}, []
    for tool, row in ROWS.items():
        if only and tool not in only:
            continue
        if importlib.util.find_spec(row.imports) is None:
            absent.append(tool)
            print(f"compat: {tool} is not installed: left out", file=sys.stderr)
            continue
        rows[tool] = measure(tool, folders, rounds)
    return {"images_per_side": images, "rows": rows, "not_installed": absent}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        tool, side, real, generated, batch_size = sys.argv[2:]
        child(tool, side, real, generated, int(batch_size))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500, help="images a side")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=(), help="only these tools")
    parser.add_argument("--result", default="compat", help="name of the result file (default: %(default)s)")
    given = parser.parse_args()
    result = run(images=given.images, rounds=given.rounds, only=given.only)
    for tool, row in result["rows"].items():
        for name, ratio in row["ratios"].items():
            print(f"{tool:30s} {name:20s} {ratio:6.2f} times the time of ours")
    write_result(given.result, result, environment())


if __name__ == "__main__":
    main()
