"""``MemorizationInformedFrechetInceptionDistance`` of torchmetrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fidfast import FeatureStatistics, compute_fid
from fidfast.compat.torchmetrics.image.lists import FeatureLists
from fidfast.compat.torchmetrics.image.network import check_bool, make_network
from fidfast.metrics.memorization import mean_nearest_cosine

__all__ = ["MemorizationInformedFrechetInceptionDistance"]


class MemorizationInformedFrechetInceptionDistance(FeatureLists):
    """MiFID, the FID divided by how close the images are to the training set, as a metric of torchmetrics.

    All features are kept, in float64: 16 kB an image.

    Args:
        feature: 64, 192, 768 or 2048 of the FID Inception, or a module: images → (N, D).
        reset_real_features: whether ``reset`` also forgets the real images.
        normalize: images are float in [0, 1], which become uint8 by truncation; else they are uint8.
        cosine_distance_eps: from this mean distance on nothing is taken as memorised: the plain FID.
        kwargs: of ``torchmetrics.Metric``.
    """

    higher_is_better: bool = False
    is_differentiable: bool = False
    full_state_update: bool = False
    feature_network: str = "inception"

    real_features: list[Tensor]
    fake_features: list[Tensor]

    def __init__(
        self,
        feature: int | nn.Module = 2048,
        reset_real_features: bool = True,
        normalize: bool = False,
        cosine_distance_eps: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.inception, self.used_custom_model = make_network(feature, (64, 192, 768, 2048))
        self.reset_real_features = check_bool("reset_real_features", reset_real_features)
        self.normalize = check_bool("normalize", normalize)
        if not (isinstance(cosine_distance_eps, float) and 1 >= cosine_distance_eps > 0):
            raise ValueError("Argument `cosine_distance_eps` expected to be a float greater than 0 and less than 1")
        self.cosine_distance_eps = cosine_distance_eps
        self._add_lists(("real_features", "fake_features"), torch.float64)

    def update(self, imgs: Tensor, real: bool) -> None:
        """Add images (N, 3, H, W) to the real or the generated side."""
        self._append("real_features" if real else "fake_features", imgs)

    def compute(self) -> Tensor:
        """() in the features' float type. ValueError: fewer than 2 images on a side."""
        real, fake = self._rows("real_features"), self._rows("fake_features")
        sides = []
        for rows in (real, fake):
            statistics = FeatureStatistics(rows.shape[1])
            statistics.update(rows)
            sides.append(statistics)
        fid = float(compute_fid(*sides, progress=False))
        distance = mean_nearest_cosine(real, fake)
        penalty = distance if distance < self.cosine_distance_eps else 1.0
        value = fid / (penalty + 10e-15) if fid > 1e-8 else 0.0
        return torch.tensor(value, dtype=self.orig_dtype, device=real.device)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """One or several values as torchmetrics plots them."""
        return self._plot(val, ax)
