"""make gpu-check: what a part leaves is kept whatever the others do, and nothing outlasts its limit. Needs no GPU."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import gpu_check, timing

    monkeypatch.setattr(gpu_check, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(timing, "RESULTS", tmp_path / "results")
    return gpu_check


def part(gpu_check: ModuleType, code: str, **options: object) -> object:
    return gpu_check.Part([sys.executable, "-c", code], **options)


def test_every_part_is_recorded_and_the_failed_ones_are_named(gpu_check: ModuleType, tmp_path: Path, capsys) -> None:
    known = {
        "good": part(gpu_check, "print('== 3 passed, 1 skipped in 0.1s ==')"),
        "bad": part(gpu_check, "print('========= ERROR SUMMARY: 2 errors'); raise SystemExit(86)", beside=True),
        "slow": part(gpu_check, "import time; print('begun', flush=True); time.sleep(60)", beside=True, limit=0.5),
        "absent": gpu_check.Part(["no-such-program-anywhere"]),
        "last": part(gpu_check, "import os; print(os.environ['MARK'])", environment={"MARK": "here"}),
    }
    into = tmp_path / "into"
    status = gpu_check.check("a-gpu", list(known), known, seconds=600.0, into=into)
    assert status == 1 and "did not pass: bad, slow, absent" in capsys.readouterr().out
    found = json.loads((into / "a-gpu.json").read_text())["check"]
    assert {name: outcome["passed"] for name, outcome in found.items()} == {
        "good": True, "bad": False, "slow": False, "absent": False, "last": True
    }  # fmt: skip
    assert found["good"]["tests"] == "3 passed, 1 skipped in 0.1s"
    assert found["bad"]["summary"] == "ERROR SUMMARY: 2 errors" and found["bad"]["why"] == "exit status 86"
    assert found["slow"]["why"].startswith("ended after 0") and "no-such-program" in found["absent"]["why"]
    log = (into / "gpu-check.log").read_text()
    assert "##### slow\nbegun" in log and "here" in log


def test_what_earlier_calls_left_stays(gpu_check: ModuleType, tmp_path: Path) -> None:
    from benchmarks.timing import merge_result

    merge_result("a-gpu", {"bounds": {"copy": 1.0}, "check": {"tests": {"passed": True}}})
    known = {"one": part(gpu_check, "pass"), "two": part(gpu_check, "pass")}
    assert gpu_check.check("a-gpu", ["one"], known, seconds=600.0, into=None) == 0
    assert gpu_check.check("a-gpu", ["two"], known, seconds=5.0, into=None) == 1, "no time was left to begin it"
    found = json.loads((tmp_path / "results" / "a-gpu.json").read_text())
    assert found["bounds"] == {"copy": 1.0} and found["check"]["tests"]["passed"]
    assert found["check"]["one"]["passed"] and "not begun" in found["check"]["two"]["why"]


def test_nothing_runs_without_the_build_and_only_checks_run_side_by_side(gpu_check: ModuleType) -> None:
    known = {"build": part(gpu_check, "raise SystemExit(1)"), "then": part(gpu_check, "pass")}
    assert gpu_check.check("a-gpu", list(known), known, seconds=600.0, into=None) == 1
    assert not (gpu_check.LOGS / "then.log").exists()
    parts = gpu_check.parts()
    together = list(gpu_check.groups(list(parts), parts))
    assert together[:2] == [["build"], ["tests", "memcheck", "racecheck", "initcheck", "synccheck"]]
    assert all(len(group) == 1 for group in together[2:])
    assert {"bounds", "covariance", "fid", "frechet", "matrix_sqrt", "products", "resize"} <= set(parts)


def test_parts_side_by_side_share_the_cores(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = "import os; print(*map(os.environ.get, ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')))"
    known = {name: part(gpu_check, code, beside=True) for name in ("one", "two", "three", "four", "five")}
    known["timed"] = part(gpu_check, code)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    monkeypatch.setattr(gpu_check, "CPU_SHARE", tmp_path / "cpu.max")

    def said() -> set[str]:
        assert gpu_check.check("a-gpu", list(known), known, seconds=600.0, into=None) == 0
        assert (gpu_check.LOGS / "timed.log").read_text() == "7 7\n", "timed alone: as its caller has it"
        return {(gpu_check.LOGS / f"{name}.log").read_text() for name in known if name != "timed"}

    assert said() == {"12 12\n"}, "64 cores for five"
    for share, expected in (("1600000 100000", "3 3\n"), ("max 100000", "12 12\n"), ("150000 100000", "1 1\n")):
        (tmp_path / "cpu.max").write_text(f"{share}\n")  # as a container's
        assert said() == {expected}


# ---------------------------------------------------------------------------------------------------------------------
# What must be there, and what the parts inherit
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def prepared(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment that prepare() changes, on a machine that has what it needs."""
    environment = {"HOME": "/"}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "80.9.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU 3000")
    return environment


def test_a_setuptools_that_cannot_read_our_settings_is_named(
    gpu_check: ModuleType, prepared: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    floors = {int(floor) for floor in re.findall(r"setuptools>=(\d+)", (ROOT / "pyproject.toml").read_text())}
    assert len(floors) == 1
    floor = floors.pop()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"{floor - 1}.1.0")
    with pytest.raises(SystemExit, match=rf"setuptools: expected {floor} or later, got {floor - 1}\.1\.0"):
        gpu_check.prepare()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"{floor}.0.1")
    assert gpu_check.prepare() == "a-gpu-3000"


@pytest.mark.parametrize(
    "listed, said",
    [(None, "9.0, its own"), ("", "9.0, its own"), ("7.5 8.0+PTX", "7.5 8.0+PTX, as TORCH_CUDA_ARCH_LIST")],
)
def test_what_is_compiled_is_said(
    gpu_check: ModuleType, prepared: dict[str, str], capsys, listed: str | None, said: str
) -> None:
    if listed is not None:
        prepared["TORCH_CUDA_ARCH_LIST"] = listed
    gpu_check.prepare()
    assert f"A GPU 3000, 9.0; compiled for {said}" in capsys.readouterr().out
    assert prepared["TORCH_CUDA_ARCH_LIST"] == (listed or "9.0")


def test_weights_that_are_named_must_be_found(gpu_check: ModuleType, prepared: dict[str, str]) -> None:
    gpu_check.prepare()
    assert "FIDFAST_REQUIRE_WEIGHTS" not in prepared
    prepared["FIDFAST_WEIGHTS"] = "/no/such/file"
    gpu_check.prepare()
    assert prepared["FIDFAST_REQUIRE_WEIGHTS"] == "1"


# ---------------------------------------------------------------------------------------------------------------------
# The benchmarks
# ---------------------------------------------------------------------------------------------------------------------


def test_every_benchmark_has_what_it_imports(gpu_check: ModuleType) -> None:
    for path in sorted((ROOT / "benchmarks").glob("bench_*.py")):
        assert callable(importlib.import_module(f"benchmarks.{path.stem}").run)


def test_benchmarks_of_the_gpu_have_what_is_called(gpu_check: ModuleType) -> None:
    """They cannot run here; that they import, and have run(quick=), can be seen."""
    for name in [*(path.stem for path in (ROOT / "benchmarks").glob("bench_cuda_*.py")), "bench_matrix_sqrt"]:
        run = importlib.import_module(f"benchmarks.{name}").run
        assert {"quick", "keep"} <= set(inspect.signature(run).parameters)


KILLED = """
import sys
from pathlib import Path
import torch
from benchmarks import gpu, gpu_timing, timing

def endless(*, quick, keep):
    rows = []
    while True:
        rows.append(len(rows))
        keep({"rows": rows})
        print("kept", flush=True)

gpu.PARTS["fid"] = endless
timing.RESULTS = Path(sys.argv.pop(1))
torch.cuda.is_available = lambda: True
gpu_timing.device_environment = dict
gpu_timing.result_name = lambda: "a-gpu"
sys.exit(gpu.main())
"""


def test_a_part_that_is_killed_leaves_its_rows(gpu_check: ModuleType, tmp_path: Path) -> None:
    results = tmp_path / "results"
    file = gpu_check.merge_result("a-gpu", {"bounds": {"copy": 1.0}})
    command = [sys.executable, "-c", KILLED, str(results), "--quick", "fid"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "kept\n"
    process.kill()
    process.communicate()
    found = json.loads(file.read_text())
    assert found["bounds"] == {"copy": 1.0} and found["environment"]["quick"]
    assert found["fid"]["rows"][0] == 0 and found["fid"]["finished"] is False


def test_a_write_that_is_cut_short_changes_nothing(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_check.merge_result("a-gpu", {"bounds": {"copy": 1.0}})
    write = Path.write_text

    def killed(path: Path, text: str) -> int:
        write(path, text[: len(text) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "write_text", killed)
        gpu_check.merge_result("a-gpu", {"fid": {"rows": [1, 2, 3]}})
    assert gpu_check.read_result("a-gpu")["bounds"] == {"copy": 1.0}
    gpu_check.merge_result("a-gpu", {"fid": {"rows": []}})
    assert gpu_check.read_result("a-gpu")["fid"] == {"rows": []}


def test_a_part_that_fails_keeps_its_rows_and_says_why(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> None:
    from benchmarks import gpu, gpu_timing

    def rate(dtype: torch.dtype, **_: Any) -> float:
        if dtype == torch.float16:
            raise RuntimeError("out of memory")
        return 3.0

    monkeypatch.setattr(gpu_timing, "device_copy_bandwidth", lambda: 2.0)
    monkeypatch.setattr(gpu_timing, "device_gemm_rate", rate)
    monkeypatch.setattr(gpu_timing, "result_name", lambda: "a-gpu")

    def found(name: str) -> dict[str, Any]:
        return json.loads((tmp_path / "results" / "a-gpu.json").read_text())[name]

    assert not gpu.measured("bounds", {"gpu": "A GPU"}, quick=True)
    before = {"copy_bytes_per_second": 2.0, "float64_flops": 3.0, "float32_flops": 3.0, "tf32_flops": 3.0}
    assert found("bounds") == {**before, "failed": "out of memory"}
    assert "RuntimeError: out of memory" in capsys.readouterr().err
    monkeypatch.setitem(gpu.PARTS, "bounds", lambda *, quick, keep: {"rows": [keep({"rows": []})]})
    assert gpu.measured("bounds", {"gpu": "A GPU"}, quick=True)
    assert found("bounds") == {"rows": [None]}, "finished: nothing of the earlier call, nothing unfinished"


@pytest.mark.parametrize("quick", [True, False])
def test_what_may_not_come_to_its_end_is_measured_last(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, quick: bool
) -> None:
    """torch.compile takes minutes where nothing is cached: by then all else is kept."""
    from benchmarks import bench_cuda_fid

    class Extractor:
        compile, compile_seconds = False, 0.0

        def __init__(self, dim: int, *, device: str, precision: str, compile: bool = False) -> None:
            self.precision = precision
            if compile:
                raise KeyboardInterrupt

    for name, value in {
        "FeatureExtractor": Extractor,
        "reference": lambda: None,
        "images": lambda count: range(count),
        "device_gemm_rate": lambda dtype, **_: 1e12,
        "evaluated": lambda *_: {"images_per_second": 1.0},
        "network_rate": lambda _: 2.0,
        "profile": lambda *_: {"busy_seconds": 3.0},
    }.items():
        monkeypatch.setattr(bench_cuda_fid, name, value)
    kept: dict[str, Any] = {}
    with pytest.raises(KeyboardInterrupt):
        bench_cuda_fid.run(quick=quick, keep=kept.update)
    precisions = ["fp16", "tf32", "fp32"] if quick else ["fp16", "tf32", "fp32", "bf16"]
    assert [row["precision"] for row in kept["rows"]] == precisions
    assert kept["profile"] and set(kept["fp16_images_per_second_by_chunk"]) == {"32", "128", "256"}


class Stream:
    def wait_stream(self, other: Stream) -> None:
        pass


class Streams:
    """torch.cuda's current stream, and torch.cuda.graph as torch 2.11 has it: a failed one's stream stays."""

    def __init__(self, patch: pytest.MonkeyPatch, refusal: str) -> None:
        self.current = self.first = Stream()
        self.refusal = refusal
        for name, value in {
            "Stream": Stream,
            "CUDAGraph": lambda: torch.nn.Identity(),
            "current_stream": lambda: self.current,
            "synchronize": lambda: None,
            "stream": self.stream,
            "graph": self.graph,
        }.items():
            patch.setattr(torch.cuda, name, value)

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def graph(self, graph: object) -> Iterator[None]:
        self.current = Stream()
        yield
        raise RuntimeError(self.refusal)


def test_a_refused_graph_costs_that_contestant_alone(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    bench = pytest.importorskip("benchmarks.bench_cuda_frechet", reason="needs scipy")
    streams = Streams(monkeypatch, "cuSOLVER: operation not permitted when stream is capturing")
    monkeypatch.setattr(bench, "device_seconds", lambda run, **_: float(run() is None))
    row = bench.full_rank(48, torch.device("cpu"))
    assert streams.current is streams.first
    assert row["CUDA graph"] == f"refused: {streams.refusal}"
    assert set(row["seconds"]) == {"fidfast", "fidfast, sync=False", "eigvalsh", "eigvals", "sqrtm on the host"}
    monkeypatch.setattr(bench, "full_rank", lambda dim, device: {"dim": dim, "ratios": {"eigvalsh": 2.0}})
    monkeypatch.setattr(bench, "low_rank", lambda dim, device: {"dim": -dim})
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    kept: list[int] = []
    bench.run(quick=False, keep=lambda found: kept.append(len(found["rows"])))
    assert kept == list(range(1, 9)) and "{'dim': -2048}" in capsys.readouterr().out


def test_residuals_are_kept_before_time_is_taken(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = pytest.importorskip("benchmarks.bench_matrix_sqrt", reason="needs scipy")
    monkeypatch.setattr(bench, "paired", lambda *_, **__: pytest.fail("killed"))
    kept: dict[str, Any] = {}
    with pytest.raises(pytest.fail.Exception):
        bench.run(16, quick=True, keep=kept.update)
    assert kept["dim"] == 16 and set(kept["residual"]) >= {"fidfast, CPU", "scipy"}
