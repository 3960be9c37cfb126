"""Where a kernel test runs its kernel: in emulation on the CPU, or on a CUDA device. The same test body for both.

    def test_my_op(backend):
        x = torch.randn(8, device=backend.device)

        def run():
            out = backend.empty(8, dtype=torch.float64)
            backend.module.my_kernel(to_dlpack(x), to_dlpack(out), stream=backend.stream())
            return out

        torch.testing.assert_close(backend.run(run).cpu(), expected)

backend.run calls the function once for each thread order of the emulation (twice on a device) and fails unless the
returned tensors are the same in every bit. A kernel launched in emulation outside of backend.run is refused. Under
AddressSanitizer, which looks for something else, one order is enough.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

import pytest
import torch
from torch import Tensor

T = TypeVar("T", Tensor, tuple[Tensor, ...])
ORDERS = ("forward", "reverse", "random")


class Backend:
    def __init__(self, name: str, module: ModuleType, device: str) -> None:
        self.name, self.module, self.device = name, module, device
        self._generator = torch.Generator().manual_seed(0)

    def stream(self) -> int:
        """The current stream as an integer; 0 in emulation."""
        return torch.cuda.current_stream().cuda_stream if self.device == "cuda" else 0

    def empty(self, *shape: int, dtype: torch.dtype, memory_format: torch.memory_format | None = None) -> Tensor:
        """A tensor of rubbish, other rubbish each time: what a kernel forgets to write shows."""
        out = torch.empty(*shape, dtype=dtype, memory_format=memory_format or torch.contiguous_format)
        flat = out.untyped_storage()
        rubbish = torch.randint(0, 256, (flat.nbytes(),), dtype=torch.uint8, generator=self._generator)
        torch.tensor([], dtype=torch.uint8).set_(flat).copy_(rubbish)  # type: ignore[call-overload]
        return out.to(self.device)

    def run(self, function: Callable[[], T]) -> T:
        """What function returns, the same bits in every thread order; it must make its outputs afresh."""
        if self.name == "cuda":
            return _all_equal([("first run", function()), ("second run", function())])
        results = []
        torch.use_deterministic_algorithms(True, warn_only=True)  # while this is on, torch.empty gives NaN
        try:
            for seed, order in enumerate(ORDERS if self.name == "emulated" else ORDERS[-1:]):
                self.module.set_thread_order(order, seed)
                results.append((f"{order} thread order", function()))
        finally:
            self.module.set_thread_order("", 0)
            torch.use_deterministic_algorithms(False)
        return _all_equal(results)


def _different_bytes(a: Tensor, b: Tensor) -> int:
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        raise AssertionError(f"results of {a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}")
    bits = [tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in (a, b)]
    return int((bits[0] != bits[1]).sum())


def _all_equal(results: list[tuple[str, T]]) -> T:
    first_name, first = results[0]
    for name, other in results[1:]:
        pairs = [(first, other)] if isinstance(first, Tensor) else list(zip(first, other, strict=True))
        for i, (a, b) in enumerate(pairs):
            different = _different_bytes(a, b)
            if different:
                raise AssertionError(
                    f"result {i} differs between {first_name} and {name} in {different} bytes: a race, or memory "
                    "that was read before it was written"
                )
    return first


def make_backend(kind: str) -> Backend:
    """kind is "emulated" or "cuda"; with FIDFAST_EMULATION=asan the former is the build under AddressSanitizer."""
    if kind == "cuda":
        name, module, device, switch = "cuda", "fidfast._cuda", "cuda", "FIDFAST_REQUIRE_CUDA"
    else:
        name = "emulated_asan" if os.environ.get("FIDFAST_EMULATION") == "asan" else "emulated"
        module, device, switch = f"fidfast._cuda_{name}", "cpu", "FIDFAST_REQUIRE_EMULATION"
    try:
        return Backend(name, importlib.import_module(module), device)
    except ImportError as error:
        if os.environ.get(switch) == "1":
            raise
        pytest.skip(f"{module} is not built: {error}")
