"""Fixtures that every test shares: the real weights, the GPU, and a random state that no test can leave changed."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from backends import Backend, make_backend


def pytest_configure() -> None:
    # A shell without job control starts its background commands with SIGINT ignored, and children inherit that: the
    # tests of Ctrl-C would wait for ever where CI runs like this.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "backend" in getattr(item, "fixturenames", ()):
            item.add_marker("kernels")
    has_cuda = torch.cuda.is_available()
    if os.environ.get("FIDFAST_REQUIRE_CUDA") == "1" and not has_cuda:
        raise pytest.UsageError("FIDFAST_REQUIRE_CUDA=1, but torch sees no CUDA device")
    if not has_cuda:
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


@pytest.fixture(autouse=True)
def _keep_random_state() -> Iterator[None]:
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    yield
    torch.set_rng_state(torch_state)
    np.random.set_state(numpy_state)
    random.setstate(python_state)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For tests of small matrices, where threads that wait for each other take fifty times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def weights_path() -> Path:
    """The real FID Inception weights, as `fidfast weights install` leaves them."""
    from fidfast.weights import WeightsError, find_weights

    try:
        return find_weights(download=False)
    except WeightsError as error:
        if os.environ.get("FIDFAST_REQUIRE_WEIGHTS") == "1":
            raise
        pytest.skip(f"no FID Inception weights here: {error}")


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.cuda)])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Where a kernel test runs its kernel; see tests/backends.py."""
    return make_backend(request.param)


@pytest.fixture
def vast(backend: Backend, tmp_path: Path) -> Callable[[int, torch.dtype], torch.Tensor]:
    """vast(count, dtype): a tensor (count,) of zeros; on a CPU only what is touched of it takes memory."""

    def made(count: int, dtype: torch.dtype) -> torch.Tensor:
        if backend.device != "cpu":
            return torch.zeros(count, dtype=dtype, device=backend.device)
        file = tmp_path / f"{count}.bytes"
        with file.open("wb") as opened:
            opened.truncate(count * dtype.itemsize)
        return torch.from_file(str(file), shared=True, size=count, dtype=dtype)

    return made
