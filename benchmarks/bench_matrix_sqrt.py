"""fidfast.matrix_sqrt against scipy.linalg.sqrtm: residual first, then time. On the GPU where there is one.

python -m benchmarks.bench_matrix_sqrt [--dim 2048]
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import scipy.linalg
import torch

from benchmarks.bench_frechet import known_pair
from benchmarks.timing import Keep, check_close, environment, forget, medians, paired, paired_ratio, plain
from fidfast import matrix_sqrt


def residual(root: np.ndarray, a: np.ndarray) -> float:
    """‖H² - A‖_F / ‖A‖_F"""
    return float(np.linalg.norm(root @ root - a) / np.linalg.norm(a))


def run(dim: int = 2048, *, quick: bool = False, keep: Keep = forget) -> dict[str, Any]:
    dim = min(dim, 1024) if quick else dim
    a = known_pair(dim)[0]
    contestants: dict[str, Any] = {
        "fidfast, CPU": lambda: matrix_sqrt(a),
        "scipy": lambda: scipy.linalg.sqrtm(a),
    }
    if torch.cuda.is_available():
        on_device = torch.from_numpy(a).cuda()

        def by_device() -> torch.Tensor:
            root = matrix_sqrt(on_device)
            torch.cuda.synchronize()
            return root

        contestants["fidfast, GPU"] = by_device
    residuals: dict[str, float] = {}
    result = {"dim": dim, "condition": float(np.linalg.cond(a)), "residual": residuals}
    for name, compute in contestants.items():
        root = compute()
        residuals[name] = residual(root.cpu().numpy() if isinstance(root, torch.Tensor) else np.asarray(root), a)
        if name != "scipy":
            check_close(f"{name}: residual", residuals[name], 0.0, absolute=1e-12)
        keep(result)
    taken = paired(contestants, rounds=3)
    return {
        **result,
        "seconds": medians(taken),
        "times_faster_than_scipy": {
            name: paired_ratio(taken, "scipy", name) for name in contestants if name != "scipy"
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=2048)
    print(json.dumps(plain({"environment": environment(), **run(parser.parse_args().dim)}), indent=1))
