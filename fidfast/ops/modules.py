"""The compiled CUDA kernels, where they were built and load."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from types import ModuleType


@cache
def _load() -> tuple[ModuleType | None, str]:
    if find_spec("fidfast._cuda") is None:
        return None, "nvcc was not found at install"
    try:
        from fidfast import _cuda
    except ImportError as error:
        return None, f"fidfast._cuda does not load: {error}"
    return _cuda, ""


def cuda_module() -> ModuleType | None:
    """fidfast._cuda, or None where it was not built or does not load: ops then use torch on the device."""
    return _load()[0]


def cuda_module_error() -> str:
    """Why cuda_module() is None; empty where it is not."""
    return _load()[1]
