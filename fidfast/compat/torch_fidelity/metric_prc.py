"""Precision and recall under torch-fidelity's names."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fidfast.compat.torch_fidelity.helpers import get_kwarg
from fidfast.compat.torch_fidelity.utils import (
    create_feature_extractor,
    extract_featuresdict_from_input_id_cached,
    resolve_feature_extractor,
    resolve_feature_layer_for_metric,
)
from fidfast.metrics.prdc import precision_recall

KEY_METRIC_PRECISION = "precision"
KEY_METRIC_RECALL = "recall"
KEY_METRIC_F_SCORE = "f_score"


def prc_features_to_metric(features_1: Tensor, features_2: Tensor, **kwargs: Any) -> dict[str, float]:  # (N, D) each
    """Input 1 is the generated set, input 2 the real one. ``prc_batch_size`` changes no number: memory is bounded."""
    found = precision_recall(features_2, features_1, neighbours=get_kwarg("prc_neighborhood", kwargs))
    f_score = 2 * found.precision * found.recall / max(1e-5, found.precision + found.recall)
    return {KEY_METRIC_PRECISION: found.precision, KEY_METRIC_RECALL: found.recall, KEY_METRIC_F_SCORE: f_score}


def prc_featuresdict_to_metric(
    featuresdict_1: dict[str, Tensor], featuresdict_2: dict[str, Tensor], feat_layer_name: str, **kwargs: Any
) -> dict[str, float]:
    return prc_features_to_metric(featuresdict_1[feat_layer_name], featuresdict_2[feat_layer_name], **kwargs)


def calculate_prc(**kwargs: Any) -> dict[str, float]:
    """Precision and recall alone, of the keywords of ``calculate_metrics``."""
    kwargs["prc"] = True
    layer = resolve_feature_layer_for_metric("prc", **kwargs)
    extractor = create_feature_extractor(resolve_feature_extractor(**kwargs), [layer], **kwargs)
    first, second = (extract_featuresdict_from_input_id_cached(number, extractor, **kwargs) for number in (1, 2))
    return prc_featuresdict_to_metric(first, second, layer, **kwargs)
