"""The one place where torch's numeric switches are changed: set for one call of a network, then put back as found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "auto")
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# (owner, attribute) of every switch that can lower the precision of a float32 convolution or matrix product.
# torch >= 2.9 has one fp32_precision per backend and operator, and reading the older names may then raise.
_FP32_PRECISION = ("cudnn.conv", "cudnn.rnn", "cuda.matmul", "mkldnn.conv", "mkldnn.matmul")


def resolve_precision(precision: str, device: torch.device) -> str:
    """The precision that runs on `device`: "auto" becomes "fp32" (no shift of FID has been measured to allow less).

    ValueError if `precision` is unknown or if the device cannot compute in it.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "auto":
        return "fp32"
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    if precision == "tf32" and capability < (8, 0):
        raise ValueError(f"precision: 'tf32' needs an NVIDIA GPU of compute capability 8.0 or later, got {device}")
    if precision == "fp16" and device.type != "cuda":
        raise ValueError(f"precision: 'fp16' needs a CUDA device, got {device}; on a CPU use 'fp32' or 'bf16'")
    if precision == "bf16" and device.type not in ("cpu", "cuda"):
        raise ValueError(f"precision: 'bf16' needs a CPU or a CUDA device, got {device}")
    return precision


@contextlib.contextmanager
def network_switches(device: torch.device, *, tf32: bool = False) -> Iterator[None]:
    """Gradients, inference mode and autocast off, float32 strict (or TF32), fixed cuDNN choices; restored at exit."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for device_type in {"cpu", device.type}:
            stack.enter_context(torch.autocast(device_type, enabled=False))
        stack.enter_context(_float32_precision(tf32))
        if device.type == "cuda":
            stack.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
            torch.backends.cudnn.benchmark = False
        yield


@contextlib.contextmanager
def strict_float32(device: torch.device) -> Iterator[None]:
    """Float32 products in float32 on `device`: TF32, its like and autocast off; restored at exit."""
    with torch.autocast(device.type, enabled=False), _float32_precision(tf32=False):
        yield


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Nothing of the caller's torch is other after than before: random state, autocast, modes and switches."""
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), network_switches(device):
        yield


@contextlib.contextmanager
def _float32_precision(tf32: bool) -> Iterator[None]:
    names = _FP32_PRECISION if hasattr(torch.backends, "fp32_precision") else ()
    found = {name: _operator(name).fp32_precision for name in names}
    # The older names too, or what reads them in here (torch.backends.cudnn.flags, in a network of the caller's) raises.
    cudnn = _unless_mixed(lambda: torch.backends.cudnn.allow_tf32)
    matmul = _unless_mixed(torch.get_float32_matmul_precision)
    try:
        _set_older_names(None if cudnn is None else tf32, None if matmul is None else "high" if tf32 else "highest")
        for name in names:
            _operator(name).fp32_precision = "tf32" if tf32 and not name.startswith("mkldnn") else "ieee"
        yield
    finally:
        _set_older_names(cudnn, matmul)
        for name, value in found.items():
            _operator(name).fp32_precision = "none"  # inherits from its backend, and stays so if that is what was found
            if _operator(name).fp32_precision != value:
                _operator(name).fp32_precision = value


def _operator(name: str) -> torch.types.Any:
    backend, operator = name.split(".")
    return getattr(getattr(torch.backends, backend), operator)


def _unless_mixed(read: Callable[[], T]) -> T | None:
    """An older name's value, or None where the caller's newer settings contradict it: reading it then raises."""
    try:
        return read()
    except RuntimeError:
        return None


def _set_older_names(cudnn: bool | None, matmul: str | None) -> None:
    if cudnn is not None:
        torch.backends.cudnn.allow_tf32 = cudnn
    if matmul is not None:
        torch.set_float32_matmul_precision(matmul)
