"""A network's launches as one CUDA graph: hundreds of small kernels take the host longer to launch than to run."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor


class ChunkGraph:
    """function(x) for x of one shape and layout on one CUDA device, replayed from a graph once it has come twice.

    The first call runs as it is: it warms up the libraries, and whoever has one chunk pays for no graph. The second one
    captures. What cannot be captured, and an x of another shape, runs as it is too. The graph keeps the memory of the
    function's intermediate results.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._x = self._out = torch.empty(0, device="cpu")

    def __call__(self, x: Tensor) -> Tensor:
        self._calls += 1
        if self._calls == 2:
            self._capture(x)
        if self._graph is None or (x.shape, x.stride(), x.dtype, x.device) != self._key():
            return self._function(x)
        self._x.copy_(x)
        self._graph.replay()
        return self._out.clone()

    def _key(self) -> tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device]:
        return self._x.shape, self._x.stride(), self._x.dtype, self._x.device

    def _capture(self, x: Tensor) -> None:
        graph = torch.cuda.CUDAGraph()
        self._x = x.clone()
        try:
            with torch.cuda.device(x.device):
                torch.cuda.synchronize()
                # Other threads (a loader's pinning, a process group's watchdog) go on calling CUDA meanwhile.
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                    self._out = self._function(self._x)
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(f"the network runs without a CUDA graph, which was refused: {reason}", stacklevel=2)
            return
        self._graph = graph
