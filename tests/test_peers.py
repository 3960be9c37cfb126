"""Our FID beside the other tools', whole calls on the same images with the same weights (benchmarks/peers.sh sets up).

Thousands of images, n above 2048 and full rank are `benchmarks/parity.py`'s business; here are a few of mixed sizes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tolerances import TOLERANCES

import fidfast

pytestmark = pytest.mark.peers

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("photographs", "icons", "gray")
# tool: (what must be importable, our preset, the feature_dim of its features)
TOOLS = {
    "pytorch-fid": (("pytorch_fid",), "pytorch-fid", (64, 192, 768, 2048)),
    "clean-fid": (("cleanfid",), "clean-fid", (2048,)),
    "torch-fidelity": (("torch_fidelity",), "tensorflow", (64, 2048)),
    "torchmetrics": (("torchmetrics", "torch_fidelity"), "torchmetrics", (64, 2048)),
    "torchmetrics-antialias-false": (("torchmetrics", "torch_fidelity"), "tensorflow", (64, 2048)),
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tool", TOOLS)
def test_same_fid_as_the_tool(tool: str, kind: str, peer_weights: Path) -> None:
    skip_unless_importable(tool)
    _, preset, feature_dims = TOOLS[tool]
    few = image_sets(kind, 22, 0)
    more = image_sets(kind, 80, 64)  # more images than 64 features: both covariances have full rank
    # Images of mixed sizes go one at a time: pytorch-fid and torch-fidelity cannot batch them.
    runs = [(few if dim > 64 else more, dim, 1 if dim > 64 else 16) for dim in feature_dims]
    requests = [
        {"real": sets[0], "generated": sets[1], "feature_dim": dim, "batch_size": batch} for sets, dim, batch in runs
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
    theirs = json.loads(done.stdout.splitlines()[-1])["fid"]
    for (sets, dim, _), value in zip(runs, theirs, strict=True):
        ours = fidfast.compute_fid(*sets, preset=preset, feature_dim=dim, progress=False)
        assert_same_fid(float(ours), value, f"{tool}, {kind}, feature_dim {dim}")


def test_same_number_from_the_two_commands(peer_weights: Path) -> None:
    skip_unless_importable("pytorch-fid")
    folders = image_sets("photographs", 80, 64)
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
