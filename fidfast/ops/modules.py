"""The compiled CUDA kernels, where they were built and load."""

from __future__ import annotations

from functools import cache
from types import ModuleType


@cache
def _load() -> tuple[ModuleType | None, str]:
    try:
        from fidfast import _cuda
    except ImportError as error:
        return None, str(error)
    return _cuda, ""


def cuda_module() -> ModuleType | None:
    """fidfast._cuda, or None where it was not built or does not load: ops then use torch on the device."""
    return _load()[0]


def cuda_module_error() -> str:
    """Why cuda_module() is None; empty where it is not."""
    return _load()[1]
