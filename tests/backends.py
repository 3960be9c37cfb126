"""Where a kernel test runs its kernel: in emulation on the CPU, or on a CUDA device. The same test body for both.

    def test_my_op(backend):
        x = torch.randn(8, device=backend.device)

        def run():
            out = backend.empty(8, dtype=torch.float64)
            backend.module.my_kernel(to_dlpack(x), to_dlpack(out), stream=backend.stream())
            return out

        torch.testing.assert_close(backend.run(run).cpu(), expected)

backend.run calls the function once for each thread order of the emulation (twice on a device) and fails unless the
returned tensors are the same in every bit. A kernel launched in emulation outside of backend.run is refused.
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
            for seed, order in enumerate(ORDERS):
                self.module.set_thread_order(order, seed)
                results.append((f"{order} thread order", function()))
        finally:
            self.module.set_thread_order("", 0)
            torch.use_deterministic_algorithms(False)
        return _all_equal(results)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().view(torch.uint8) if tensor.numel() else torch.empty(0)


def _all_equal(results: list[tuple[str, T]]) -> T:
    first_name, first = results[0]
    for name, other in results[1:]:
        pairs = [(first, other)] if isinstance(first, Tensor) else list(zip(first, other, strict=True))
        for i, (a, b) in enumerate(pairs):
            different = int((_bits(a) != _bits(b)).sum())
            if different:
                raise AssertionError(
                    f"result {i} differs between {first_name} and {name} in {different} bytes: a race, or memory "
                    "that was read before it was written"
                )
    return first


def make_backend(name: str) -> Backend:
    required = os.environ.get("FIDFAST_REQUIRE_EMULATION" if name == "emulated" else "FIDFAST_REQUIRE_CUDA") == "1"
    emulated = "_cuda_emulated_asan" if os.environ.get("FIDFAST_EMULATION") == "asan" else "_cuda_emulated"
    module = emulated if name == "emulated" else "_cuda"
    try:
        return Backend(name, importlib.import_module(f"fidfast.{module}"), "cpu" if name == "emulated" else "cuda")
    except ImportError as error:
        if required:
            raise
        pytest.skip(f"fidfast.{module} is not built: {error}")
