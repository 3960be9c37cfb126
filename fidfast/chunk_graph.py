"""A network's launches as one CUDA graph: hundreds of small kernels take the host longer to launch than to run."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_ONE_CAPTURE = threading.Lock()  # at a time in a process: waiting for a device on which another one is under way fails


class ChunkGraph:
    """function(x) for x of one shape and layout on one CUDA device, replayed from a graph once it has come twice.

    The first call runs as it is: it warms up the libraries, and whoever has one chunk pays for no graph. The second one
    captures. What cannot be captured, an x of another shape, and whatever comes while the caller captures a graph of
    his own, runs as it is too. The graph keeps the memory of the function's intermediate results.

    Threads and streams may share one: their chunks take turns. A copy, or a pickle, captures its own.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._x = self._out = torch.empty(0, device="cpu")
        self._lock = threading.Lock()
        self._done: torch.cuda.Event | None = None  # the last chunk has left _x and _out

    def __reduce__(self) -> tuple[Any, ...]:
        return ChunkGraph, (self._function,)

    def __call__(self, x: Tensor) -> Tensor:
        if torch.cuda.is_current_stream_capturing():
            return self._function(x)
        with self._lock:
            self._calls += 1
            if self._calls == 2:
                self._capture(x)
            if self._graph is None or (x.shape, x.stride(), x.dtype, x.device) != self._key():
                return self._function(x)
            stream = torch.cuda.current_stream(x.device)
            if self._done is not None:
                stream.wait_event(self._done)  # it may have come on another stream
            try:
                self._x.record_stream(stream)  # which may still read it when this object has gone
                self._x.copy_(x)
                self._graph.replay()
                return self._out.clone()
            finally:
                self._done = stream.record_event()

    def _key(self) -> tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device]:
        return self._x.shape, self._x.stride(), self._x.dtype, self._x.device

    def _capture(self, x: Tensor) -> None:
        graph, kept = torch.cuda.CUDAGraph(), x.clone()
        # Set anew, so that it comes back whatever fails: torch's own context forgets it where capture_end() raises.
        callers = torch.cuda.current_stream(x.device)
        try:
            with _ONE_CAPTURE, torch.cuda.device(x.device), torch.cuda.stream(callers):
                torch.cuda.synchronize()  # the new stream has nothing to wait for
                # torch's own stream would be one of the device of the process's first capture, wherever x is.
                stream = torch.cuda.Stream(x.device)
                # Other threads (a loader's pinning, a process group's watchdog) go on calling CUDA meanwhile.
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    out = self._function(kept)
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(f"the network runs without a CUDA graph, which was refused: {reason}", stacklevel=2)
            return
        self._graph, self._x, self._out = graph, kept, out
