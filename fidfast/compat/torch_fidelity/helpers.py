"""torch-fidelity's small words: a keyword's value, a checked condition, a line of progress."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch

from fidfast.compat.torch_fidelity.defaults import DEFAULTS


def get_kwarg(name: str, kwargs: Mapping[str, Any]) -> Any:
    return kwargs.get(name, DEFAULTS[name])


def vassert(truecond: Any, message: str) -> None:
    """ValueError with this message, unless the condition holds."""
    if not truecond:
        raise ValueError(message)


def vprint(verbose: bool, message: str) -> None:
    """A line on standard error, which is what ``verbose`` asks for."""
    if verbose:
        print(message, file=sys.stderr)


def text_to_dtype(name: str | None, default: Any = None) -> Any:
    """ "uint8", "float32" or "float64" as a torch dtype, else ``default``, which may be one of these words too."""
    dtypes = {"uint8": torch.uint8, "float32": torch.float32, "float64": torch.float64}
    return dtypes.get(name or "", dtypes.get(default, default))
