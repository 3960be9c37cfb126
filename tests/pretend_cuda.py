"""A CUDA device pretended on the CPU: its tensors are CPU tensors behind a wrapper that says cuda:0.

It computes nothing otherwise than the CPU. What it finds is what else only a GPU would show: an operation between
tensors of the host and of the device, numpy() of a tensor there, a result on the wrong side; and it counts how often
the host waits for a number. The compiled kernels are those of the emulation, or none.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.dlpack import to_dlpack

from fidfast.ops import covariance, images, images_cuda, modules, uploads

symmetric_product = sys.modules["fidfast.ops.symmetric_product"]  # its name in fidfast.ops is the function
CUDA = torch.device("cuda", 0)
# Operations that take tensors of both sides: copies, and indices of what is on the device.
COPIES = {"copy_", "_to_copy"}
INDEXED = {"index", "index_put_", "_index_put_impl_"}
WAITS = {"_local_scalar_dense", "nonzero", "equal"}
# The Python functions of our own ops: torch would call them without the wrappers.
OWN = {
    "fidfast::resize_normalize": images._resize_normalize_op,
    "fidfast::content_hash": images._content_hash_op,
    "fidfast::add_covariance": covariance._add_covariance_op,
    "fidfast::symmetric_product": symmetric_product._symmetric_product_op,
}


class OnDevice(Tensor):
    """A tensor of the pretended device."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="meta",  # what C++ sees: of a CUDA device it would look for the guard, which this torch may lack
        )
        made.inner = inner
        return made

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    def record_stream(self, stream: Any) -> None:
        pass

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func}: a tensor of the pretended device outlived it")


class Pretended(TorchDispatchMode):
    """While it lasts, device="cuda" makes tensors of the pretended device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        own = OWN.get(func._schema.name)
        if own is None:
            return perform(func, args, dict(kwargs or {}))
        with self:
            return own(*args, **(kwargs or {}))


waits: list[str] = []  # the operations in which the host waited for the device


def perform(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func._schema.name
    short = name.partition("::")[2]
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if short in ("_pin_memory", "pin_memory"):
        return tensors[0]
    there = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
    here = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.ndim > 0]
    may_mix = short in COPIES or (short in INDEXED and isinstance(tensors[0], OnDevice))
    if there and here and not may_mix:
        raise AssertionError(f"{name}: of the device {shapes(there)}, of the host {shapes(here)}")
    to = torch.device(kwargs.get("device") or (tensors[0].device if tensors else "cpu"))
    if to.type == "meta":  # C++ took it from one of the tensors
        to = CUDA
    to_host = short in COPIES and there and to.type == "cpu"
    at_once = not (kwargs.get("non_blocking") or (short == "copy_" and len(args) > 2 and args[2]))
    if there and (short in WAITS or (to_host and at_once)):
        waits.append(short)
    if "device" in kwargs:
        kwargs["device"] = torch.device("cpu")
    if "pin_memory" in kwargs:
        kwargs["pin_memory"] = False
    found = func(*tree_map(inside, args), **tree_map(inside, kwargs))
    if func._schema.is_mutable:  # returns what it changed: that very tensor
        own = {id(inside(tensor)): tensor for tensor in tensors}
        return tree_map(lambda leaf: own.get(id(leaf), leaf) if isinstance(leaf, Tensor) else leaf, found)
    return tree_map(wrapped, found) if to.type == "cuda" else found


def shapes(tensors: list[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in tensors]


def inside(value: Any) -> Any:
    return value.inner if isinstance(value, OnDevice) else value


def wrapped(value: Any) -> Any:
    return OnDevice(value) if isinstance(value, Tensor) and not isinstance(value, OnDevice) else value


def to_device(tensor: Tensor) -> Tensor:
    return OnDevice(tensor.clone())


class _Nothing:
    """A stream, an event or a graph that there is not."""

    cuda_stream = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def record_event(self) -> _Nothing:
        return _Nothing()

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


@contextlib.contextmanager
def pretended(patch: pytest.MonkeyPatch, module: ModuleType | None) -> Iterator[None]:
    """torch.cuda as it is with one device of compute capability 9.0; kernels from `module`, or torch's."""
    for name, value in {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "get_device_capability": lambda device=None: (9, 0),
        "is_current_stream_capturing": lambda: False,
        "synchronize": lambda device=None: None,
        "current_stream": lambda device=None: _Nothing(),
        "Stream": _Nothing,
        "Event": _Nothing,
        "stream": lambda stream: contextlib.nullcontext(),
        "device": lambda device: contextlib.nullcontext(),
        "get_rng_state": lambda device=None: torch.zeros(1),
        "set_rng_state": lambda state, device=None: None,
    }.items():
        patch.setattr(torch.cuda, name, value)
    patch.setattr(modules, "_load", lambda: (module, ""))
    for user in (images, images_cuda, covariance, symmetric_product):
        patch.setattr(user, "to_dlpack", lambda tensor: to_dlpack(inside(tensor)))
    uploads.uploads.cache_clear()
    waits.clear()
    if module is not None:
        module.set_thread_order("forward", 0)
    try:
        with Pretended():
            yield
    finally:
        uploads.uploads.cache_clear()
        images_cuda.TABLES.__init__()  # type: ignore[misc] # those of a real device must be its own
        if module is not None:
            module.set_thread_order("", 0)
