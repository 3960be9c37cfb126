"""The Fréchet Inception Distance under torch-fidelity's names."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import fidfast
from fidfast.compat.torch_fidelity.helpers import vprint
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
