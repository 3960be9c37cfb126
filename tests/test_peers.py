"""Our FID beside the other tools', whole calls on the same images with the same weights (benchmarks/peers.sh sets up).

Thousands of images, n above 2048 and full rank are `benchmarks/parity.py`'s business; here are a few of mixed sizes.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tolerances import TOLERANCES

import fidfast

pytestmark = pytest.mark.peers

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("photographs", "icons", "gray")
# tool: (what must be importable, our preset, the feature_dim of its features on every kind, and on photographs alone:
# a square root of 2048 × 2048 is half a minute, and benchmarks/parity.py has them on every kind)
TOOLS: dict[str, tuple[tuple[str, ...], str, tuple[int, ...], tuple[int, ...]]] = {
    "pytorch-fid": (("pytorch_fid",), "pytorch-fid", (64,), (192, 768, 2048)),
    "clean-fid": (("cleanfid",), "clean-fid", (2048,), ()),
    "torch-fidelity": (("torch_fidelity",), "tensorflow", (64,), (2048,)),
    "torchmetrics": (("torchmetrics", "torch_fidelity"), "torchmetrics", (64,), (2048,)),
    "torchmetrics-antialias-false": (("torchmetrics", "torch_fidelity"), "tensorflow", (64,), ()),
}


def run_module(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


def skip_unless_importable(tool: str) -> None:
    absent = [name for name in TOOLS[tool][0] if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f"{', '.join(absent)} is not installed here: see benchmarks/README.md")


@pytest.fixture(scope="session")
def peer_weights(weights_path: Path) -> Path:
    """TORCH_HOME of the peers, filled with the FID weights under the names that they look for."""
    run_module("benchmarks.peer_weights")
    return ROOT / "build" / "benchmarks" / "torch-home"


@functools.cache
def image_sets(kind: str, count: int, size: int) -> tuple[str, str]:
    """Two folders of `count` images; size 0 mixes sizes from 32 to 512."""
    form = "png" if kind == "icons" else "jpeg"
    return tuple(  # type: ignore[return-value]
        run_module("benchmarks.image_sets", kind, str(count), "--size", str(size), "--seed", seed, "--form", written)
        for seed, written in (("1", "png"), ("2", form))
    )


def assert_same_fid(got: float, theirs: float, label: str) -> None:
    tolerance = TOLERANCES["fid/peer"]
    allowed = tolerance.rtol * abs(theirs) + tolerance.atol
    assert abs(got - theirs) <= allowed, f"{label}: the tool says {theirs}, we say {got}; allowed ±{allowed:.2g}"


def inputs(kind: str, feature_dim: int) -> tuple[tuple[str, str], int]:
    """Two folders and a batch size. More images than 64 features give covariances of full rank; images of mixed sizes
    go one at a time, since pytorch-fid and torch-fidelity cannot batch them."""
    return (image_sets(kind, 72, 64), 24) if feature_dim == 64 else (image_sets(kind, 14, 0), 1)


@pytest.fixture(scope="module")
def fid_of_tool(peer_weights: Path) -> Callable[[str], dict[tuple[str, int], float]]:
    """FID by (kind, feature_dim) from the tool itself: one process for all, since each start costs seconds."""

    @functools.cache
    def run(tool: str) -> dict[tuple[str, int], float]:
        _, _, on_every_kind, on_photographs = TOOLS[tool]
        cases = [(kind, dim) for kind in KINDS for dim in on_every_kind]
        cases += [("photographs", dim) for dim in on_photographs]
        requests = [
            {"real": sets[0], "generated": sets[1], "feature_dim": dim, "batch_size": batch}
            for dim, (sets, batch) in ((dim, inputs(kind, dim)) for kind, dim in cases)
        ]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.peer_runs", "fid", tool, json.dumps(requests)],
            cwd=ROOT,
            env={**os.environ, "TORCH_HOME": str(peer_weights)},
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return dict(zip(cases, json.loads(done.stdout.splitlines()[-1])["fid"], strict=True))

    return run


@pytest.mark.parametrize("tool", TOOLS)
def test_same_fid_as_the_tool(tool: str, fid_of_tool: Callable[[str], dict[tuple[str, int], float]]) -> None:
    skip_unless_importable(tool)
    for (kind, dim), theirs in fid_of_tool(tool).items():
        sets, _ = inputs(kind, dim)
        ours = fidfast.compute_fid(*sets, preset=TOOLS[tool][1], feature_dim=dim, progress=False)
        assert_same_fid(float(ours), theirs, f"{tool}, {kind}, feature_dim {dim}")


def test_same_number_from_the_two_commands(peer_weights: Path) -> None:
    skip_unless_importable("pytorch-fid")
    folders = image_sets("photographs", 72, 64)
    environment = {**os.environ, "TORCH_HOME": str(peer_weights)}
    printed = [
        subprocess.run(
            [sys.executable, "-m", module, *folders, option, "64", "--device", "cpu"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        ).stdout
        for module, option in (("pytorch_fid", "--dims"), ("fidfast", "--feature-dim"))
    ]
    theirs = re.search(r"FID:\s+(\S+)", printed[0])
    assert theirs is not None, printed[0]
    assert_same_fid(float(printed[1]), float(theirs[1]), "command line")


def test_the_presets_differ_where_the_tools_do() -> None:
    """Parity means something only if the wrong preset fails: on photographs every two presets are further apart."""
    skip_unless_importable("pytorch-fid")
    folders = image_sets("photographs", 22, 0)
    values = {
        preset: float(fidfast.compute_fid(*folders, preset=preset, feature_dim=192, progress=False))
        for preset in fidfast.PRESETS
    }
    tolerance = TOLERANCES["fid/peer"]
    names = list(values)
    for index, name in enumerate(names):
        for other in names[:index]:
            apart = abs(values[name] - values[other])
            assert apart > 2 * (tolerance.rtol * values[name] + tolerance.atol), (name, other, values)


def test_pinned_versions_agree_with_pyproject() -> None:
    pinned = [line for line in (ROOT / "benchmarks" / "peers.txt").read_text().splitlines() if not line.startswith("#")]
    extra = (ROOT / "pyproject.toml").read_text().partition("\npeers = [")[2].partition("]")[0]
    assert [name for name in re.findall(r'"([^"]+)"', extra) if "==" in name] == pinned
