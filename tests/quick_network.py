"""A FeatureExtractor in milliseconds: everything but the network is the real one, and no weights are needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import fidfast
from fidfast.inception import TAPS


class QuickExtractor(fidfast.FeatureExtractor):
    """The taps' columns are pixels of the preprocessed image, averaged to a small one."""

    def __init__(self, *, taps: Sequence[str], preset: str, device: Any = None) -> None:
        self.tap_names = tuple(taps)
        self.feature_dim = sum(TAPS[tap][1] for tap in taps)
        self.preset, self.precision, self.identity = preset, "fp32", "quick"
        self.device = torch.device("cpu" if device is None else device)
        self.compile, self.compile_seconds, self.chunk_size, self.kernels = False, 0.0, 8, {"network": "quick"}
        self._dtype = torch.float32

    def network(self, x: torch.Tensor) -> torch.Tensor:  # (n, 3, 299, 299) -> (n, D)
        pooled = torch.nn.functional.adaptive_avg_pool2d(x, 37).flatten(1)  # (n, 4107)
        return pooled[:, : self.feature_dim].contiguous()
