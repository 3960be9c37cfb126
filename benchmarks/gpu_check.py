"""On a machine with a GPU: build, test, look for faults with compute-sanitizer, measure. Needs no network.

    python -m benchmarks.gpu_check                          every part, in the order of the table below
    python -m benchmarks.gpu_check build tests memcheck     these
    python -m benchmarks.gpu_check --seconds 540 --into DIR ...

Each part is a process of its own, so that a fault in one does not reach the next; those that only look for faults run
side by side. What came of a part stands in benchmarks/results/<gpu>.json as soon as it ends, beside what earlier calls
left there, and its output in build/gpu-check/<part>.log. Nothing is installed: the Python that runs this has torch with
CUDA, pytest, setuptools 77 or later, pybind11 and ninja (and scipy, mpmath for some tests); nvcc is on PATH or in
/usr/local/cuda. TORCH_CUDA_ARCH_LIST says what is compiled; without it, for the GPU that is here.
What needs the FID weights finds them as fidfast does; FIDFAST_WEIGHTS=FILE names them, and then no test may skip them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from benchmarks.gpu import PARTS as MEASURED
from benchmarks.paths import REPOSITORY, RESULTS
from benchmarks.timing import merge_result, read_result

LOGS = REPOSITORY / "build" / "gpu-check"
NEEDED = ("pytest", "setuptools", "pybind11", "ninja")
OLDEST_SETUPTOOLS = 77  # the first to read pyproject.toml's license = "Apache-2.0"
CPU_SHARE = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of all its cores, of how many
# Kernel tests of the sanitizers. Two are left out: 4 GB of rows, and rows of 16384 pixels, are slow under them.
KERNEL_TESTS = ("-m", "pytest", "-q", "-m", "kernels and cuda", "-k", "not further_apart and not longest")


Outcome = dict[str, Any]  # of a part: passed, seconds, and what its log says


class Part(NamedTuple):
    command: Sequence[str]
    limit: float = 120.0  # seconds
    beside: bool = False  # may run beside its neighbours: nothing is timed
    environment: Mapping[str, str] = MappingProxyType({})


def sanitizer() -> str | None:
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin", f"{os.environ.get('CUDA_HOME')}/bin"])
    return shutil.which("compute-sanitizer", path=places)


def sanitized(tool: str) -> Part:
    """The kernel tests under one of compute-sanitizer's tools.

    torch's own kernels are left out, except by initcheck, which must see what they write. Each tensor is an allocation
    of its own: within torch's large blocks no access is out of bounds and nothing is new.
    """
    which = [] if tool == "initcheck" else ["--kernel-name", "kernel_substring=fidfast"]
    found = sanitizer() or "compute-sanitizer"
    command = [found, "--tool", tool, *which, "--report-api-errors", "no", "--error-exitcode", "86"]
    return Part([*command, sys.executable, *KERNEL_TESTS], 240.0, True, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})


def parts() -> dict[str, Part]:
    python = sys.executable
    return {
        "build": Part([python, "setup.py", "-q", "build_ext", "--inplace"], 400.0),
        "tests": Part([python, "-m", "pytest", "-q", "-m", "cuda"], 300.0, True),
        **{tool: sanitized(tool) for tool in ("memcheck", "racecheck", "initcheck", "synccheck")},
        **{name: Part([python, "-m", "benchmarks.gpu", "--quick", name], 280.0) for name in MEASURED},
    }


def groups(names: Sequence[str], known: dict[str, Part]) -> Iterator[list[str]]:
    """The parts in order, those that may run side by side together."""
    together: list[str] = []
    for name in names:
        if together and not (known[name].beside and known[together[-1]].beside):
            yield together
            together = []
        together.append(name)
    if together:
        yield together


def cores() -> int:
    """How many may be used: a container may see all of a machine's and have the time of a few."""
    allowed = len(os.sched_getaffinity(0))
    try:
        share, period = CPU_SHARE.read_text().split()
    except (OSError, ValueError):
        return allowed
    return allowed if share == "max" else max(1, min(allowed, int(share) // int(period)))


def run_together(
    names: Sequence[str], known: dict[str, Part], seconds_left: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each part's name and outcome, as it ends."""
    LOGS.mkdir(parents=True, exist_ok=True)
    threads = max(1, cores() // len(names))
    running: dict[str, tuple[subprocess.Popen[bytes], float, float]] = {}
    try:
        for name in names:
            try:
                running[name] = (
                    begin(name, known[name], threads),
                    time.perf_counter(),
                    min(known[name].limit, seconds_left),
                )
            except OSError as error:
                yield name, {"passed": False, "why": str(error)}
        while running:
            time.sleep(0.05)
            for name, (process, started, limit) in list(running.items()):
                taken = time.perf_counter() - started
                status = process.poll()
                if status is None and taken < limit:
                    continue
                if status is None:
                    end(process)
                del running[name]
                outcome = {"passed": status == 0, "seconds": round(taken, 1), **said(LOGS / f"{name}.log")}
                if status is None:
                    outcome["why"] = f"ended after {limit:.0f} s"
                elif status:
                    outcome["why"] = f"exit status {status}"
                yield name, outcome
    finally:
        for process, _, _ in running.values():
            end(process)


def begin(name: str, part: Part, threads: int) -> subprocess.Popen[bytes]:
    """In a session of its own: a sanitizer's program ends with the sanitizer."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if part.beside:  # threads that wait for each other's cores take fifty times as long
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment |= part.environment
    with (LOGS / f"{name}.log").open("w") as log:
        return subprocess.Popen(
            part.command, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )


def end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def said(log: Path) -> dict[str, str]:
    """The lines of a log that sum it up: pytest's and the sanitizer's."""
    found = {}
    for line in log.read_text(errors="replace").splitlines():
        if "SUMMARY:" in line or "hazards displayed" in line:
            found["summary"] = line.strip("= ")
        elif re.search(r"\b\d+ (passed|failed|errors?|skipped|deselected)\b", line):
            found["tests"] = line.strip("= ")
    return found


def prepare() -> str:
    """The GPU's name as a file's; SystemExit where something is missing. Sets what the parts inherit."""
    absent = [name for name in NEEDED if not importlib.util.find_spec(name)]
    if absent:
        raise SystemExit(f"gpu-check: {sys.executable} has no {', '.join(absent)}: make gpu-check PYTHON=another")
    setuptools = importlib.metadata.version("setuptools")
    if int(setuptools.split(".")[0]) < OLDEST_SETUPTOOLS:
        raise SystemExit(
            f"gpu-check: setuptools: expected {OLDEST_SETUPTOOLS} or later, got {setuptools} in {sys.executable}: "
            f'{sys.executable} -m pip install "setuptools>={OLDEST_SETUPTOOLS}"'
        )
    import torch

    from benchmarks.gpu_timing import result_name

    if not torch.cuda.is_available():
        raise SystemExit(f"gpu-check: torch {torch.__version__} of {sys.executable} sees no CUDA device")
    capability = "{}.{}".format(*torch.cuda.get_device_capability())
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ.update(FIDFAST_CUDA="1", FIDFAST_REQUIRE_CUDA="1", PYTHONPATH=os.pathsep.join(paths))
    if os.environ.get("FIDFAST_WEIGHTS"):  # they are here: a test that does not find them fails
        os.environ.setdefault("FIDFAST_REQUIRE_WEIGHTS", "1")
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip()
    os.environ["TORCH_CUDA_ARCH_LIST"] = listed or capability
    whose = "as TORCH_CUDA_ARCH_LIST says" if listed else "its own"
    print(
        f"gpu-check: {torch.cuda.get_device_name()}, {capability}; compiled for {listed or capability}, {whose}",
        flush=True,
    )
    return result_name()


def check(name: str, chosen: Sequence[str], known: dict[str, Part], *, seconds: float, into: Path | None) -> int:
    """Runs the parts and writes benchmarks/results/<name>.json; 1 if one did not pass."""
    started = time.perf_counter()
    failed = []

    def keep(part: str, outcome: Outcome) -> None:
        if not outcome["passed"]:
            failed.append(part)
        file = merge_result(name, {"check": {**read_result(name).get("check", {}), part: outcome}})
        print(f"{part}: {outcome}", flush=True)
        if not outcome["passed"] and (LOGS / f"{part}.log").exists():
            print("\n".join((LOGS / f"{part}.log").read_text(errors="replace").splitlines()[-40:]), flush=True)
        if into is not None:
            into.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, into)
            logs = sorted(LOGS.glob("*.log"), key=lambda log: log.stat().st_mtime)
            (into / "gpu-check.log").write_text(
                "\n".join(f"##### {log.stem}\n{log.read_text(errors='replace')[-100_000:]}" for log in logs)
            )

    for together in groups(chosen, known):
        left = seconds - (time.perf_counter() - started)
        if left < 10:
            for part in together:
                keep(part, {"passed": False, "why": "not begun: no time was left"})
            continue
        for part, outcome in run_together(together, known, left - 5):
            keep(part, outcome)
        if "build" in failed and "build" in together:
            print("gpu-check: nothing else runs without the build", flush=True)
            break
    print(f"gpu-check: {time.perf_counter() - started:.0f} s, {RESULTS / f'{name}.json'}")
    if failed:
        print(f"gpu-check: did not pass: {', '.join(failed)}")
    return 1 if failed else 0


def main() -> int:
    known = parts()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *known], metavar="PART", help=", ".join(known))
    parser.add_argument("--seconds", type=float, default=3600.0, help="for all of them; what is then left is not begun")
    parser.add_argument("--into", type=Path, help="also copy the result and the logs there, after each part")
    given = parser.parse_args()
    name = prepare()
    chosen = given.parts or list(known)
    if not sanitizer():
        print("compute-sanitizer is not installed here: memcheck, racecheck, initcheck and synccheck are left out")
        chosen = [part for part in chosen if part not in ("memcheck", "racecheck", "initcheck", "synccheck")]
    return check(name, chosen, known, seconds=given.seconds, into=given.into)


if __name__ == "__main__":
    sys.exit(main())
