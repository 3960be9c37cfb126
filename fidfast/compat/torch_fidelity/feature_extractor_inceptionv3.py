"""The FID Inception network behind torch-fidelity's interface, in float32 or, which there does nothing, float64."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fidfast.compat.torch_fidelity.feature_extractor_base import FeatureExtractorBase
from fidfast.compat.torch_fidelity.helpers import vassert
from fidfast.features import FeatureExtractor
from fidfast.inception import TAPS, Inception
from fidfast.precision import network_switches
from fidfast.weights import open_weights

_DOUBLE_CHUNK = 8
_LAYERS = ("Conv2d_", "MaxPool_", "Mixed_", "AvgPool")  # of torch-fidelity's network
# Instances with equal options share one network, as the metrics of one collection do.
_networks: weakref.WeakValueDictionary[tuple, Any] = weakref.WeakValueDictionary()


class FeatureExtractorInceptionV3(FeatureExtractorBase):
    """uint8 images (N, 3, H, W) → a tuple of features (N, D) float32, those of ``features_list``.

    The network runs where ``.to(device)`` has put this module, and in float64 after ``.double()`` or with
    ``feature_extractor_internal_dtype="float64"``. It has no parameters and is not in the state_dict, of which keys of
    torch-fidelity's own network are ignored; copies and pickles make theirs when they need it. Always in evaluation
    mode; its features do not depend on how images are batched. Errors: ValueError, WeightsError.
    """

    INPUT_IMAGE_SIZE = 299
    preset = "tensorflow"
    _placed: Tensor

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
        dtype = torch.float64 if feature_extractor_internal_dtype == "float64" else torch.float32
        self.register_buffer("_placed", torch.empty(0, dtype=dtype, device="cpu"), persistent=False)
        self._compile = bool(kwargs.get("feature_extractor_compile"))
        # Now rather than with the first images: what is missing, or lacks the layer of the classes.
        logits = any(feature.startswith("logits") for feature in self.features_list)
        self._weights, _ = open_weights(feature_extractor_weights_path, final_layer=logits)
        self._network: Any = None
        self.eval()

    def __getattr__(self, name: str) -> Any:
        """What is not there; torchmetrics' own metrics, for one, run the original's layers one by one."""
        if name.startswith(_LAYERS):
            raise AttributeError(
                f"{type(self).__name__} has no layer {name}: fidfast's network runs as a whole. "
                'fidfast.compat.install("torchmetrics") lets its metrics stand on it; for other code, '
                'uninstall("torch_fidelity") gives the original back'
            )
        return super().__getattr__(name)

    @property
    def in_double(self) -> bool:
        return self._placed.dtype == torch.float64

    def network(self) -> Any:
        """What computes: a :class:`fidfast.FeatureExtractor`, or its twin in float64."""
        key: tuple[Any, ...] = (tuple(self.features_list), self.preset, str(self._placed.device), self.in_double)
        key += (str(self._weights), self._compile)
        if self._network is None or self._network[0] != key:
            made = _networks.get(key)
            if made is None:
                if self.in_double:
                    made = DoubleInception(self.features_list, self.preset, self._placed.device, str(self._weights))
                else:
                    made = FeatureExtractor(
                        taps=tuple(self.features_list),
                        preset=self.preset,
                        device=self._placed.device,
                        compile=self._compile,
                        weights=self._weights,
                    )
                _networks[key] = made
            self._network = (key, made)
        return self._network[1]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # (N, 3, H, W) uint8
        return tuple(features.float() for features in self.compute(x))

    def compute(self, x: Tensor) -> list[Tensor]:
        """The features (N, D) in the network's own float type."""
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        vassert(
            isinstance(x, Tensor) and x.dtype == torch.uint8 and x.ndim == 4 and x.shape[1] == 3,
            f"images: expected a torch.Tensor of dtype torch.uint8 and shape (N, 3, H, W), got {got}",
        )
        features = self.network().taps(x)
        return [features[name] for name in self.features_list]

    def train(self, mode: bool = True) -> FeatureExtractorInceptionV3:
        return super().train(False)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: a checkpoint of the original's network holds the weights that this one has."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None}

    @staticmethod
    def get_provided_features_list() -> Sequence[str]:
        return "64", "192", "768", "2048", "logits_unbiased", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return {"isc": "logits_unbiased", "fid": "2048", "kid": "2048", "prc": "2048"}[metric]

    @staticmethod
    def can_be_compiled() -> bool:
        return True

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        return torch.zeros(1, 3, 4, 4, dtype=torch.uint8)


class DoubleInception:
    """The network with its resize, batch norms and convolutions in float64."""

    def __init__(self, taps: Sequence[str], preset: str, device: torch.device, weights: str) -> None:
        state = {name: tensor.double() for name, tensor in open_weights(weights)[1].items()}
        self._inception = Inception(state, taps=tuple(taps)).to(device)
        self._preset, self._device = preset, device

    def taps(self, images: Tensor) -> dict[str, Tensor]:  # (N, 3, H, W) uint8 → (N, D) float64 each
        rows = []
        with network_switches(self._device):
            for part in images.to(self._device).split(_DOUBLE_CHUNK):
                rows.append(self._inception((resize(part, self._preset) - 128) / 128))
        widths = [TAPS[tap][1] for tap in self._inception.taps]
        features = torch.cat(rows) if rows else torch.zeros(0, sum(widths), dtype=torch.float64, device=self._device)
        return dict(zip(self._inception.taps, features.split(widths, dim=1), strict=True))


def resize(images: Tensor, preset: str, size: int = 299) -> Tensor:  # (N, 3, H, W) → (N, 3, 299, 299) float64
    """torch-fidelity's resize ("tensorflow") or torchmetrics' ("torchmetrics"), in float64."""
    values = images.double()
    if preset == "torchmetrics":
        return functional.interpolate(values, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    rows, columns = (_tf1_matrix(length, size).to(images.device) for length in images.shape[2:])
    return rows @ (values @ columns.T)


def _tf1_matrix(length: int, size: int) -> Tensor:  # (size, length) float64
    """TensorFlow 1's bilinear resize of one axis; its scale is a float32 also in torch-fidelity's float64."""
    place = torch.arange(size, dtype=torch.float64, device="cpu") * float(np.float32(length / size))
    low = place.long().clamp_max(length - 1)
    matrix = torch.zeros(size, length, dtype=torch.float64, device="cpu")
    index = torch.arange(size, device="cpu")
    matrix[index, low] += 1 - (place - low)
    matrix[index, (low + 1).clamp_max(length - 1)] += place - low
    return matrix
