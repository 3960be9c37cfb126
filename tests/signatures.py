"""Signatures that must stay those of another tool."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def parameters(function: Callable[..., Any]) -> list[tuple[str, str, Any]]:
    """(name, kind, default) of each parameter; torch devices and functions compare by how they print."""
    found = inspect.signature(function).parameters.values()
    return [
        (one.name, one.kind.description, repr(one.default) if callable(one.default) else one.default) for one in found
    ]


def assert_same_signature(ours: Callable[..., Any], theirs: Callable[..., Any]) -> None:
    """Names, order, kinds and defaults; annotations are ours to add."""
    assert parameters(ours) == parameters(theirs), f"{ours.__module__}.{ours.__qualname__}"
