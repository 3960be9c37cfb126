"""What a generator must look like to be an input of :func:`calculate_metrics`."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn


class GenerativeModelBase(ABC, nn.Module):
    """Noise (N, z_size), and class labels (N,) where num_classes > 0 → uint8 images (N, 3, H, W)."""

    @property
    @abstractmethod
    def z_size(self) -> int:
        """Numbers of noise for an image."""

    @property
    @abstractmethod
    def z_type(self) -> str:
        """Which registered noise: "normal", "unit", "uniform_0_1" or one of :func:`register_noise_source`."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """0 where generation is not conditional."""
