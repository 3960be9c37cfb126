"""examples/training_loop.py runs, and killed in the middle of an evaluation it goes on to the same numbers."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from test_evaluate import make_images, save_folder

from fidfast.training_history import curves_of, read_history

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "training_loop.py"
pytestmark = pytest.mark.weights


def arguments(images: Path, output: Path) -> list[str]:
    return [
        str(images), str(output), "--steps", "9", "--every", "4", "--num-samples", "80", "--final-samples", "40",
        "--budget", "0", "--batches-per-step", "1", "--checkpoint-every", "1", "--feature-dim", "64",
    ]  # fmt: skip


def run(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    """In this process: a start of Python takes as long as the work."""
    monkeypatch.setattr(sys, "argv", [EXAMPLE.name, *options])
    runpy.run_path(str(EXAMPLE), run_name="__main__")


def results(output: Path) -> dict[str, list[tuple[int, int, float]]]:
    curves = curves_of(read_history(output / "fid.jsonl"))
    return {label: [(one["step"], one["last_step"], one["fid"]) for one in curve] for label, curve in curves.items()}


def saved(output: Path) -> dict[str, Any] | None:
    path = output / "checkpoint-0.pt"
    return torch.load(path, weights_only=True) if path.exists() else None


def test_killed_in_the_middle_of_an_evaluation_it_goes_on_to_the_same_numbers(
    tmp_path, weights_path, monkeypatch, capsys, one_thread
):
    images = save_folder(tmp_path / "images", make_images(48, 1))
    run(monkeypatch, *arguments(images, tmp_path / "whole"), "--plot", str(tmp_path / "fid.png"))
    printed = capsys.readouterr().out
    expected = results(tmp_path / "whole")
    assert [one[:2] for one in expected["fid_80"]] == [(4, 7), (8, 9)]
    assert [one[:2] for one in expected["fid_40"]] == [(9, 9)]
    assert len(printed.splitlines()) == 2 and printed.startswith("fid_40: ")
    assert (tmp_path / "fid.png").stat().st_size > 1000
    assert (tmp_path / "whole" / "best-fid_80.pt").exists()

    output = tmp_path / "killed"
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    training = subprocess.Popen(
        [sys.executable, str(EXAMPLE), *arguments(images, output)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        state = None
        while training.poll() is None:
            training.send_signal(signal.SIGSTOP)  # nothing moves on while it is looked at
            state = saved(output)
            if state is not None and state["evaluator"]["run"] is not None:
                break
            training.send_signal(signal.SIGCONT)
            time.sleep(0.02)
    finally:
        training.kill()
        training.wait()
    assert state is not None and state["evaluator"]["run"]["run"]["sampled"] > 0
    assert 0 < state["evaluator"]["run"]["run"]["sampled"] < 80
    run(monkeypatch, *arguments(images, output))
    assert results(output) == expected  # to the bit
    assert capsys.readouterr().out == printed
