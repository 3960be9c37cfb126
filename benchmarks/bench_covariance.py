"""Mean and covariance of features (N, 2048) float32, in float64: streamed in batches, against numpy and torchmetrics.

Bound: the float64 matrix-product rate of the machine on the N·D² operations that a symmetric product needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.timing import check_close, gemm_rate, medians, paired, paired_ratio
from fidfast.statistics import FeatureStatistics


def ours(batches: list[torch.Tensor]) -> FeatureStatistics:  # each (n, D) float32
    statistics = FeatureStatistics(batches[0].shape[1])
    for batch in batches:
        statistics.update(batch)
    statistics.sigma  # noqa: B018 - the covariance is formed when it is read
    return statistics


def torchmetrics_sums(batches: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """torchmetrics/image/fid.py: update() per batch, then compute()'s covariance."""
    dim = batches[0].shape[1]
    total, products, count = torch.zeros(dim).double(), torch.zeros(dim, dim).double(), 0
    for batch in batches:
        features = batch.double()
        total += features.sum(dim=0)
        products += features.t().mm(features)
        count += len(batch)
    mean = (total / count).unsqueeze(0)
    return mean.squeeze(0), (products - count * mean.t().mm(mean)) / (count - 1)


def run(*, quick: bool = False) -> dict[str, Any]:
    dim, count, batch_size = 2048, 3000 if quick else 8000, 64
    generator = torch.Generator().manual_seed(0)
    features = torch.rand((count, dim), generator=generator) * torch.rand(dim, generator=generator) ** 3
    batches = list(features.split(batch_size))
    values = features.numpy()
    expected = np.cov(values.astype(np.float64), rowvar=False)
    statistics = ours(batches)
    scale = float(np.abs(expected).max())
    difference = float((statistics.sigma - torch.from_numpy(expected)).abs().max()) / scale
    check_close("covariance", difference, 0.0, absolute=1e-12)
    runs = {
        "numpy": lambda: np.cov(values, rowvar=False),
        "torchmetrics": lambda: torchmetrics_sums(batches),
        "fidfast": lambda: ours(batches),
    }
    taken = paired(runs, rounds=3 if quick else 5)
    middle = medians(taken)
    rate = gemm_rate(torch.float64)
    return {
        "n": count,
        "feature_dim": dim,
        "batch_size": batch_size,
        "max_relative_difference": difference,
        "seconds": middle,
        "float64_flops": rate,
        "fraction_of_gemm": count * dim**2 / rate / middle["fidfast"],
        "ratio_numpy": paired_ratio(taken, "numpy", "fidfast"),
        "ratio_torchmetrics": paired_ratio(taken, "torchmetrics", "fidfast"),
    }
