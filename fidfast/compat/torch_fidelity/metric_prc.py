"""Precision and recall under torch-fidelity's names."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fidfast.compat.torch_fidelity.helpers import get_kwarg
from fidfast.metrics.prdc import precision_recall

KEY_METRIC_PRECISION = "precision"
KEY_METRIC_RECALL = "recall"
KEY_METRIC_F_SCORE = "f_score"


def prc_features_to_metric(features_1: Tensor, features_2: Tensor, **kwargs: Any) -> dict[str, float]:  # (N, D) each
    """Input 1 is the generated set, input 2 the real one. ``prc_batch_size`` changes no number: memory is bounded."""
    found = precision_recall(features_2, features_1, neighbours=get_kwarg("prc_neighborhood", kwargs))
    f_score = 2 * found.precision * found.recall / max(1e-5, found.precision + found.recall)
    return {KEY_METRIC_PRECISION: found.precision, KEY_METRIC_RECALL: found.recall, KEY_METRIC_F_SCORE: f_score}
