"""What the host must know of a chunk's results, copied from the device while that works on the next chunk."""

from __future__ import annotations

import torch
from torch import Tensor


class Landing:
    """Features that stay where they are, beside their hashes and which of them are finite, on the host.

    On a CUDA device both copies are only begun here: :meth:`wait` returns when this chunk's are done, however much
    the device has been given to do since.
    """

    def __init__(self, features: Tensor, hashes: Tensor) -> None:  # (n, D), (n, 2) int64
        self.features = features
        finite = torch.isfinite(features).all(dim=1)
        self._hashes, self._finite = (_begin_copy(tensor) for tensor in (hashes, finite))
        devices = {tensor.device for tensor in (features, hashes) if tensor.is_cuda}  # the images may be on another
        self._done = [torch.cuda.current_stream(device).record_event() for device in devices]

    def wait(self) -> tuple[Tensor, Tensor]:
        """Hashes (n, 2) int64 and finite (n,) bool, on the host."""
        for done in self._done:
            done.synchronize()
        return self._hashes, self._finite


def _begin_copy(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor.cpu()
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)
