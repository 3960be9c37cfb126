"""make gpu-check: what a part leaves is kept whatever the others do, and nothing outlasts its limit. Needs no GPU."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

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


def test_every_benchmark_has_what_it_imports(gpu_check: ModuleType) -> None:
    for path in sorted((ROOT / "benchmarks").glob("bench_*.py")):
        assert callable(importlib.import_module(f"benchmarks.{path.stem}").run)


def test_benchmarks_of_the_gpu_have_what_is_called(gpu_check: ModuleType) -> None:
    """They cannot run here; that they import, and have run(quick=), can be seen."""
    for name in [*(path.stem for path in (ROOT / "benchmarks").glob("bench_cuda_*.py")), "bench_matrix_sqrt"]:
        run = importlib.import_module(f"benchmarks.{name}").run
        assert "quick" in inspect.signature(run).parameters
