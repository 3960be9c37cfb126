"""KID, Inception Score, MiFID, precision and recall: each tool's functions and ours under its names, on real images.

    python -m benchmarks.parity_measures        about 7 minutes of two cores; in .venv-peers

The images are the 300 + 300 of every kind of benchmarks/parity.py. A value is computed three times: by the tool from
its own features; by ours from the same features, which must agree to float32 rounding; and by ours from our own
features, that is from the images on. Random subsets are the tool's, from the same seed. The Inception Score's logits
are the features through one random layer, the same for all: no package has the trained one.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.image_sets import KINDS
from benchmarks.parity import blocks, folder_of, peer_features
from benchmarks.peer_runs import TOOLS, load_features, missing
from benchmarks.peer_weights import make_peer_weights
from benchmarks.timing import environment, write_result

FEATURE_DIM = 2048
FROM_FEATURES = (1e-5, 1e-6)  # relative, absolute; tests/tolerances.py, row "measures/peer"
FROM_IMAGES = (1e-4, 1e-5)


def logits(features: np.ndarray) -> torch.Tensor:  # (N, 2048) → (N, 1008)
    layer = torch.randn(FEATURE_DIM, 1008, generator=torch.Generator().manual_seed(0)) / 8
    return torch.from_numpy(features) @ layer


def clean_fid(package: str, real: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    fid = importlib.import_module(f"{package}.fid")
    np.random.seed(11)  # noqa: NPY002  clean-fid draws from this state
    return {"KID": float(fid.kernel_distance(real, generated, max_subset_size=200))}


def torch_fidelity(package: str, real: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    kid, isc, prc = (importlib.import_module(f"{package}.metric_{name}") for name in ("kid", "isc", "prc"))
    first, second = torch.from_numpy(generated), torch.from_numpy(real)  # input1 is the generated side
    kids = kid.kid_features_to_metric(first, second, kid_subset_size=200, verbose=False)
    scores = isc.isc_features_to_metric(logits(generated))
    found = prc.prc_features_to_metric(first, second, verbose=False)
    return {
        "KID": kids["kernel_inception_distance_mean"],
        "KID, deviation": kids["kernel_inception_distance_std"],
        "Inception Score": scores["inception_score_mean"],
        "precision": found["precision"],
        "recall": found["recall"],
    }


def torchmetrics(package: str, real: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    def value(module: str, name: str, sides: dict[bool | None, torch.Tensor], **options: Any) -> Any:
        metric = getattr(importlib.import_module(f"{package}.image.{module}"), name)(torch.nn.Identity(), **options)
        for side, features in sides.items():
            metric.update(features, **({} if side is None else {"real": side}))
        torch.manual_seed(11)
        return metric.compute()

    both = {True: torch.from_numpy(real), False: torch.from_numpy(generated)}
    kid = value("kid", "KernelInceptionDistance", both, subset_size=200)
    return {
        "KID": float(kid[0]),
        "KID, deviation": float(kid[1]),
        "Inception Score": float(value("inception", "InceptionScore", {None: logits(generated)})[0]),
        "MiFID": float(value("mifid", "MemorizationInformedFrechetInceptionDistance", both)),
    }


class Comparison(NamedTuple):
    """A tool's functions, and of whose features they are: clean-fid's mode legacy_pytorch takes pytorch-fid's."""

    tool: str
    features_of: str  # one of TOOLS
    package: str
    run: Callable[[str, np.ndarray, np.ndarray], dict[str, float]]


COMPARISONS = (
    Comparison("clean-fid", "clean-fid", "cleanfid", clean_fid),
    Comparison("clean-fid, legacy_pytorch", "pytorch-fid", "cleanfid", clean_fid),
    Comparison("torch-fidelity", "torch-fidelity", "torch_fidelity", torch_fidelity),
    Comparison("torchmetrics", "torchmetrics", "torchmetrics", torchmetrics),
)


def is_within(value: float, expected: float, tolerance: tuple[float, float]) -> bool:
    return abs(value - expected) <= tolerance[0] * abs(expected) + tolerance[1]


def compare(comparison: Comparison, kind: str, weights: str | None) -> list[dict[str, Any]]:
    import fidfast

    preset = TOOLS[comparison.features_of][0]
    theirs, ours = [], []
    for block in ("real", "generated"):
        count = blocks(0)[block]
        theirs.append(load_features(str(peer_features(comparison.features_of, kind, block, count)), FEATURE_DIM))
        found = fidfast.compute_features(folder_of(kind, block, count), preset=preset, weights=weights, progress=False)
        ours.append(found[str(FEATURE_DIM)].cpu().numpy())
    facade = f"fidfast.compat.{comparison.package}"
    expected = comparison.run(comparison.package, *theirs)
    same_features, from_images = comparison.run(facade, *theirs), comparison.run(facade, *ours)
    rows = []
    for measure, value in expected.items():
        row = {
            "tool": comparison.tool,
            "preset": preset,
            "kind": kind,
            "n": [len(side) for side in theirs],
            "measure": measure,
            "peer": value,
            "same_features": same_features[measure],
            "from_images": from_images[measure],
        }
        row["within"] = is_within(row["same_features"], value, FROM_FEATURES) and is_within(
            row["from_images"], value, FROM_IMAGES
        )
        print(
            f"{comparison.tool:26s} {kind:12s} {measure:16s} peer {value:12.7f}  same features "
            f"{row['same_features']:12.7f}  from images {row['from_images']:12.7f}  "
            f"{'ok' if row['within'] else 'TOO FAR'}"
        )
        rows.append(row)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="the weight file that fidfast uses (default: where it finds them)")
    given = parser.parse_args()
    needed = dict.fromkeys(comparison.features_of for comparison in COMPARISONS)
    if absent := [f"{tool} ({missing(tool)})" for tool in needed if missing(tool)]:
        parser.error(f"not installed here: {', '.join(absent)}: run benchmarks/peers.sh and use .venv-peers/bin/python")
    make_peer_weights()
    rows = [row for comparison in COMPARISONS for kind in KINDS for row in compare(comparison, kind, given.weights)]
    settings = {"from_features": FROM_FEATURES, "from_images": FROM_IMAGES}
    write_result("parity_measures", {"settings": settings, "rows": rows}, environment())
    far = [row for row in rows if not row["within"]]
    print(f"parity of measures: {len(rows) - len(far)} of {len(rows)} within")
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main())
