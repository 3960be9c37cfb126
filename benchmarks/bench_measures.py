"""KID and precision/recall/density/coverage: times of their matrix products alone; times torch-fidelity's, if there.

python -m benchmarks.bench_measures [--num 3000] [--dim 2048] [--rounds 3]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu_timing import device_gemm_rate
from benchmarks.timing import check_close, environment, gemm_rate, medians, paired, paired_ratio, plain
from fidfast.metrics.kid import kernel_distance
from fidfast.metrics.prdc import prdc, precision_recall


def features(num: int, dim: int, seed: int) -> torch.Tensor:  # (N, D) float32
    """Not negative, of a spectrum that decays like that of Inception's features."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.arange(1, dim + 1).float().rsqrt()
    return (torch.randn(num, dim, generator=generator) * weights).abs()


def operations(num: int, dim: int, subsets: int, size: int) -> dict[str, float]:
    """Of the matrix products that cannot be avoided: half of each Gram matrix, all of the one between the sides."""
    all_pairs = 2 * (num * num / 2 + num * num / 2 + num * num) * dim
    drawn = 2 * subsets * 2 * size * size * dim
    return {"prdc": all_pairs, f"kid, {subsets} subsets of {size}": min(all_pairs, drawn)}


def rivals(generated: torch.Tensor, real: torch.Tensor, subsets: int, size: int) -> dict[str, Callable[[], Any]]:
    if importlib.util.find_spec("torch_fidelity") is None:
        return {}
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    found = {
        "kid": lambda: kid_features_to_metric(
            generated, real, kid_subsets=subsets, kid_subset_size=size, verbose=False
        ),
        "prdc": lambda: prc_features_to_metric(generated, real, verbose=False),
    }
    ours = kernel_distance(generated, real, subsets=subsets, subset_size=size)
    theirs = found["kid"]()
    check_close("kid", ours.mean, theirs["kernel_inception_distance_mean"], relative=1e-4, absolute=1e-6)
    shares = found["prdc"]()
    for name, value in precision_recall(real, generated)._asdict().items():
        check_close(name, value, shares[name], absolute=2 / len(real))
    return found


def run(num: int, dim: int, subsets: int, size: int, rounds: int) -> dict[str, Any]:
    real, generated = features(num, dim, 1), features(num, dim, 2)
    others = rivals(generated, real, subsets, size)
    if torch.cuda.is_available():
        real, generated = real.cuda(), generated.cuda()
    kid = f"kid, {subsets} subsets of {size}"
    runs: dict[str, Callable[[], Any]] = {
        "prdc": lambda: prdc(real, generated),  # numbers, which a device is waited for
        kid: lambda: kernel_distance(generated, real, subsets=subsets, subset_size=size),
        **{f"torch-fidelity: {name}": compute for name, compute in others.items()},
    }
    taken = paired(runs, rounds=rounds)
    rate_of = device_gemm_rate if real.is_cuda else gemm_rate
    rates = {"prdc": rate_of(torch.float32), kid: rate_of(torch.float64)}  # of what the products are
    seconds = medians(taken)
    return {
        "num": num,
        "dim": dim,
        "gflops": {"float32": rates["prdc"] / 1e9, "float64": rates[kid] / 1e9},
        "seconds": seconds,
        "times_the_product_alone": {
            name: seconds[name] * rates[name] / count for name, count in operations(num, dim, subsets, size).items()
        },
        "times_faster_than_torch_fidelity": {
            name: paired_ratio(taken, f"torch-fidelity: {name.partition(',')[0]}", name) for name in ("prdc", kid)
        }
        if others
        else {},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=3000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--subsets", type=int, default=100)
    parser.add_argument("--subset-size", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    result = run(given.num, given.dim, given.subsets, given.subset_size, given.rounds)
    print(json.dumps(plain({"environment": environment(), **result}), indent=1))
