"""The Fréchet term on a GPU: the polar route, Cholesky and certificate included, against eigvalsh and eigvals there.

D = 64, 192, 768, 2048, n above D (exact value known in extended precision) and below (by singular values): time, error,
route, steps, bracket width, and how many times faster than scipy's sqrtm on the host. Needs a CUDA device.

    python -m benchmarks.bench_cuda_frechet [--write]
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.bench_frechet import eigvals_term, known_pair, sqrtm_term
from benchmarks.timing import check_close, environment, medians, paired, paired_ratio, plain, write_result
from fidfast.factors import congruence, gram
from fidfast.frechet import FrechetTerm, statistics_distance
from fidfast.quintic import QUINTIC
from fidfast.statistics import FeatureStatistics


def waited(compute: Callable[[], Any]) -> Callable[[], None]:
    def call() -> None:
        compute()
        torch.cuda.synchronize()

    return call


def described(term: FrechetTerm, exact: float) -> dict[str, Any]:
    found = re.search(r"l=(\S+?),", term.route)
    smallest = float(found[1]) if found else None
    return {
        "route": term.route,
        "error": check_close(term.route, term.raw, exact, relative=1e-9, absolute=1e-6),
        "error_bound": term.error_bound,
        "l": smallest,
        "steps": None if smallest is None else len(QUINTIC[smallest]),
    }


def full_rank(dim: int, device: torch.device) -> dict[str, Any]:
    sigma1, sigma2, exact_term = known_pair(dim)
    exact = float(np.trace(sigma1) + np.trace(sigma2)) - 2 * exact_term
    first, second = (torch.from_numpy(sigma).to(device) for sigma in (sigma1, sigma2))
    mean = torch.zeros(dim, dtype=torch.float64, device=device)
    generated, reference = (
        FeatureStatistics.from_moments(mean, sigma, num_samples=50_000) for sigma in (first, second)
    )
    result = described(statistics_distance(generated, reference), exact)
    factor = reference.factor()
    contestants = {
        "fidfast": waited(lambda: statistics_distance(generated, reference)),
        "fidfast, sync=False": waited(lambda: statistics_distance(generated, reference, sync=False)),
        "eigvalsh": waited(lambda: torch.linalg.eigvalsh(congruence(first, factor)).clamp(min=0).sqrt().sum()),
        "eigvals": waited(lambda: eigvals_term(first, second)),
        "sqrtm on the host": lambda: sqrtm_term(sigma1, sigma2),
    }
    return {**result, "dim": dim, "n": "above D", **timed(contestants)}


def low_rank(dim: int, device: torch.device) -> dict[str, Any]:
    count = dim * 3 // 4
    sigma1, sigma2, _ = known_pair(dim)
    random = np.random.default_rng(1)
    rows = torch.from_numpy((random.normal(size=(count, dim)) @ np.linalg.cholesky(sigma1).T).astype(np.float32))
    second = torch.from_numpy(sigma2)
    values = rows.double()
    centred = (values - values.mean(0)) / (count - 1) ** 0.5
    nuclear = float(torch.linalg.svdvals(centred @ torch.linalg.cholesky(second)).sum())
    exact = float(values.mean(0).square().sum() + centred.square().sum()) + float(np.trace(sigma2)) - 2 * nuclear
    generated = FeatureStatistics(dim)
    generated.update(rows.to(device))
    mean = torch.zeros(dim, dtype=torch.float64, device=device)
    reference = FeatureStatistics.from_moments(mean, second.to(device), num_samples=50_000)
    result = described(statistics_distance(generated, reference), exact)
    turned = generated.factor().matrix.T @ reference.factor().matrix
    sigma = generated.sigma
    sigma_host = sigma.cpu().numpy()
    contestants = {
        "fidfast": waited(lambda: statistics_distance(generated, reference)),
        "fidfast, sync=False": waited(lambda: statistics_distance(generated, reference, sync=False)),
        "eigvalsh": waited(lambda: torch.linalg.eigvalsh(gram(turned)).clamp(min=0).sqrt().sum()),
        "eigvals": waited(lambda: eigvals_term(sigma, second.to(device))),
        "sqrtm on the host": lambda: sqrtm_term(sigma_host, sigma2),
    }
    return {**result, "dim": dim, "n": count, **timed(contestants)}


def timed(contestants: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    taken = paired(contestants, rounds=3, at_least=0.02)
    rivals = [name for name in contestants if not name.startswith("fidfast")]
    return {"seconds": medians(taken), "ratios": {name: paired_ratio(taken, name, "fidfast") for name in rivals}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/cuda_frechet.json")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("bench_cuda_frechet: expected a CUDA device, torch sees none")
    device = torch.device("cuda")
    rows = []
    for dim in (64, 192, 768, 2048):
        for case in (full_rank, low_rank):
            rows.append(case(dim, device))
            print(json.dumps(plain(rows[-1])), flush=True)
    if given.write:
        where = {**environment(), "gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
        write_result("cuda_frechet", {"rows": rows}, where)


if __name__ == "__main__":
    main()
