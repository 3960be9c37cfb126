"""The network's CUDA graph among devices, streams and threads, with as much of torch.cuda pretended as it needs."""

from __future__ import annotations

import contextlib
import copy
import pickle
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fidfast.chunk_graph import ChunkGraph

FIRST = torch.device("cuda", 0)
HERE = torch.device("cpu")  # plays another CUDA device, on which all tensors are


class Stream:
    """Knows the work after which its own next comes."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or cuda.device
        self.after: set[int] = set()
        self.graph: Graph | None = None  # that captures it

    def record_event(self) -> set[int]:
        return set(self.after)

    def wait_event(self, event: set[int]) -> None:
        self.after |= event


class OnStream:
    """As torch.cuda.stream does, it leaves the stream where its end is never called."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __enter__(self) -> None:
        self.found = cuda.device, dict(cuda.streams)
        cuda.device, cuda.streams[self.stream.device] = self.stream.device, self.stream

    def __exit__(self, *_: object) -> None:
        cuda.device, cuda.streams = self.found


class Graph:
    """The functions that were launched on the stream it began on."""

    def __init__(self) -> None:
        self.work: list[Callable[[], Any]] = []

    def capture_begin(self, *_: Any, **__: Any) -> None:
        self.stream = cuda.current_stream()
        cuda.fail_at("capture_begin")
        self.stream.graph = self
        cuda.captures.append(self)

    def capture_end(self) -> None:
        assert self.stream is cuda.current_stream()
        self.stream.graph = None
        cuda.captures.remove(self)
        cuda.fail_at("capture_end")

    def replay(self) -> None:
        cuda.replays.append(self)
        for work in self.work:
            work()
        time.sleep(0.01)  # another thread's turn, if it may


class Cuda(threading.local):
    """A thread's current device, and the current stream of each; beside them what all threads share."""

    captures: ClassVar[list[Graph]]  # under way
    replays: ClassVar[list[Graph]]
    waited: ClassVar[set[int]]  # the work that the host has waited for
    failing: ClassVar[str]

    def __init__(self) -> None:
        self.device = FIRST
        self.streams = {device: Stream(device) for device in (FIRST, HERE)}

    def current_stream(self, device: torch.device | None = None) -> Stream:
        return self.streams[device or self.device]

    @contextlib.contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        found, self.device = self.device, device
        try:
            yield
        finally:
            self.device = found

    def synchronize(self) -> None:
        if self.captures:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        Cuda.waited |= done

    def fail_at(self, step: str) -> None:
        if step == self.failing:
            raise RuntimeError(f"{step}: operation failed due to a previous error during capture\nmore")

    def launch(self, work: Callable[[], Any]) -> None:
        capture = self.current_stream(HERE).graph
        if capture is None:
            work()
        else:
            capture.work.append(work)


cuda = Cuda()
done: set[int] = set()


@pytest.fixture(autouse=True)
def _pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda.__init__()  # type: ignore[misc] # as at the start of a thread
    done.clear()
    for name, value in {"captures": [], "replays": [], "waited": set(), "failing": ""}.items():
        monkeypatch.setattr(Cuda, name, value, raising=False)
    for name, value in {
        "Stream": Stream,
        "CUDAGraph": Graph,
        "current_stream": cuda.current_stream,
        "stream": OnStream,
        "device": cuda.on,
        "synchronize": cuda.synchronize,
        "empty_cache": lambda: None,
        "is_current_stream_capturing": lambda: cuda.current_stream().graph is not None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: None)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
    monkeypatch.setattr(torch.cuda.graph, "default_capture_stream", None)  # the class itself is torch's own


def sums(x: Tensor) -> Tensor:  # (N, D) -> (N,)
    out = torch.full((len(x),), torch.nan)
    cuda.launch(lambda: out.copy_(x.sum(dim=1)))
    return out


def batches(count: int) -> list[Tensor]:
    return [torch.randn(4, 5) for _ in range(count)]


def test_the_second_chunk_is_captured_and_the_rest_replay() -> None:
    network, given = ChunkGraph(sums), batches(4)
    assert torch.equal(network(given[0]), given[0].sum(dim=1)) and not cuda.replays
    found = [network(x) for x in given[1:]]  # a result is no part of the graph: the next one leaves it alone
    for got, x in zip(found, given[1:], strict=True):
        assert torch.equal(got, x.sum(dim=1))
    assert len(cuda.replays) == 3 and len(set(cuda.replays)) == 1
    assert torch.equal(network(given[0][:3]), given[0][:3].sum(dim=1)) and len(cuda.replays) == 3


def test_a_capture_on_another_device_came_first() -> None:
    """torch keeps one stream for all captures, on the device of the first one: here it would capture nothing."""
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        pass
    network = ChunkGraph(sums)
    for x in batches(4):
        assert torch.equal(network(x), x.sum(dim=1))
    assert len(cuda.replays) == 3 and cuda.replays[0].work
    assert cuda.device == FIRST


@pytest.mark.parametrize("step", ["capture_begin", "capture_end"])
def test_a_refused_capture_is_said_once_and_leaves_the_stream(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cuda, "failing", step)
    network, x = ChunkGraph(sums), torch.ones(2, 3)
    streams = dict(cuda.streams)
    network(x)
    with pytest.warns(UserWarning, match=f"without a CUDA graph, which was refused: {step}: operation failed due"):
        assert torch.equal(network(x), x.sum(dim=1))
    assert cuda.device == FIRST and cuda.streams == streams
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(network(x), x.sum(dim=1)) and not cuda.replays


@pytest.mark.parametrize(("before", "replays"), [(0, 14), (2, 16)])
def test_threads_take_turns(before: int, replays: int) -> None:
    network = ChunkGraph(sums)
    for x in batches(before):
        network(x)

    def run(given: list[Tensor]) -> list[Tensor]:
        return [network(x) for x in given]

    given = [batches(5) for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        for got, expected in zip(threads.map(run, given), given, strict=True):
            for out, x in zip(got, expected, strict=True):
                assert torch.equal(out, x.sum(dim=1))
    assert len(cuda.replays) == replays


def test_one_capture_at_a_time() -> None:
    """Waiting for the device, which each begins with, would spoil the other's."""

    def slow(x: Tensor) -> Tensor:
        time.sleep(0.02)
        return sums(x)

    networks = [ChunkGraph(slow) for _ in range(3)]
    with warnings.catch_warnings(), ThreadPoolExecutor(3) as threads:
        warnings.simplefilter("error")
        list(threads.map(lambda network: [network(x) for x in batches(2)], networks))
    assert len(set(cuda.replays)) == 3


class Ordered(TorchDispatchMode):
    """Every copy is work on the current stream, which must come after all that was done on others."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        stream = cuda.current_stream(HERE)
        if func._schema.name in ("aten::copy_", "aten::clone") and stream.graph is None:
            assert done <= stream.after | cuda.waited, f"{func} does not wait for another stream's work"
            done.add(len(done))
            stream.after |= done
        return func(*args, **(kwargs or {}))


def test_streams_wait_for_each_other() -> None:
    network, streams = ChunkGraph(sums), [Stream(HERE), Stream(HERE)]
    given = batches(7)
    network(given[0])
    with Ordered():
        for x, turn in zip(given[1:], (0, 1, 1, 0, 1, 0), strict=True):
            with OnStream(streams[turn]):
                network(x)
    assert len(cuda.replays) == 6 and len(done) == 1 + 3 * 6  # x kept; then x in, the sums, and these out


def test_inside_a_capture_of_the_callers_own() -> None:
    network, x = ChunkGraph(sums), torch.randn(4, 5)
    network(x)
    with cuda.on(HERE):
        for _ in range(3):
            theirs = torch.cuda.CUDAGraph()
            with torch.cuda.graph(theirs):
                out = network(x)
            x += 1
            theirs.replay()
            assert torch.equal(out, x.sum(dim=1))
            network(x)  # has a graph of its own meanwhile
    assert len(cuda.replays) == 6


@pytest.mark.parametrize("chunks", [0, 1, 3])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_capture_their_own(copied: Callable[[ChunkGraph], ChunkGraph], chunks: int) -> None:
    network = ChunkGraph(sums)
    for x in batches(chunks):
        network(x)
    twin = copied(network)
    before = set(cuda.replays)
    for x in batches(3):
        assert torch.equal(twin(x), x.sum(dim=1))
    assert len(set(cuda.replays) - before) == 1
