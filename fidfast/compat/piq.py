"""piq's ``FID``: a module of two sets of features, and the features of a loader's images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import fidfast

__all__ = ["FID"]


class FID(nn.Module):
    """``FID()(x_features, y_features)``: the Fréchet distance of two sets (N, D), as a float64 tensor; no gradients."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x_features: Tensor, y_features: Tensor) -> Tensor:
        return self.compute_metric(x_features, y_features)

    @torch.no_grad()
    def compute_feats(
        self,
        loader: Iterable[Any],
        feature_extractor: nn.Module | None = None,
        device: str = "cuda",
    ) -> Tensor:
        """(N, D) features, on the CPU, of a loader that yields dicts with float images in [0, 1] under ``images``.

        Args:
            feature_extractor: images (N, 3, H, W) → a list with one tensor; it stays on ``device``. Default: the FID
                Inception of pytorch-fid, 2048 features.
        """
        if feature_extractor is None:
            network = fidfast.FeatureExtractor(2048, preset="pytorch-fid", device=device)
        elif isinstance(feature_extractor, nn.Module):
            feature_extractor.to(device).eval()
        else:
            raise TypeError(f"feature_extractor: expected a torch.nn.Module, got {type(feature_extractor).__name__}")
        parts = []
        for batch in loader:
            if not isinstance(batch, Mapping) or "images" not in batch:
                got = f"the keys {sorted(batch)}" if isinstance(batch, Mapping) else type(batch).__name__
                raise ValueError(f"loader: expected dicts with a key 'images', got {got}")
            images = batch["images"]
            if feature_extractor is None:
                parts.append(_inception_features(network, images).cpu())
                continue
            found = feature_extractor(images.float().to(device))
            if not isinstance(found, (list, tuple)) or len(found) != 1:
                got = (
                    f"{type(found).__name__} of {len(found)}"
                    if isinstance(found, (list, tuple))
                    else type(found).__name__
                )
                raise ValueError(f"feature_extractor: expected a list of one tensor, got {got}")
            parts.append(found[0].reshape(len(images), -1).cpu())
        if not parts:
            raise ValueError("loader: expected at least one batch, got none")
        return torch.cat(parts)

    def compute_metric(self, x_features: Tensor, y_features: Tensor) -> Tensor:
        """() float64. StatisticsError, a ValueError: features that are no (N, D), of unlike D, or fewer than 2."""
        sides = []
        for name, features in (("x_features", x_features), ("y_features", y_features)):
            if not isinstance(features, Tensor) or features.ndim != 2:
                got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
                raise ValueError(f"{name}: expected a tensor (N, D), got {got}")
            statistics = fidfast.FeatureStatistics(features.shape[1])
            statistics.source = name
            statistics.update(features.detach())
            sides.append(statistics)
        value = float(fidfast.compute_fid(*sides, progress=False))
        return torch.tensor(value, dtype=torch.float64, device=x_features.device)


def _inception_features(network: Any, images: Tensor) -> Tensor:  # (N, 3, H, W) float in [0, 1] → (N, 2048)
    """Not rounded to 8 bits, as piq and pytorch-fid's network take them."""
    if images.dtype == torch.uint8 or not bool(((images >= 0) & (images <= 1)).all()):
        got = "torch.uint8" if images.dtype == torch.uint8 else f"{float(images.min()):g} to {float(images.max()):g}"
        raise ValueError(f"images: expected float images in [0, 1], got {got}")
    rows = []
    for part in images.float().split(network.chunk_size):
        rows.append(network.network(network.preprocess(list(part), value_range=(0, 1), quantize=None)[0]))
    return torch.cat(rows)
