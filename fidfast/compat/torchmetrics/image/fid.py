"""``FrechetInceptionDistance`` of torchmetrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fidfast.compat.raw_sums import distance_of, moments_of
from fidfast.compat.torchmetrics.image.network import NoTrainInceptionV3, check_bool, extract, make_network
from fidfast.compat.torchmetrics.image.states import ImageMetric

__all__ = ["FrechetInceptionDistance", "NoTrainInceptionV3"]


class FrechetInceptionDistance(ImageMetric):
    """The FID of images that come in batches, as a metric of torchmetrics: its arguments, methods and states.

    Args:
        feature: 64, 192, 768 or 2048 of the FID Inception, or a module: images → (N, D).
        reset_real_features: whether ``reset`` also forgets the real images.
        normalize: images are float in [0, 1], which become uint8 by truncation; else they are uint8.
        input_img_size: (C, H, W) of the image with which a module without ``num_features`` is tried.
        feature_extractor_weights_path: weight file; default: see :func:`fidfast.weights.find_weights`.
        antialias: resize as torchmetrics from 1.8 on; False: as before, and as TensorFlow.
        kwargs: of ``torchmetrics.Metric``.

    Raises:
        ValueError, TypeError: an argument; images of another type or range. RuntimeError: fewer than 2 on a side.
    """

    higher_is_better: bool = False
    is_differentiable: bool = False
    full_state_update: bool = False
    plot_lower_bound: float = 0.0
    feature_network: str = "inception"

    real_features_sum: Tensor  # (D,) float64
    real_features_cov_sum: Tensor  # (D, D) float64: Σ x xᵀ
    real_features_num_samples: Tensor  # () int64
    fake_features_sum: Tensor
    fake_features_cov_sum: Tensor
    fake_features_num_samples: Tensor
    inception: nn.Module

    def __init__(
        self,
        feature: int | nn.Module = 2048,
        reset_real_features: bool = True,
        normalize: bool = False,
        input_img_size: tuple[int, int, int] = (3, 299, 299),
        feature_extractor_weights_path: str | None = None,
        antialias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.normalize = check_bool("normalize", normalize)
        self.reset_real_features = check_bool("reset_real_features", reset_real_features)
        self.inception, self.used_custom_model = make_network(
            feature, (64, 192, 768, 2048), weights=feature_extractor_weights_path, antialias=antialias
        )
        self.orig_dtype = torch.get_default_dtype()
        size = feature if isinstance(feature, int) else self._custom_size(input_img_size)
        for side in ("real", "fake"):
            self.add_state(f"{side}_features_sum", torch.zeros(size).double(), dist_reduce_fx="sum")
            self.add_state(f"{side}_features_cov_sum", torch.zeros(size, size).double(), dist_reduce_fx="sum")
            self.add_state(f"{side}_features_num_samples", torch.tensor(0).long(), dist_reduce_fx="sum")

    def update(self, imgs: Tensor, real: bool) -> None:
        """Add images (N, 3, H, W) to the real or the generated side. ValueError: nothing is added."""
        rows = extract(self, imgs)  # (N, D)
        side, total = ("real" if real else "fake"), self.real_features_sum
        if len(rows) != len(imgs):  # which the lists of the other metrics may, but not a count of images
            raise ValueError(
                f"feature: expected the network to return ({len(imgs)}, D) for {len(imgs)} images, got "
                f"{tuple(rows.shape)}"
            )
        if rows.shape[1] != len(total):
            raise ValueError(f"feature: expected {len(total)} features of an image as before, got {rows.shape[1]}")
        self.orig_dtype = rows.dtype
        rows = rows.detach().to(total.device, torch.float64)
        for state, change in (
            ("sum", rows.sum(dim=0)),
            ("cov_sum", rows.T @ rows),
            ("num_samples", len(rows)),
        ):
            before = getattr(self, f"{side}_features_{state}")
            # not in place: what reset() makes within inference mode cannot be written to outside it
            setattr(self, f"{side}_features_{state}", (before + change).to(before.dtype))

    def compute(self) -> Tensor:
        """() the FID of all images so far, of all ranks, in the features' float type."""
        counts = {side: int(getattr(self, f"{side}_features_num_samples")) for side in ("real", "fake")}
        if min(counts.values()) < 2:
            raise RuntimeError(
                "More than one sample is required for both the real and fake distributed to compute FID, got "
                f"{counts['real']} real and {counts['fake']} fake"
            )
        real = moments_of(counts["real"], self.real_features_sum, self.real_features_cov_sum)
        fake = moments_of(counts["fake"], self.fake_features_sum, self.fake_features_cov_sum)
        return distance_of(real, fake).to(self.orig_dtype)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """One or several values as torchmetrics plots them."""
        return self._plot(val, ax)

    def _custom_size(self, input_img_size: tuple[int, int, int]) -> int:
        size = getattr(self.inception, "num_features", None)
        if size is None:
            image = torch.zeros(1, *input_img_size, dtype=torch.float32 if self.normalize else torch.uint8)
            with torch.no_grad():
                return self.inception(image).shape[-1]
        if isinstance(size, Tensor) and size.numel() == 1:
            return int(size)
        if not isinstance(size, int):
            raise TypeError("Expected `self.inception.num_features` to be of type int or Tensor.")
        return size
