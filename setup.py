"""Builds fidfast._cpu and, where nvcc is found, fidfast._cuda: pybind11 and ninja, no torch, no GPU.

CXX, CXXFLAGS, MAX_JOBS     the C++ compiler, flags of your own, how many processes at a time
FIDFAST_CUDA=0|1            leave _cuda out, or insist on it; by default it is built where nvcc is found
CUDA_HOME                   where nvcc is, if not on PATH or in /usr/local/cuda
TORCH_CUDA_ARCH_LIST        for which devices, such as "8.0;9.0+PTX"
FIDFAST_EMULATION=1|asan    for tests, the same kernels on the CPU: fidfast._cuda_emulated finds races between threads,
                            fidfast._cuda_emulated_asan runs under AddressSanitizer
"""

from __future__ import annotations

import os
import platform
import re
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
# One place for every kind of install, so that ninja finds what it made before. Also the reports of ptxas.
OBJECTS = ROOT / "build" / f"objects.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
# A file named <stem>_<level>.cpp may use that instruction set; the caller asks the CPU before it goes there.
LEVEL_FLAGS = {
    "avx2": "-mavx2 -mfma -mf16c" if IS_X86 else "",
    "avx512": "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c" if IS_X86 else "",
}
# -ffp-contract=off: the tap tables and Pillow's sums must round as the originals do.
CXX_FLAGS = "-std=c++17 -O3 -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno -pthread"
# Emulated kernels run where they are built, so -march=native: it makes fma() an instruction.
EMULATION_FLAGS = (
    "-std=c++17 -O2 -g1 -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno -pthread -march=native "
    "-Wno-unknown-pragmas -DFIDFAST_EMULATED"
)
# The compiler reports every access of a kernel to csrc/emulation/races.cpp, which stands in for the flag's own runtime.
RACES_FLAGS = "-fsanitize=thread --param=tsan-instrument-func-entry-exit=0"
SANITIZER_FLAGS = "-fsanitize=address -fno-omit-frame-pointer"
OLDEST_NVCC = (12, 4)


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


# ---------------------------------------------------------------------------------------------------------------------
# nvcc
# ---------------------------------------------------------------------------------------------------------------------


def find_nvcc() -> tuple[str, tuple[int, int]] | None:
    """(path, version) of the nvcc to use, or None: then _cuda is left out."""
    wanted = os.environ.get("FIDFAST_CUDA", "")
    if wanted not in ("", "0", "1"):
        raise SystemExit(f"FIDFAST_CUDA: expected 0 or 1, got {wanted!r}")
    if wanted == "0":
        return None
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    places = [str(Path(home, "bin")) for home in homes if home] + [os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
    nvcc = next(filter(None, (shutil.which("nvcc", path=place) for place in places)), None)
    if not nvcc:
        if wanted:
            raise SystemExit(
                "FIDFAST_CUDA=1, but nvcc was not found in CUDA_HOME, on PATH or in /usr/local/cuda.\n"
                "Install the CUDA toolkit 12.4 or later, or set CUDA_HOME to where it is.\n"
                "Without FIDFAST_CUDA=1 fidfast builds for the CPU, and uses torch on a GPU."
            )
        return None
    output = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"release (\d+)\.(\d+)", output)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version < OLDEST_NVCC:
        what = f"{nvcc} is of CUDA {version[0]}.{version[1]}; fidfast's kernels need 12.4 or later"
        if wanted:
            raise SystemExit(f"FIDFAST_CUDA=1, but {what}.")
        print(f"fidfast: {what}: building for the CPU only.", file=sys.stderr)
        return None
    return nvcc, version


def cuda_architectures(version: tuple[int, int]) -> list[str]:
    """Names as in TORCH_CUDA_ARCH_LIST, such as ["8.0", "9.0+PTX"]."""
    listed = re.split(r"[;,\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip())
    if listed != [""]:
        for name in listed:
            if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", name):
                raise SystemExit(f'TORCH_CUDA_ARCH_LIST: expected names such as "8.0;9.0a;9.0+PTX", got {name!r}')
        return listed
    names = ["8.0", "8.6", "8.9", "9.0"] + (["10.0", "12.0"] if version >= (12, 8) else [])
    return [*names[:-1], names[-1] + "+PTX"]


def gencode(names: list[str]) -> list[str]:
    flags = []
    for name in names:
        arch = name.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{arch},code=sm_{arch}")
        if name.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{arch},code=compute_{arch}")
    return flags


# ---------------------------------------------------------------------------------------------------------------------
# ninja
# ---------------------------------------------------------------------------------------------------------------------


def ninja_path(path: Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def for_ninja(*flags: str) -> str:
    return shlex.join(flags).replace("$", "$$")


class NinjaBuild(build_ext):
    """Writes build.ninja and runs it: ninja rebuilds what changed, headers included, on MAX_JOBS processes."""

    def run(self) -> None:
        if sys.platform == "win32":
            raise SystemExit("fidfast does not support Windows yet: use Linux, macOS or WSL.")
        self.compiler_command = find_compiler()
        for extension in self.extensions:
            self.build_with_ninja(extension)
        made = [Path(self.get_ext_filename(extension.name)).name for extension in self.extensions]
        for left_over in Path(self.build_lib).glob("fidfast/_c*.so"):  # of a build with other switches: not for a wheel
            if left_over.name not in made:
                left_over.unlink()
        if self.inplace:
            self.copy_extensions_to_source()

    def includes(self, *folders: Path) -> str:
        system = ["-isystem", pybind11.get_include(), "-isystem", PYTHON_INCLUDE]
        return for_ninja(f"-I{ROOT / 'csrc'}", *(f"-I{folder}" for folder in folders), *system)

    def cpp_rules(self, flags: str, includes: str, *, cu: str = "", link: str = "") -> list[str]:
        shared = "-bundle -undefined dynamic_lookup" if sys.platform == "darwin" else "-shared"
        cxx = f"{self.compiler_command} {flags} {os.environ.get('CXXFLAGS', '')} {includes}"
        return [
            f"rule cpp\n  command = {cxx} $level -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d\n  deps = gcc\n  description = compile $in",
            f"rule cu\n  command = {cxx} {cu} -x c++ -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d\n  deps = gcc\n  description = compile $in for emulation",
            f"rule link\n  command = {self.compiler_command} {shared} -pthread $in -o $out {link}",
            "  description = link $out",
        ]

    def emulation_rules(self, module: str) -> list[str]:
        is_asan = module.endswith("asan")
        flags = f"{EMULATION_FLAGS} -DFIDFAST_MODULE={module} {SANITIZER_FLAGS if is_asan else ''}"
        includes = self.includes(ROOT / "csrc/emulation")
        link = f"-ldl {SANITIZER_FLAGS if is_asan else ''}"
        return self.cpp_rules(flags, includes, cu="" if is_asan else RACES_FLAGS, link=link)

    def cuda_rules(self, threads: int) -> list[str]:
        """nvcc compiles and links everything: it knows where its own headers and libraries are."""
        assert NVCC
        nvcc, version = NVCC
        architectures = cuda_architectures(version)
        host = f"-ccbin={shlex.split(self.compiler_command)[0]}" if os.environ.get("CXX") else ""
        common = (
            f"{shlex.quote(nvcc)} {host} -std=c++17 -O3 -Xcompiler=-fPIC,-fvisibility=hidden,-ffp-contract=off "
            f"-DFIDFAST_MODULE=_cuda {self.includes()}"
        )
        names = shlex.quote(f'-DFIDFAST_CUDA_ARCHITECTURES=\\"{" ".join(architectures)}\\"')
        kernel = f"{common} {shlex.join(gencode(architectures))} --threads={threads} -lineinfo -Xptxas=-v"
        report = "ptxas/$stem.txt"  # registers, shared memory and spills of each kernel; shown when the compiler fails
        return [
            f"rule cpp\n  command = {common} {names} -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d\n  deps = gcc\n  description = compile $in",
            f"rule cu\n  command = {kernel} -MMD -MF $out.d -c $in -o $out > {report} 2>&1 || (cat {report}; exit 1)",
            "  depfile = $out.d\n  deps = gcc\n  description = compile $in for " + ", ".join(architectures),
            f"rule link\n  command = {shlex.quote(nvcc)} {host} -shared -cudart=static $in -o $out",
            "  description = link $out",
        ]

    def build_with_ninja(self, extension: Extension) -> None:
        module = extension.name.rpartition(".")[2]
        build = OBJECTS / module
        (build / "ptxas").mkdir(parents=True, exist_ok=True)
        jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
        if module == "_cuda":
            threads = min(jobs, 4)  # nvcc's own, one an architecture: so many fewer of ninja's
            jobs = max(1, jobs // threads)
            rules = self.cuda_rules(threads)
        elif module == "_cpu":
            rules = self.cpp_rules(CXX_FLAGS, self.includes())
        else:
            rules = self.emulation_rules(module)
        target = Path(self.build_lib).absolute() / self.get_ext_filename(extension.name)
        objects = []
        for source in map(Path, extension.sources):
            objects.append(str(source).replace("/", "_") + ".o")
            rules.append(f"build {objects[-1]}: {source.suffix[1:]} {ninja_path(ROOT / source)}")
            level = LEVEL_FLAGS.get(source.stem.rpartition("_")[2], "")
            rules.append(f"  level = {level}\n  stem = {source.stem}")
        rules.append(f"build {ninja_path(target)}: link {' '.join(objects)}\n")
        (build / "build.ninja").write_text("\n".join(rules))
        if subprocess.run([sys.executable, "-m", "ninja", "-C", str(build), "-j", str(jobs)]).returncode:
            raise SystemExit(
                "fidfast: the C++ build failed; the compiler's message is above."
                if module != "_cuda"
                else "fidfast: the CUDA build failed; the compiler's message is above.\n"
                "FIDFAST_CUDA=0 builds without CUDA kernels: a GPU then uses torch."
            )


def sources(*patterns: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in (ROOT / "csrc").glob(pattern))


NVCC = find_nvcc()
CUDA_SOURCES = [s for s in sources("kernels/cuda/*.cu", "bindings/cuda*.cpp") if not s.endswith("/cuda_emulation.cpp")]
EMULATION_SOURCES = [*CUDA_SOURCES, *sources("emulation/*.cpp"), "csrc/bindings/cuda_emulation.cpp"]
EMULATIONS = {"": [], "0": [], "1": ["_cuda_emulated"], "asan": ["_cuda_emulated_asan"]}
wanted = os.environ.get("FIDFAST_EMULATION", "")
if wanted not in EMULATIONS:
    raise SystemExit(f"FIDFAST_EMULATION: expected 0, 1 or asan, got {wanted!r}")
setup(
    ext_modules=[
        Extension("fidfast._cpu", [*sources("kernels/cpu/*.cpp"), "csrc/bindings/cpu.cpp"]),
        *([Extension("fidfast._cuda", CUDA_SOURCES)] if NVCC else []),
        *(Extension(f"fidfast.{module}", EMULATION_SOURCES) for module in EMULATIONS[wanted]),
    ],
    cmdclass={"build_ext": NinjaBuild},
)
