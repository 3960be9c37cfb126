"""``InceptionScore`` of torchmetrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fidfast.compat.torchmetrics.image.lists import FeatureLists
from fidfast.compat.torchmetrics.image.network import LAYERS, check_bool, make_network
from fidfast.metrics.inception_score import inception_score

__all__ = ["InceptionScore"]


class InceptionScore(FeatureLists):
    """The Inception Score of images that come in batches, as a metric of torchmetrics: its arguments, methods, state.

    The images are shuffled by torch's random state (``torch.manual_seed``) and split as torchmetrics does. It needs a
    weight file with the final layer: :class:`fidfast.weights.FinalLayerError` where it has none.

    Args:
        feature: "logits_unbiased", 64, 192, 768 or 2048 of the FID Inception, or a module: images → (N, C) logits.
        splits: over which mean and standard deviation are taken.
        normalize: images are float in [0, 1], which become uint8 by truncation; else they are uint8.
        kwargs: of ``torchmetrics.Metric``.
    """

    higher_is_better: bool = True
    is_differentiable: bool = False
    full_state_update: bool = False
    plot_lower_bound: float = 0.0
    feature_network: str = "inception"

    features: list[Tensor]

    def __init__(
        self,
        feature: str | int | nn.Module = "logits_unbiased",
        splits: int = 10,
        normalize: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.inception, _ = make_network(feature, LAYERS)
        self.used_custom_model = False  # normalize=True makes bytes for a module too, as torchmetrics does here alone
        self.normalize = check_bool("normalize", normalize)
        self.splits = splits
        self._add_lists(("features",))

    def update(self, imgs: Tensor) -> None:
        """Add images (N, 3, H, W)."""
        self._append("features", imgs)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (ddof 1, as torchmetrics) over the splits."""
        features = self._rows("features")
        order = torch.randperm(len(features), device="cpu")
        sizes = [len(part) for part in order.chunk(self.splits)]
        score = inception_score(features[order.to(features.device)], splits=sizes, shuffle=False)
        values = torch.from_numpy(score.values)
        return features.new_tensor(score.mean), values.std().to(features)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """One or several values as torchmetrics plots them; by default the mean."""
        return self._plot(self.compute()[0] if val is None else val, ax)
