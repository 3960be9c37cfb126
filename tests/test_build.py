"""The build: a missing compiler is explained, a changed header is seen, MAX_JOBS is honoured."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
needs_build_tools = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("setuptools", "pybind11", "ninja")),
    reason="setuptools, pybind11 and ninja are needed to build",
)
pytestmark = [needs_build_tools, pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="no source tree")]


def copy_tree(folder: Path) -> Path:
    folder.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("csrc", "fidfast"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return folder


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FIDFAST_CUDA": "0", "FIDFAST_EMULATION": "0", **environment}
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)


def test_a_missing_compiler_gives_three_lines(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = build(copy_tree(tmp_path / "tree"), PATH=str(tmp_path / "empty"), CXX="")
    assert result.returncode != 0
    lines = result.stderr.strip().splitlines()[-3:]
    assert lines[0].startswith("fidfast needs a C++17 compiler")
    assert "apt-get install g++" in lines[1]
    assert lines[2] == "Then run again: pip install ."
    assert "Traceback" not in result.stderr


def test_a_named_compiler_that_is_missing_is_named(tmp_path: Path) -> None:
    result = build(copy_tree(tmp_path / "tree"), CXX="no-such-g++ -m64")
    assert result.returncode != 0 and "no-such-g++ not found" in result.stderr


FAKE_COMPILER = """#!{python}
import sys
open({log!r}, "a").write(" ".join(sys.argv[1:]) + "\\n")
out = sys.argv[sys.argv.index("-o") + 1]
if "-MF" in sys.argv:
    source = sys.argv[sys.argv.index("-c") + 1]
    open(sys.argv[sys.argv.index("-MF") + 1], "w").write(
        out + ": " + source.replace(" ", "\\\\ ") + " " + {header!r}.replace(" ", "\\\\ ") + "\\n")
open(out, "w").write("object")
"""


def test_what_is_compiled_and_when(tmp_path: Path) -> None:
    """With a compiler that only notes how it was called: no torch, no GPU, flags per level, headers tracked."""
    tree = copy_tree(tmp_path / "a tree")  # a path with a space
    log, header = tmp_path / "log", tree / "csrc/kernels/resample.h"
    compiler = tmp_path / "fake-c++"
    compiler.write_text(FAKE_COMPILER.format(python=sys.executable, log=str(log), header=str(header)))
    compiler.chmod(0o755)
    result = build(tree, CXX=str(compiler), MAX_JOBS="1")
    assert result.returncode == 0, result.stdout + result.stderr
    calls = log.read_text().splitlines()
    compiled = [call for call in calls if " -c " in call]
    assert len(compiled) == len(list((tree / "csrc/kernels/cpu").glob("*.cpp"))) + 1
    assert not any("torch" in call or "cuda" in call for call in calls)
    assert all("-ffp-contract=off" in call for call in compiled)
    for call in compiled:
        assert ("-mavx512f" in call) <= ("_avx512.cpp" in call) and ("-mavx2" in call) <= ("_avx" in call)
    assert len(list((tree / "fidfast").glob("_cpu*.so"))) == 1

    assert build(tree, CXX=str(compiler)).returncode == 0
    assert len(log.read_text().splitlines()) == len(calls), "nothing changed, so nothing is built"
    os.utime(header, (2_000_000_000, 2_000_000_000))
    assert build(tree, CXX=str(compiler)).returncode == 0
    assert len(log.read_text().splitlines()) == 2 * len(calls), "a header changed, so what includes it is built"


def test_a_compile_error_ends_the_build(tmp_path: Path) -> None:
    result = build(copy_tree(tmp_path / "tree"), CXX="false")
    assert result.returncode != 0 and "the C++ build failed" in result.stderr


def test_the_build_never_asks_for_torch_or_a_gpu() -> None:
    text = (ROOT / "setup.py").read_text()
    assert "import torch" not in text and "is_available" not in text
    requires = (ROOT / "pyproject.toml").read_text().split("requires = [")[1].split("]")[0]
    assert "torch" not in requires
