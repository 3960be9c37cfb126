"""VGG-16, torch-fidelity's network for precision and recall, without torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fidfast.compat.torch_fidelity.feature_extractor_base import FeatureExtractorBase
from fidfast.compat.torch_fidelity.feature_extractor_inceptionv3 import resize
from fidfast.compat.torch_fidelity.helpers import get_kwarg, vassert
from fidfast.precision import network_switches
from fidfast.weights import WeightsError

WEIGHTS_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"  # torchvision's, which torch hub caches
_CHANNELS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0: a pool
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of [0, 1]


class FeatureExtractorVGG16(FeatureExtractorBase):
    """uint8 images (N, 3, H, W) → "fc2" (N, 4096) float32 of torchvision's VGG-16, or its positive part "fc2_relu".

    Weights: the file ``feature_extractor_weights_path``, else torch hub's copy or download of torchvision's. Resized to
    224 as TensorFlow 1 does. Errors: ValueError, WeightsError.
    """

    INPUT_IMAGE_SIZE = 224
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        features_list: Sequence[str],
        feature_extractor_weights_path: str | None = None,
        feature_extractor_internal_dtype: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, features_list)
        vassert(
            feature_extractor_internal_dtype in ("float32", "float64", None),
            f"feature_extractor_internal_dtype: expected float32 or float64, got {feature_extractor_internal_dtype!r}",
        )
        state = _load(feature_extractor_weights_path, progress=get_kwarg("verbose", kwargs))
        with torch.device("meta"):  # nothing to initialise: neither time nor random numbers are spent on it
            self.features = nn.Sequential(*_convolutions())
            self.classifier = nn.Sequential(
                nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096)
            )
        wanted = self.state_dict()
        missing = [key for key in wanted if key not in state or state[key].shape != wanted[key].shape]
        if missing:
            raise WeightsError(f"weights: expected torchvision's VGG-16, got a file without a fitting {missing[0]}")
        self.load_state_dict({key: state[key] for key in wanted}, assign=True)
        self.register_buffer("mean", 255 * torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(_STD).view(3, 1, 1), persistent=False)
        self.to(torch.float64 if feature_extractor_internal_dtype == "float64" else torch.float32)
        self.requires_grad_(False)
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # (N, 3, H, W) uint8
        vassert(
            x.dtype == torch.uint8 and x.ndim == 4 and x.shape[1] == 3,
            f"images: expected torch.uint8 of shape (N, 3, H, W), got {x.dtype} {tuple(x.shape)}",
        )
        with network_switches(self.mean.device):
            resized = resize(x.to(self.mean.device), "tensorflow", self.INPUT_IMAGE_SIZE).to(self.mean.dtype)
            maps = functional.adaptive_avg_pool2d(self.features((resized - self.mean) / self.std), 7)
            found = self.classifier(maps.flatten(1)).float()
        features = {"fc2": found, "fc2_relu": found.relu()}
        return tuple(features[name] for name in self.features_list)

    @staticmethod
    def get_provided_features_list() -> Sequence[str]:
        return "fc2", "fc2_relu"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return {"isc": "fc2_relu", "fid": "fc2_relu", "kid": "fc2_relu", "prc": "fc2_relu"}[metric]

    @staticmethod
    def can_be_compiled() -> bool:
        return True

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        return torch.zeros(1, 3, 4, 4, dtype=torch.uint8)


def _convolutions() -> list[nn.Module]:
    layers: list[nn.Module] = []
    before = 3
    for channels in _CHANNELS:
        if channels:
            layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
            before = channels
        else:
            layers.append(nn.MaxPool2d(2))
    return layers


def _load(path: str | None, *, progress: bool) -> dict[str, Tensor]:
    try:
        if path is not None:
            return torch.load(path, map_location="cpu", weights_only=True)
        return torch.hub.load_state_dict_from_url(
            WEIGHTS_URL, map_location="cpu", progress=progress, check_hash=True, weights_only=True
        )
    except Exception as error:  # no network, a refused download, a damaged or foreign file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"weights: VGG-16, torch-fidelity's network for precision and recall, cannot be had: {reason}. Put "
            f"{WEIGHTS_URL.rsplit('/', 1)[1]} of torchvision into {torch.hub.get_dir()}/checkpoints, or pass "
            'feature_extractor_weights_path=FILE, or feature_extractor="inception-v3-compat"'
        ) from error
