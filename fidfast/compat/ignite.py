"""ignite's ``FID``: the metric of (train, test) batches, attached to an Engine where ignite is installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import fidfast
from fidfast.compat.raw_sums import distance_of, moments_of
from fidfast.distributed import Ranks

__all__ = ["FID", "fid_score"]

if TYPE_CHECKING:
    _Base: Any = object
else:
    try:
        from ignite.metrics.metric import Metric as _Base
    except ModuleNotFoundError as error:
        if error.name not in ("ignite", "ignite.metrics", "ignite.metrics.metric"):
            raise

        class _Base:
            """``update``, ``compute`` and ``reset`` as ignite's Metric has them, without an Engine."""

            def __init__(self, output_transform: Callable[[Any], Any], device: str | torch.device) -> None:
                self._output_transform, self._device = output_transform, torch.device(device)
                self.reset()


def fid_score(mu1: Tensor, mu2: Tensor, sigma1: Tensor, sigma2: Tensor, eps: float = 1e-6) -> float:
    """The Fréchet distance; mind the order: both means (D,), then both covariances (D, D). ``eps`` is not needed."""
    return float(fidfast.frechet_distance(*(one.detach().cpu().double() for one in (mu1, sigma1, mu2, sigma2))))


class FID(_Base):
    """The Fréchet distance of the features of pairs of batches, of all ranks.

    Args:
        num_features, feature_extractor: a module, images → (N, num_features); with ``num_features`` alone the batches
            are features. With neither it is the FID Inception (2048 features of uint8 images, or of float ones in
            [0, 1]) and not, as in ignite, torchvision's classifier, whose distances are no FID: a warning says so.
        output_transform: from an Engine's output to (train, test).
        device: where the sums are, and the module.
    """

    _state_dict_all_req_keys = ("_num_examples", "_train_total", "_test_total", "_train_sigma", "_test_sigma")

    def __init__(
        self,
        num_features: int | None = None,
        feature_extractor: nn.Module | None = None,
        output_transform: Callable[[Any], Any] = lambda x: x,
        device: str | torch.device = torch.device("cpu"),  # noqa: B008  ignite's own default
    ) -> None:
        if num_features is None and feature_extractor is None:
            warnings.warn(
                "FID() stands on the FID Inception network; ignite's own default, torchvision's ImageNet classifier, "
                "gives distances that are no FID",
                fidfast.FidfastWarning,
                stacklevel=2,
            )
            num_features, feature_extractor = 2048, _InceptionFeatures(device)
        if num_features is None:
            raise ValueError("Argument num_features must be provided, if feature_extractor is specified.")
        if num_features <= 0:
            raise ValueError(f"Argument num_features must be greater to zero, got: {num_features}")
        if feature_extractor is None:
            feature_extractor = nn.Identity()
        if not isinstance(feature_extractor, nn.Module):
            raise TypeError(
                f"Argument feature_extractor must be of type torch.nn.Module, got {type(feature_extractor)}"
            )
        self._num_features = num_features
        self._feature_extractor = feature_extractor.to(device)
        super().__init__(output_transform=output_transform, device=device)

    def reset(self) -> None:
        size, where = self._num_features, {"dtype": torch.float64, "device": self._device}
        self._train_total, self._test_total = torch.zeros(size, **where), torch.zeros(size, **where)
        self._train_sigma, self._test_sigma = torch.zeros(size, size, **where), torch.zeros(size, size, **where)
        self._num_examples = 0

    def update(self, output: Sequence[Tensor]) -> None:
        """Add (train, test): as many images of each. ValueError: shapes that do not fit; nothing is added."""
        train, test = (self._features(images) for images in output)
        if train.shape != test.shape:
            raise ValueError(
                f"Number of Training Features and Testing Features should be equal ({train.shape} != {test.shape})"
            )
        for side, features in (("train", train), ("test", test)):
            getattr(self, f"_{side}_total").add_(features.sum(dim=0))
            getattr(self, f"_{side}_sigma").addmm_(features.T, features)
        self._num_examples += len(train)

    def compute(self) -> float:
        """The distance of all pairs so far, of all ranks, each of which must call it."""
        ranks = Ranks()
        sums = [self._train_total, self._train_sigma, self._test_total, self._test_sigma]
        count = torch.tensor([self._num_examples], dtype=torch.int64, device="cpu")
        if ranks.size > 1:
            count, *sums = (ranks.all_reduce(one.clone()) for one in (count, *sums))
        n = int(count)
        if n < 2:
            raise ValueError(f"FID: a covariance needs at least 2 images, got {n}")
        return float(distance_of(moments_of(n, sums[0], sums[1]), moments_of(n, sums[2], sums[3])))

    def _features(self, images: Tensor) -> Tensor:  # → (N, num_features) float64
        with torch.no_grad():
            features = self._feature_extractor(images.detach().to(self._device)).to(self._device, torch.float64)
        if features.ndim != 2:
            raise ValueError(f"feature_extractor output must be a tensor of dim 2, got: {features.ndim}")
        if not len(features):
            raise ValueError("Batch size should be greater than one, got: 0")
        if features.shape[1] != self._num_features:
            raise ValueError(
                f"num_features returned by feature_extractor should be {self._num_features}, got: {features.shape[1]}"
            )
        return features


class _InceptionFeatures(nn.Module):
    """uint8 images (N, 3, H, W), or float ones in [0, 1] → (N, 2048), preset pytorch-fid."""

    def __init__(self, device: str | torch.device) -> None:
        super().__init__()
        self._network = fidfast.FeatureExtractor(2048, preset="pytorch-fid", device=device)

    def forward(self, images: Tensor) -> Tensor:
        value_range = (0.0, 1.0) if images.is_floating_point() else None
        rows = []
        for part in images.split(self._network.chunk_size):
            prepared, _ = self._network.preprocess(list(part), value_range=value_range, quantize=None)
            rows.append(self._network.network(prepared))
        return torch.cat(rows)
