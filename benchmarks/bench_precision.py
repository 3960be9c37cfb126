"""How far each precision moves FID, and what it gains, on real images.

    python -m benchmarks.bench_precision                  two kinds of images, 300 a side
    python -m benchmarks.bench_precision --images 2000

For every precision that the device has, and two kinds of images: FID with both sides in that precision, FID with the
reference in strict float32 and the generated side in that precision, and the distance of a set from itself across the
two. Strict float32 is what the others are measured against.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import torch

from benchmarks.image_sets import make_image_set
from benchmarks.timing import environment, write_result
from fidfast import compute_fid, compute_statistics
from fidfast.features import FeatureExtractor
from fidfast.statistics import FeatureStatistics

KINDS = {"photographs": 256, "icons": 128}


def precisions(device: str) -> tuple[str, ...]:
    return ("fp32", "tf32", "fp16", "bf16") if device.startswith("cuda") else ("fp32", "bf16")


def run(*, images: int, device: str) -> dict[str, Any]:
    found: dict[str, dict[str, tuple[FeatureStatistics, FeatureStatistics]]] = {}
    rate: dict[str, float] = {}
    for precision in precisions(device):
        extractor = FeatureExtractor(device=device, precision=precision)
        found[precision] = {}
        for kind, size in KINDS.items():
            sides = [
                compute_statistics(make_image_set(kind, images, size=size, seed=seed), feature_extractor=extractor)
                for seed in (1, 2)
            ]
            found[precision][kind] = (sides[0], sides[1])
        probe = torch.zeros(images, 3, 32, 32, dtype=torch.uint8)
        network = compute_fid(probe, probe, feature_extractor=extractor, progress=False).seconds["network"]
        rate[precision] = 2 * images / network
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the precisions differ is the point
        for kind in KINDS:
            real, generated = found["fp32"][kind]
            strict = float(compute_fid(real, generated))
            for precision, sets in found.items():
                own_real, own_generated = sets[kind]
                both, one = float(compute_fid(own_real, own_generated)), float(compute_fid(real, own_generated))
                rows.append(
                    {
                        "kind": kind,
                        "precision": precision,
                        "fid": both,
                        "shift": both / strict - 1,
                        "fid_against_fp32_reference": one,
                        "shift_against_fp32_reference": one / strict - 1,
                        "set_against_itself_in_fp32": float(compute_fid(real, own_real)),
                    }
                )
    return {"images_per_side": images, "device": device, "images_per_second": rate, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300, help="images a side")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    result = run(images=given.images, device=given.device)
    for row in result["rows"]:
        print(
            f"{row['kind']:12s} {row['precision']}: FID {row['fid']:.4f} ({row['shift']:+.2%}), against a float32 "
            f"reference {row['fid_against_fp32_reference']:.4f} ({row['shift_against_fp32_reference']:+.2%})"
        )
    print({name: round(rate, 1) for name, rate in result["images_per_second"].items()})
    name = "precision" if given.device == "cpu" else f"precision-{torch.cuda.get_device_name().replace(' ', '-')}"
    write_result(name, result, environment())


if __name__ == "__main__":
    main()
