"""What each kernel needs of the device, from the reports that ptxas wrote when fidfast._cuda was built.

python -m benchmarks.ptxas            the table; fails if a kernel spills registers or keeps arrays in local memory
python -m benchmarks.ptxas --accept   also writes benchmarks/results/ptxas.json
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.paths import REPOSITORY, RESULTS

# Kernels that may use local memory, and why. None does.
ALLOWED: dict[str, str] = {}

ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(.*)")

Table = dict[str, dict[str, dict[str, int]]]  # kernel → architecture → figures


def parse(report: str) -> Table:
    table: Table = {}
    figures: dict[str, int] | None = None
    for line in report.splitlines():
        if entry := ENTRY.search(line):
            figures = table.setdefault(entry[1], {}).setdefault(entry[2], {})
        elif figures is not None and (stack := STACK.search(line)):
            figures["stack"] = int(stack[1])
            figures["spills"] = int(stack[2]) + int(stack[3])
        elif figures is not None and (used := USED.search(line)):
            figures["registers"] = int(used[1])
            shared = re.search(r"(\d+) bytes smem", used[2])
            figures["static_shared"] = int(shared[1]) if shared else 0
            figures = None
    return table


def readable(names: list[str]) -> dict[str, str]:
    """Mangled → name<arguments>; as they are where there is no c++filt."""
    if not names or not shutil.which("c++filt"):
        return {name: name for name in names}
    plain = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    short = {}
    for name, full in zip(names, plain.splitlines(), strict=True):
        text = full.replace("(anonymous namespace)::", "").replace("fidfast::", "").removeprefix("void ")
        depth = 0
        for end, letter in enumerate(text):  # up to the parameters, which begin outside of < >
            depth += (letter == "<") - (letter == ">")
            if letter == "(" and depth == 0:
                text = text[:end]
                break
        short[name] = text
    return short


def reports() -> list[Path]:
    return sorted(REPOSITORY.glob("build/objects.*/_cuda/ptxas/*.txt"))


def read_build() -> Table:
    """SystemExit if a kernel's source has no report: it was not built."""
    files = {file.stem: file for file in reports()}
    sources = sorted((REPOSITORY / "csrc/kernels/cuda").glob("*.cu"))
    absent = [source.name for source in sources if source.stem not in files]
    if absent:
        raise SystemExit(f"no report of ptxas for {', '.join(absent)}: first python setup.py build_ext --inplace")
    table: Table = {}
    for source in sources:
        table |= parse(files[source.stem].read_text())
    names = readable(sorted(table))
    return {names[name]: dict(sorted(table[name].items())) for name in sorted(table, key=names.__getitem__)}


def problems(table: Table) -> list[str]:
    found = []
    for kernel, architectures in table.items():
        for architecture, figures in architectures.items():
            if "registers" not in figures or "stack" not in figures:
                found.append(f"{kernel} for {architecture}: the report is not whole")
            elif (figures["spills"] or figures["stack"]) and kernel not in ALLOWED:
                found.append(
                    f"{kernel} for {architecture}: {figures['spills']} bytes of spills, "
                    f"{figures['stack']} bytes of local memory"
                )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accept", action="store_true", help="write benchmarks/results/ptxas.json")
    given = parser.parse_args()
    table = read_build()
    for kernel, architectures in table.items():
        registers = ", ".join(f"{name} {figures.get('registers')}" for name, figures in architectures.items())
        print(f"{kernel}: registers {registers}")
    bad = problems(table)
    for problem in bad:
        print(problem, file=sys.stderr)
    if given.accept and not bad:
        version = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
        compiler = re.search(r"release ([\d.]+), V([\d.]+)", version)
        content = {"benchmark": "ptxas", "nvcc": compiler[2] if compiler else "unknown", "kernels": table}
        (RESULTS / "ptxas.json").write_text(json.dumps(content, indent=1) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
