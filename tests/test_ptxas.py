"""ptxas's reports of the build: no kernel spills registers or keeps arrays in local memory."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from fidfast.ops.modules import cuda_module, cuda_module_error

ROOT = Path(__file__).resolve().parents[1]
KERNELS = sorted((ROOT / "csrc/kernels/cuda").glob("*.cu"))

REPORT = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN7fidfast4goodIfEEvPT_' for 'sm_80'
ptxas info    : Function properties for _ZN7fidfast4goodIfEEvPT_
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 1024 bytes smem, 380 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN7fidfast3badEPd' for 'sm_90'
ptxas info    : Function properties for _ZN7fidfast3badEPd
    {stack} bytes stack frame, {spills} bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers
"""


@pytest.fixture(scope="module")
def ptxas():
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks import ptxas
    finally:
        sys.path.remove(str(ROOT))
    return ptxas


def test_the_report_is_understood(ptxas) -> None:
    table = ptxas.parse(REPORT.format(stack=16, spills=12))
    good, bad = table["_ZN7fidfast4goodIfEEvPT_"]["sm_80"], table["_ZN7fidfast3badEPd"]["sm_90"]
    assert good == {"stack": 0, "spills": 0, "registers": 40, "static_shared": 1024}
    assert bad == {"stack": 16, "spills": 20, "registers": 255, "static_shared": 0}
    assert ptxas.readable(["_ZN7fidfast4goodIfEEvPT_"]) == {"_ZN7fidfast4goodIfEEvPT_": "good<float>"}
    assert ptxas.problems(table) == ["_ZN7fidfast3badEPd for sm_90: 20 bytes of spills, 16 bytes of local memory"]
    cut = "\n".join(REPORT.splitlines()[:4])
    assert ptxas.problems(ptxas.parse(cut)) == ["_ZN7fidfast4goodIfEEvPT_ for sm_80: the report is not whole"]


@pytest.mark.skipif(not KERNELS, reason="no kernel yet")
@pytest.mark.skipif(cuda_module() is None, reason=f"no CUDA kernels: {cuda_module_error()}")
def test_no_kernel_of_the_build_spills(ptxas) -> None:
    table = ptxas.read_build()
    compiled = {architecture for architectures in table.values() for architecture in architectures}
    for kernel, architectures in table.items():
        assert set(architectures) == compiled, f"{kernel} was compiled for some architectures only"
    assert not ptxas.problems(table)
    assert compiled >= {"sm_80", "sm_90"}


@pytest.mark.skipif(not KERNELS, reason="no kernel yet")
@pytest.mark.skipif(cuda_module() is None, reason=f"no CUDA kernels: {cuda_module_error()}")
def test_the_committed_table_knows_every_kernel(ptxas) -> None:
    committed = json.loads((ROOT / "benchmarks/results/ptxas.json").read_text())["kernels"]
    assert set(committed) == set(ptxas.read_build()), "python -m benchmarks.ptxas --accept"


def test_no_kernel_has_static_shared_memory_or_fast_math() -> None:
    """Static shared memory is not emulated; --use_fast_math would change the numbers."""
    for path in (ROOT / "csrc/kernels/cuda").iterdir():
        code = re.sub(r"//.*", "", path.read_text())
        wanted = 1 if path.name == "launch.h" else 0
        assert code.count("__shared__") == wanted, f"{path.name}: use dynamic_shared of launch.h"
        assert code.count("<<<") == wanted, f"{path.name}: use launch of launch.h"
    assert "use_fast_math" not in (ROOT / "setup.py").read_text()
