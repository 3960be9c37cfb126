"""The feature network of a metric: torchmetrics' name for the Inception, or the user's module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fidfast.compat.torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

LAYERS = ("logits_unbiased", 64, 192, 768, 2048)


class NoTrainInceptionV3(FeatureExtractorInceptionV3):
    """uint8 images (N, 3, H, W) → (N, D) of the first feature of ``features_list``; always in evaluation mode."""

    def __init__(
        self,
        name: str,
        features_list: list[str],
        feature_extractor_weights_path: str | None = None,
        antialias: bool = True,
    ) -> None:
        super().__init__(name, features_list, feature_extractor_weights_path)
        self.use_antialias = antialias
        self.preset = "torchmetrics" if antialias else "tensorflow"

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.compute(x)[0]


def make_network(
    feature: Any,
    layers: tuple[int | str, ...],
    *,
    weights: str | None = None,
    antialias: bool = True,
) -> tuple[nn.Module, bool]:
    """The network, and whether it is the user's."""
    if isinstance(feature, nn.Module):
        return feature, True
    if not isinstance(feature, (int, str)):
        raise TypeError("Got unknown input to argument `feature`")
    if feature not in layers:
        raise ValueError(f"Integer input to argument `feature` must be one of {layers}, but got {feature}.")
    return NoTrainInceptionV3("inception-v3-compat", [str(feature)], weights, antialias), False


def to_bytes(imgs: Tensor) -> Tensor:
    """Float images in [0, 1] → uint8, truncated as torchmetrics does; where that would wrap around, ValueError."""
    if not isinstance(imgs, Tensor) or not imgs.is_floating_point():
        got = str(imgs.dtype) if isinstance(imgs, Tensor) else type(imgs).__name__
        raise ValueError(f"imgs: expected float images in [0, 1], as normalize=True says, got {got}")
    scaled = imgs * 255
    if not bool(((scaled > -1) & (scaled < 256)).all()):
        got = "NaN" if bool(imgs.isnan().any()) else f"values from {float(imgs.min()):g} to {float(imgs.max()):g}"
        raise ValueError(
            f"imgs: expected values in [0, 1], as normalize=True says, got {got}; torchmetrics would wrap them around"
        )
    return scaled.clamp(0, 255).to(torch.uint8)


def extract(metric: Any, imgs: Tensor) -> Tensor:
    """(N, D) features of a batch, in the network's own float type."""
    features = metric.inception(to_bytes(imgs) if metric.normalize and not metric.used_custom_model else imgs)
    if features.ndim == 1:
        features = features[None]
    if features.ndim != 2:
        raise ValueError(f"feature: expected the network to return (N, D), got {tuple(features.shape)}")
    return features


def check_bool(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"Argument `{name}` expected to be a bool")
    return value


def check_positive(name: str, value: Any) -> int:
    if not (isinstance(value, int) and value > 0):
        raise ValueError(f"Argument `{name}` expected to be integer larger than 0")
    return value
