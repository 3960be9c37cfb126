"""The Fréchet Inception Distance under torch-fidelity's names."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import fidfast
from fidfast.compat.torch_fidelity.feature_extractor_base import FeatureExtractorBase
from fidfast.compat.torch_fidelity.helpers import get_kwarg, vprint
from fidfast.compat.torch_fidelity.utils import (
    create_feature_extractor,
    extract_featuresdict_from_input_id_cached,
    resolve_feature_extractor,
    resolve_feature_layer_for_metric,
)
from fidfast.weights import FID_WEIGHTS_SHA256

KEY_METRIC_FID = "frechet_inception_distance"


def fid_features_to_statistics(features: Tensor) -> dict[str, np.ndarray]:  # (N, D)
    """{"mu": (D,), "sigma": (D, D)} float64, unbiased."""
    statistics = features_statistics(features)
    return {"mu": statistics.mu.cpu().numpy(), "sigma": statistics.sigma.cpu().numpy()}


def features_statistics(features: Tensor, preset: str | None = None) -> fidfast.FeatureStatistics:  # (N, D)
    """Statistics of features, of the FID network where ``preset`` is given."""
    made: dict[str, Any] = (
        {} if preset is None else {"preset": preset, "precision": "fp32", "weights": FID_WEIGHTS_SHA256}
    )
    statistics = fidfast.FeatureStatistics(features.shape[1], **made)
    statistics.update(features)
    return statistics


def fid_statistics_to_metric(stat_1: Any, stat_2: Any, verbose: bool) -> dict[str, float]:
    """The distance of two sets' statistics: dicts of mu and sigma, of any float type, or FeatureStatistics."""
    sides = [
        stat
        if isinstance(stat, fidfast.FeatureStatistics)
        else fidfast.FeatureStatistics.from_moments(torch.as_tensor(stat["mu"]), torch.as_tensor(stat["sigma"]))
        for stat in (stat_1, stat_2)
    ]
    fid = float(fidfast.compute_fid(sides[1], sides[0], progress=False))
    vprint(verbose, f"Frechet Inception Distance: {fid:.7g}")
    return {KEY_METRIC_FID: fid}


def fid_featuresdict_to_statistics(featuresdict: dict[str, Tensor], feat_layer_name: str) -> dict[str, np.ndarray]:
    return fid_features_to_statistics(featuresdict[feat_layer_name])


def fid_featuresdict_to_statistics_cached(
    featuresdict: dict[str, Tensor],
    cacheable_input_name: str | None,
    feat_extractor: FeatureExtractorBase,
    feat_layer_name: str,
    **kwargs: Any,
) -> dict[str, np.ndarray]:
    """Not from a file: what takes time, the features, has been there already."""
    return fid_featuresdict_to_statistics(featuresdict, feat_layer_name)


def fid_input_id_to_statistics(
    input_id: int, feat_extractor: FeatureExtractorBase, feat_layer_name: str, **kwargs: Any
) -> dict[str, np.ndarray]:
    """Those of ``input1`` or ``input2``; its features come from the cache where it has a name there."""
    features = extract_featuresdict_from_input_id_cached(input_id, feat_extractor, **kwargs)
    return fid_featuresdict_to_statistics(features, feat_layer_name)


fid_input_id_to_statistics_cached = fid_input_id_to_statistics


def fid_inputs_to_metric(feat_extractor: FeatureExtractorBase, **kwargs: Any) -> dict[str, float]:
    layer = resolve_feature_layer_for_metric("fid", **kwargs)
    sides = [fid_input_id_to_statistics(input_id, feat_extractor, layer, **kwargs) for input_id in (1, 2)]
    return fid_statistics_to_metric(sides[0], sides[1], get_kwarg("verbose", kwargs))


def calculate_fid(**kwargs: Any) -> dict[str, float]:
    """FID alone, of the keywords of ``calculate_metrics``."""
    kwargs["fid"] = True
    layer = resolve_feature_layer_for_metric("fid", **kwargs)
    extractor = create_feature_extractor(resolve_feature_extractor(**kwargs), [layer], **kwargs)
    return fid_inputs_to_metric(extractor, **kwargs)
