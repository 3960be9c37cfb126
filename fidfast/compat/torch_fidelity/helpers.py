"""torch-fidelity's small words: a keyword's value, a checked condition, a line of progress."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

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
