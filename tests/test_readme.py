"""The README's commands run as they stand; its paths exist; its numbers come from benchmarks/results."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)

# Set-up commands, which a test cannot run inside the environment that it runs in: .ci/run does, on a clean clone.
RUN_BY_CI = {
    "make demo": "make demo",
    "make test": "make test",
    "pip install .": "make install-test",
    "fidfast weights install": "make test",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, weights_path: Path) -> Path:
    work = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    for name in ("photos", "samples", "part1", "part2"):
        (work / name).mkdir()
        for index in range(4):
            image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((64, 64))
            image.save(work / name / f"{index}.png")
    return work


def shell_lines() -> list[str]:
    return [line for language, block in BLOCKS if language == "bash" for line in block.strip().splitlines()]


def test_there_are_commands_and_an_example_of_six_lines():
    assert len(shell_lines()) >= 10
    (example,) = (block for language, block in BLOCKS if language == "python")
    assert len([line for line in example.splitlines() if line.strip()]) == 6


def test_the_python_example_runs(folders):
    (example,) = (block for language, block in BLOCKS if language == "python")
    done = subprocess.run([sys.executable, "-c", example], cwd=folders, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"FID \d+\.\d\d from 4 images", done.stdout)


def test_every_command_runs_here_or_in_ci(folders):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for line in shell_lines():
        if line in RUN_BY_CI:
            assert RUN_BY_CI[line] in CI.splitlines(), line
            continue
        done = subprocess.run(
            line, shell=True, cwd=folders, capture_output=True, text=True, timeout=300, env={**os.environ, "PATH": path}
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout.strip(), line


def test_links_and_paths_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    for name in re.findall(r"`((?:tests|benchmarks|fidfast|csrc)/[\w./]*)`", README):
        assert (ROOT / name).exists(), name
