"""What a network for :func:`calculate_metrics` must look like."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fidfast.compat.torch_fidelity.helpers import vassert


class FeatureExtractorBase(nn.Module):
    """Images → a tuple of features (N, D), one for each name in ``features_list``, in that order.

    The images are uint8 (N, 3, H, W) of a folder, and a batch of whatever a Dataset or a generator gives.
    Subclasses give ``get_provided_features_list``, ``get_default_feature_layer_for_metric`` and ``forward``, and are
    registered by :func:`register_feature_extractor`. They are made with keywords only they know, and must accept more.
    """

    def __init__(self, name: str, features_list: Sequence[str]) -> None:
        super().__init__()
        vassert(type(name) is str, f"name: expected a string, got {type(name).__name__}")
        vassert(isinstance(features_list, (list, tuple)), f"features_list: expected a list, got {features_list!r}")
        provided = self.get_provided_features_list()
        unknown = [feature for feature in features_list if feature not in provided]
        vassert(not unknown, f"features_list: {name} provides {', '.join(provided)}, got {unknown}")
        vassert(
            len(features_list) == len(set(features_list)), f"features_list: expected each once, got {features_list}"
        )
        vassert(len(features_list) > 0, "features_list: expected at least one feature, got none")
        self.name = name
        self.features_list = list(features_list)

    def get_name(self) -> str:
        return self.name

    @staticmethod
    def get_provided_features_list() -> Sequence[str]:
        """The names of all features that this network can give."""
        raise NotImplementedError

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """The feature for "isc", "fid", "kid" or "prc"."""
        raise NotImplementedError

    @staticmethod
    def can_be_compiled() -> bool:
        """Whether torch.compile may wrap this network."""
        raise NotImplementedError

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        """An input to compile with."""
        raise NotImplementedError

    def get_requested_features_list(self) -> list[str]:
        return self.features_list

    def convert_features_tuple_to_dict(self, features: tuple[Tensor, ...]) -> dict[str, Tensor]:
        vassert(
            isinstance(features, tuple) and len(features) == len(self.features_list),
            f"{self.name}: expected forward() to return {len(self.features_list)} tensors in a tuple",
        )
        return dict(zip(self.features_list, features, strict=True))

    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError
