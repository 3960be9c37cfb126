"""The Inception Score under torch-fidelity's names."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fidfast.compat.torch_fidelity.feature_extractor_base import FeatureExtractorBase
from fidfast.compat.torch_fidelity.helpers import get_kwarg
from fidfast.compat.torch_fidelity.utils import (
    create_feature_extractor,
    extract_featuresdict_from_input_id_cached,
    resolve_feature_extractor,
    resolve_feature_layer_for_metric,
)
from fidfast.metrics.inception_score import inception_score

KEY_METRIC_ISC_MEAN = "inception_score_mean"
KEY_METRIC_ISC_STD = "inception_score_std"


def isc_features_to_metric(
    feature: Tensor,  # (N, C) logits
    splits: int = 10,
    shuffle: bool = True,
    rng_seed: int = 2020,
) -> dict[str, float]:
    score = inception_score(feature, splits=splits, shuffle=shuffle, seed=rng_seed)
    return {KEY_METRIC_ISC_MEAN: score.mean, KEY_METRIC_ISC_STD: score.std}


def isc_featuresdict_to_metric(
    featuresdict: dict[str, Tensor], feat_layer_name: str, **kwargs: Any
) -> dict[str, float]:
    options = (get_kwarg(name, kwargs) for name in ("isc_splits", "samples_shuffle", "rng_seed"))
    return isc_features_to_metric(featuresdict[feat_layer_name], *options)


def isc_input_id_to_metric(
    input_id: int, feat_extractor: FeatureExtractorBase, feat_layer_name: str, **kwargs: Any
) -> dict[str, float]:
    features = extract_featuresdict_from_input_id_cached(input_id, feat_extractor, **kwargs)
    return isc_featuresdict_to_metric(features, feat_layer_name, **kwargs)


def calculate_isc(input_id: int, **kwargs: Any) -> dict[str, float]:
    """The Inception Score alone, of ``input1`` or ``input2`` of the keywords of ``calculate_metrics``."""
    kwargs["isc"] = True
    layer = resolve_feature_layer_for_metric("isc", **kwargs)
    extractor = create_feature_extractor(resolve_feature_extractor(**kwargs), [layer], **kwargs)
    return isc_input_id_to_metric(input_id, extractor, layer, **kwargs)
