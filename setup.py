"""Builds fidfast._cpu: pybind11 and ninja, no torch, no GPU; kernels are compiled once per instruction set."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.absolute()
PYTHON_INCLUDE = sysconfig.get_path("include")
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
# A file named <stem>_<level>.cpp may use that instruction set; the caller asks the CPU before it goes there.
LEVEL_FLAGS = {
    "avx2": "-mavx2 -mfma -mf16c" if IS_X86 else "",
    "avx512": "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c" if IS_X86 else "",
}
# -ffp-contract=off: the tap tables and Pillow's sums must round as the originals do.
CXX_FLAGS = "-std=c++17 -O3 -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno -pthread"


def find_compiler() -> str:
    wanted = shlex.split(os.environ.get("CXX", ""))[:1] or ["g++", "c++", "clang++"]
    for name in wanted:
        if shutil.which(name):
            return os.environ.get("CXX") or name
    raise SystemExit(
        f"fidfast needs a C++17 compiler to build; {' and '.join(wanted)} not found on PATH.\n"
        "Install one: apt-get install g++ (Debian), dnf install gcc-c++ (Fedora), xcode-select --install (macOS).\n"
        "Then run again: pip install ."
    )


def ninja_path(path: Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


class NinjaBuild(build_ext):
    """Writes build.ninja and runs it: ninja rebuilds what changed, headers included, on MAX_JOBS processes."""

    def run(self) -> None:
        if sys.platform == "win32":
            raise SystemExit("fidfast does not support Windows yet: use Linux, macOS or WSL.")
        self.compiler_command = find_compiler()
        for extension in self.extensions:
            self.build_with_ninja(extension)
        if self.inplace:
            self.copy_extensions_to_source()

    def build_with_ninja(self, extension: Extension) -> None:
        build = Path(self.build_temp).absolute() / extension.name
        build.mkdir(parents=True, exist_ok=True)
        target = Path(self.build_lib).absolute() / self.get_ext_filename(extension.name)
        include = shlex.join([f"-I{ROOT / 'csrc'}", "-isystem", pybind11.get_include(), "-isystem", PYTHON_INCLUDE])
        shared = "-bundle -undefined dynamic_lookup" if sys.platform == "darwin" else "-shared"
        compile_command = (
            f"{self.compiler_command} {CXX_FLAGS} {os.environ.get('CXXFLAGS', '')} {include.replace('$', '$$')}"
        )
        rules = [
            f"rule cpp\n  command = {compile_command} $level -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d\n  deps = gcc\n  description = compile $in",
            f"rule link\n  command = {self.compiler_command} {shared} -pthread $in -o $out\n  description = link $out",
        ]
        objects = []
        for source in extension.sources:
            objects.append(source.replace("/", "_") + ".o")
            level = LEVEL_FLAGS.get(Path(source).stem.rpartition("_")[2], "")
            rules.append(f"build {objects[-1]}: cpp {ninja_path(ROOT / source)}\n  level = {level}")
        rules.append(f"build {ninja_path(target)}: link {' '.join(objects)}\n")
        (build / "build.ninja").write_text("\n".join(rules))
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        if subprocess.run([sys.executable, "-m", "ninja", "-C", str(build), *jobs]).returncode:
            raise SystemExit("fidfast: the C++ build failed; the compiler's message is above.")


CPU_SOURCES = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc/kernels/cpu").glob("*.cpp"))
setup(
    ext_modules=[Extension("fidfast._cpu", [*CPU_SOURCES, "csrc/bindings/cpu.cpp"])],
    cmdclass={"build_ext": NinjaBuild},
)
