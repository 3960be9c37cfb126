"""Methods that run as they are where a compiled training step calls them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def eager(function: Callable[P, T]) -> Callable[P, T]:
    """``torch.compiler.disable(function)``, without importing torch._dynamo before something is compiled.

    That import takes longer than torch's own. Worse, where it comes after ``init_process_group``, default arguments of
    torch.distributed.nn keep the process group: ``destroy_process_group`` ends no thread of Gloo's then, and one that
    lets go of a tensor while Python is ending takes the process down (SIGABRT, after all work is done).
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return call
