"""What is installed, which kernels run, which weights are found; and for what is missing, how to mend it."""

from __future__ import annotations

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, NamedTuple


class Finding(NamedTuple):
    status: Literal["ok", "missing", "optional"]
    what: str
    remedy: str | None = None


def examine() -> list[Finding]:
    """Everything ``fidfast doctor`` prints, in order; "missing" stands only on what an FID needs."""
    return [
        Finding("ok", f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"),
        *_packages(),
        *_kernels(),
        _cuda_kernels(),
        _gpu(),
        _weights(),
    ]


def _packages() -> list[Finding]:
    findings = [Finding("ok", f"{name} {version(name)}") for name in ("torch", "numpy", "pillow", "tqdm")]
    try:
        findings.insert(0, Finding("ok", f"fidfast {version('fidfast')}"))
    except PackageNotFoundError:
        findings.insert(0, Finding("optional", "fidfast runs from its source folder", "pip install ."))
    try:
        findings.append(Finding("ok", f"matplotlib {version('matplotlib')}"))
    except PackageNotFoundError:
        remedy = 'pip install "fidfast[report]"'
        findings.append(Finding("optional", "matplotlib is not installed: no pictures in reports", remedy))
    return findings


def _kernels() -> list[Finding]:
    try:
        from fidfast import ops

        return [Finding("ok", f"kernel {name}: {how}") for name, how in ops.kernels().items()]
    except ImportError as error:
        return [Finding("missing", f"the compiled kernels do not load: {error}", "pip install --force-reinstall .")]


def _cuda_kernels() -> Finding:
    """Asks the module, not torch: it also works beside a CPU build of torch, and without a driver."""
    try:
        from fidfast.ops import modules
    except ImportError:
        return Finding("optional", "CUDA kernels: not looked at, as the others do not load")
    module = modules.cuda_module()
    if module is None:
        what = f"no CUDA kernels ({modules.cuda_module_error()}): on a GPU, fidfast uses torch"
        has_gpu = shutil.which("nvidia-smi") is not None
        return Finding("optional", what, "with the CUDA toolkit: FIDFAST_CUDA=1 pip install ." if has_gpu else None)
    build, devices = module.build(), module.devices()
    what = f"CUDA kernels for {build['architectures']}, CUDA {_cuda_version(build['runtime'])}"
    if not build["driver"]:
        return Finding("ok", f"{what}; no driver here")
    if not devices:
        return Finding("ok", f"{what}; driver for CUDA {_cuda_version(build['driver'])}, but it shows no device")
    seen = ", ".join("{}.{}".format(*device["capability"]) for device in devices)
    return Finding("ok", f"{what}; driver for CUDA {_cuda_version(build['driver'])}, devices of {seen}")


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Finding("ok", f"CUDA {torch.version.cuda}: {names}")
    if torch.version.cuda is None:
        remedy = "install a CUDA build of torch" if shutil.which("nvidia-smi") else None
        return Finding("optional", "this torch is a CPU build: the network runs on the CPU", remedy)
    return Finding("optional", "torch sees no CUDA device: the network runs on the CPU")


def _weights() -> Finding:
    from fidfast.weights import WeightsError, find_weights

    try:
        return Finding("ok", f"FID Inception weights: {find_weights(download=False)}")
    except WeightsError as error:
        return Finding("missing", f"FID Inception weights: {error}", "fidfast weights install")
