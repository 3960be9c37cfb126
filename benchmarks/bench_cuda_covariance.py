"""Mean and covariance of features (N, 2048) float32 that lie on a GPU: our kernel against float64 products in torch.

Bound: the float64 matrix-product rate of the device on the N·D² operations that a symmetric product needs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_timing import device_gemm_rate, device_seconds
from benchmarks.timing import Keep, check_close, forget
from fidfast import ops
from fidfast.statistics import FeatureStatistics

BLOCK = 2048  # rows of a flush at D = 2048
Sums = tuple[Tensor, Tensor]  # (D,), (D, D) float64


def zeros(dim: int) -> Sums:
    return tuple(torch.zeros(*shape, dtype=torch.float64, device="cuda") for shape in ((dim,), (dim, dim)))


def by_kernel(features: Tensor, shift: Tensor) -> Sums:
    total, scatter = zeros(features.shape[1])
    for rows in features.split(BLOCK):
        ops.add_covariance(rows, shift, total, scatter)
    return total, scatter


def by_torch(features: Tensor, shift: Tensor) -> Sums:
    """The same sums by cuBLAS, block by block: what a user would write."""
    total, scatter = zeros(features.shape[1])
    for rows in features.split(BLOCK):
        shifted = rows.double() - shift
        total += shifted.sum(dim=0)
        scatter.addmm_(shifted.T, shifted)
    return total, scatter


def torchmetrics_sums(features: Tensor, batch_size: int = 64) -> Sums:
    """torchmetrics/image/fid.py: update() per batch."""
    total, scatter = zeros(features.shape[1])
    for rows in features.split(batch_size):
        wide = rows.double()
        total += wide.sum(dim=0)
        scatter += wide.t().mm(wide)
    return total, scatter


def by_statistics(features: Tensor, batch_size: int) -> Tensor:
    statistics = FeatureStatistics(features.shape[1])
    for rows in features.split(batch_size):
        statistics.update(rows)
    return statistics.sigma


def run(*, quick: bool = False, keep: Keep = forget) -> dict[str, Any]:
    dim, count = 2048, 50_000
    generator = torch.Generator("cuda").manual_seed(0)
    spread = torch.rand(dim, generator=generator, device="cuda") ** 3
    features = torch.rand((count, dim), generator=generator, device="cuda") * spread
    shift = features[:512].mean(dim=0)
    expected = torch.cov(features.double().T)
    scale = float(expected.abs().max())
    differences = {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        rows = features.to(dtype)
        (total, scatter), (their_total, their_scatter) = by_kernel(rows, shift), by_torch(rows, shift)
        pairs = {"total": (total, their_total), "scatter": (scatter.tril(), their_scatter.tril())}
        for name, (ours, theirs) in pairs.items():
            apart = float((ours - theirs).abs().max() / theirs.abs().max())
            differences[f"{name}, {dtype}"] = check_close(f"{name} of {dtype}", apart, 0.0, absolute=1e-12)
    apart = float((by_statistics(features, 1000) - expected).abs().max()) / scale
    differences["sigma"] = check_close("sigma", apart, 0.0, absolute=1e-12)
    runs = {
        "kernel": lambda: by_kernel(features, shift),
        "torch": lambda: by_torch(features, shift),
        "torchmetrics": lambda: torchmetrics_sums(features),
        "FeatureStatistics, batches of 64": lambda: by_statistics(features, 64),
        "FeatureStatistics, batches of 1000": lambda: by_statistics(features, 1000),
    }
    for dtype in (torch.float16, torch.bfloat16):
        rows = features.to(dtype)
        runs[f"kernel, {dtype}"] = lambda rows=rows: by_kernel(rows, shift)
    taken: dict[str, float] = {}
    result = {"n": count, "feature_dim": dim, "max_relative_difference": differences, "seconds": taken}
    for name, call in runs.items():
        taken[name] = device_seconds(call, rounds=3 if quick else 10)
        keep(result)
    rate = device_gemm_rate(torch.float64, size=2048)
    return {
        **result,
        "float64_flops": rate,
        "fraction_of_gemm": count * dim**2 / rate / taken["kernel"],
        "ratio_torch": taken["torch"] / taken["kernel"],
        "ratio_torchmetrics": taken["torchmetrics"] / taken["FeatureStatistics, batches of 64"],
    }
