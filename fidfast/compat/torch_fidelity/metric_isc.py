"""The Inception Score under torch-fidelity's names."""

from __future__ import annotations

from torch import Tensor

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
