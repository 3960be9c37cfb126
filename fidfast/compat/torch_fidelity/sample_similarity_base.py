"""What a sample similarity must look like to be registered; only PPL uses them, which fidfast does not compute."""

from __future__ import annotations

from torch import Tensor, nn


class SampleSimilarityBase(nn.Module):
    """Two batches of images (N, 3, H, W) → (N,) how alike each pair is."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def get_name(self) -> str:
        return self.name

    def forward(self, *args: Tensor) -> Tensor:
        raise NotImplementedError
