"""The build: a missing compiler is explained, a changed header is seen, MAX_JOBS is honoured."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

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
    assert not any("torch" in call or "cuda" in call or "emulat" in call for call in calls)
    assert all("-ffp-contract=off" in call for call in compiled)
    for call in compiled:
        assert ("-mavx512f" in call) <= ("_avx512.cpp" in call) and ("-mavx2" in call) <= ("_avx" in call)
    assert len(list((tree / "fidfast").glob("_cpu*.so"))) == 1

    assert build(tree, CXX=str(compiler)).returncode == 0
    assert len(log.read_text().splitlines()) == len(calls), "nothing changed, so nothing is built"
    os.utime(header, (2_000_000_000, 2_000_000_000))
    assert build(tree, CXX=str(compiler)).returncode == 0
    assert len(log.read_text().splitlines()) == 2 * len(calls), "a header changed, so what includes it is built"


# ---------------------------------------------------------------------------------------------------------------------
# CUDA
# ---------------------------------------------------------------------------------------------------------------------

FAKE_NVCC = """#!{python}
import sys
if "--version" in sys.argv:
    print("Cuda compilation tools, release {release}, V{release}.1")
    sys.exit()
open({log!r}, "a").write(" ".join(sys.argv[1:]) + "\\n")
out = sys.argv[sys.argv.index("-o") + 1]
if "-MF" in sys.argv:
    open(sys.argv[sys.argv.index("-MF") + 1], "w").write(out + ":\\n")
print("ptxas info    : of this file")
open(out, "w").write("object")
sys.exit({status})
"""


def fake_toolkit(folder: Path, log: Path, release: str = "12.4", status: int = 0) -> Path:
    (folder / "bin").mkdir(parents=True)
    nvcc = folder / "bin" / "nvcc"
    nvcc.write_text(FAKE_NVCC.format(python=sys.executable, log=str(log), release=release, status=status))
    nvcc.chmod(0o755)
    return folder


def fake_tree(tmp_path: Path) -> tuple[Path, Path]:
    """A copy with one kernel and a C++ compiler that only notes how it was called."""
    tree = copy_tree(tmp_path / "tree")
    (tree / "csrc/kernels/cuda/one.cu").write_text("kernel")
    compiler = tmp_path / "fake-c++"
    compiler.write_text(FAKE_COMPILER.format(python=sys.executable, log=str(tmp_path / "log"), header="none"))
    compiler.chmod(0o755)
    return tree, compiler


def test_what_nvcc_is_asked_for(tmp_path: Path) -> None:
    tree, compiler = fake_tree(tmp_path)
    log = tmp_path / "nvcc-log"
    environment = {"CXX": str(compiler), "FIDFAST_CUDA": "", "TORCH_CUDA_ARCH_LIST": "8.0; 9.0a 9.0+PTX"}
    environment["CUDA_HOME"] = str(fake_toolkit(tmp_path / "toolkit", log))
    result = build(tree, **environment, MAX_JOBS="2")
    assert result.returncode == 0, result.stdout + result.stderr
    calls = log.read_text().splitlines()
    kernel = next(call for call in calls if "/one.cu " in call)
    assert re.findall(r",code=(\w+)", kernel) == ["sm_80", "sm_90a", "sm_90", "compute_90"]
    assert "--threads=2" in kernel and "fast" not in kernel.replace("fidfast", "").replace("FIDFAST", "")
    assert "-ffp-contract=off" in kernel and "-Xptxas=-v" in kernel
    assert "-cudart=static" in next(call for call in calls if "-shared" in call)
    devices = next(call for call in calls if "cuda_devices.cpp" in call)
    assert "-DFIDFAST_CUDA_ARCHITECTURES=" in devices and "8.0 9.0a 9.0+PTX" in devices
    assert "cuda_emulation" not in log.read_text()
    assert "of this file" in next(tree.glob("build/objects.*/_cuda/ptxas/one.txt")).read_text()
    assert len(list((tree / "fidfast").glob("_cuda.*so"))) == 1
    assert build(tree, **environment, MAX_JOBS="2").returncode == 0
    assert len(log.read_text().splitlines()) == len(calls), "nothing changed, so nothing is built"


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("12.4", ["sm_80", "sm_86", "sm_89", "sm_90", "compute_90"]),
        ("12.8", ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "compute_120"]),
    ],
)
def test_the_default_architectures_follow_nvcc(tmp_path: Path, release: str, expected: list[str]) -> None:
    tree, compiler = fake_tree(tmp_path)
    log = tmp_path / "nvcc-log"
    toolkit = fake_toolkit(tmp_path / "toolkit", log, release)
    result = build(tree, CXX=str(compiler), FIDFAST_CUDA="1", TORCH_CUDA_ARCH_LIST="", CUDA_HOME=str(toolkit))
    assert result.returncode == 0, result.stdout + result.stderr
    kernel = next(call for call in log.read_text().splitlines() if "/one.cu " in call)
    assert re.findall(r",code=(\w+)", kernel) == expected


def test_a_failing_nvcc_is_explained(tmp_path: Path) -> None:
    tree, compiler = fake_tree(tmp_path)
    toolkit = fake_toolkit(tmp_path / "toolkit", tmp_path / "nvcc-log", status=1)
    result = build(tree, CXX=str(compiler), FIDFAST_CUDA="", CUDA_HOME=str(toolkit))
    assert result.returncode != 0 and "FIDFAST_CUDA=0 builds without CUDA kernels" in result.stderr
    assert "of this file" in result.stdout + result.stderr, "what nvcc said is shown"


def test_an_old_nvcc_is_left_alone_unless_insisted_upon(tmp_path: Path) -> None:
    tree, compiler = fake_tree(tmp_path)
    log = tmp_path / "nvcc-log"
    environment = {"CXX": str(compiler), "CUDA_HOME": str(fake_toolkit(tmp_path / "toolkit", log, "11.8"))}
    result = build(tree, **environment, FIDFAST_CUDA="")
    assert result.returncode == 0 and "11.8" in result.stderr and not log.exists()
    result = build(tree, **environment, FIDFAST_CUDA="1")
    assert result.returncode != 0 and "need 12.4 or later" in result.stderr


def test_emulation_is_built_when_asked_for(tmp_path: Path) -> None:
    tree, compiler = fake_tree(tmp_path)
    assert build(tree, CXX=str(compiler), FIDFAST_EMULATION="1").returncode == 0
    kernel = next(call for call in (tmp_path / "log").read_text().splitlines() if "/one.cu " in call)
    assert "-x c++" in kernel and "-DFIDFAST_EMULATED" in kernel and "csrc/emulation" in kernel
    assert len(list((tree / "fidfast").glob("_cuda_emulated.*so"))) == 1
    assert build(tree, CXX=str(compiler)).returncode == 0
    assert not list(tree.glob("build/lib*/fidfast/_cuda*")), "and never goes into a wheel with what is made later"


def load_setup(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    import setuptools

    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    spec = importlib.util.spec_from_file_location("fidfast_setup", ROOT / "setup.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_insisting_without_nvcc_gives_three_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load_setup(monkeypatch)
    monkeypatch.setattr(module.shutil, "which", lambda name, path=None: None)
    monkeypatch.setenv("FIDFAST_CUDA", "1")
    with pytest.raises(SystemExit) as stopped:
        module.find_nvcc()
    lines = str(stopped.value).splitlines()
    assert len(lines) == 3 and "nvcc was not found" in lines[0] and "CUDA_HOME" in lines[1]
    monkeypatch.setenv("FIDFAST_CUDA", "")
    assert module.find_nvcc() is None


@pytest.mark.parametrize(
    ("name", "value"), [("FIDFAST_CUDA", "yes"), ("FIDFAST_EMULATION", "2"), ("TORCH_CUDA_ARCH_LIST", "Hopper")]
)
def test_a_switch_with_a_wrong_value_is_named(tmp_path: Path, name: str, value: str) -> None:
    tree, compiler = fake_tree(tmp_path)
    environment = {"CXX": str(compiler), "CUDA_HOME": str(fake_toolkit(tmp_path / "toolkit", tmp_path / "nvcc-log"))}
    result = build(tree, **{**environment, "FIDFAST_CUDA": "1", name: value})
    assert result.returncode != 0 and f"{name}: expected" in result.stderr and repr(value) in result.stderr


def test_a_compile_error_ends_the_build(tmp_path: Path) -> None:
    result = build(copy_tree(tmp_path / "tree"), CXX="false")
    assert result.returncode != 0 and "the C++ build failed" in result.stderr


def test_the_build_never_asks_for_torch_or_a_gpu() -> None:
    text = (ROOT / "setup.py").read_text()
    assert "import torch" not in text and "is_available" not in text
    requires = (ROOT / "pyproject.toml").read_text().split("requires = [")[1].split("]")[0]
    assert "torch" not in requires
