"""The fixture of the kernel tests itself: it must not call two different results the same."""

from __future__ import annotations

import pytest
import torch
from backends import Backend, make_backend
from torch import Tensor


@pytest.fixture
def emulated() -> Backend:
    return make_backend("emulated")


def test_results_that_differ_in_one_bit_are_found(emulated: Backend) -> None:
    if emulated.name != "emulated":
        pytest.skip("under AddressSanitizer kernels run once, in one order of threads: nothing to compare")
    calls: list[int] = []

    def unsteady() -> tuple[Tensor, Tensor]:
        calls.append(1)
        return torch.zeros(3), torch.tensor([0.0, -0.0 if len(calls) == 3 else 0.0])

    with pytest.raises(AssertionError, match="result 1 differs between forward .* and random .* in 1 bytes"):
        emulated.run(unsteady)
    assert len(calls) == 3
    assert emulated.run(lambda: torch.full((2,), torch.nan)).isnan().all(), "equal bits are equal, NaN too"


def test_memory_that_nobody_wrote_is_found(emulated: Backend) -> None:
    if emulated.name != "emulated":
        pytest.skip("under AddressSanitizer kernels run once, in one order of threads: nothing to compare")
    with pytest.raises(AssertionError, match="memory that was read before it was written"):
        emulated.run(lambda: emulated.empty(4, 5, dtype=torch.int32))
    channels_last = emulated.empty(1, 3, 2, 2, dtype=torch.float16, memory_format=torch.channels_last)
    assert channels_last.is_contiguous(memory_format=torch.channels_last) and channels_last.dtype == torch.float16
    assert emulated.run(lambda: torch.empty(5)).isnan().all(), "what an op leaves empty is NaN"
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.kernels
def test_what_the_modules_say_of_themselves(emulated: Backend) -> None:
    build = emulated.module.build()
    assert build["emulated"] and build["architectures"] == "" and build["driver"] == 0
    (device,) = emulated.module.devices()
    assert device["capability"] == (9, 0) and device["shared_memory"] == 99 * 1024 and device["float64_ratio"] == 2
    with pytest.raises(ValueError, match="order: forward, reverse, random"):
        emulated.module.set_thread_order("sideways")


@pytest.mark.cuda
def test_the_devices_are_those_that_torch_sees() -> None:
    module = make_backend("cuda").module
    build, devices = module.build(), module.devices()
    assert not build["emulated"] and build["driver"] > 0
    seen = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
    assert [device["capability"] for device in devices] == seen
