"""Images/s through the FID network at 299², against pytorch-fid's network at its default batch and at its best one.

Bound: the float32 matrix-product rate over the network's 11.46 GFLOP an image.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.paths import TORCH_HOME
from benchmarks.timing import check_close, gemm_rate, medians, paired
from fidfast.features import FeatureExtractor

FLOP_PER_IMAGE = 11.46e9  # multiply-adds counted twice (torch.utils.flop_counter on the folded network)


def images(count: int) -> torch.Tensor:  # (N, 3, 299, 299) float32 in [-1, 1]
    """Smooth noise: activations of the size that photographs give, from a seed."""
    coarse = torch.rand(count, 3, 19, 19, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (299, 299), mode="bicubic").clamp(0, 1) * 2 - 1


def pytorch_fid_network() -> Callable[[torch.Tensor], torch.Tensor] | None:
    """pytorch-fid's network without its resizing and scaling; None where it is not installed."""
    if importlib.util.find_spec("pytorch_fid") is None:
        return None
    from pytorch_fid.inception import InceptionV3

    previous = torch.hub.get_dir()
    torch.hub.set_dir(str(TORCH_HOME / "hub"))
    try:
        network = InceptionV3([3], resize_input=False, normalize_input=False).eval()
    finally:
        torch.hub.set_dir(previous)
    return lambda batch: network(batch)[0].flatten(1)


def run(*, quick: bool = False, compiled: bool = True, weights: str | None = None) -> dict[str, Any]:
    theirs = pytorch_fid_network()
    batch_sizes = () if theirs is None else (50, 16) if quick else (50, 32, 16, 8)
    x = images(max(batch_sizes, default=16))
    ours = {"eager": FeatureExtractor(weights=weights)}
    if not quick:
        ours["bf16"] = FeatureExtractor(precision="bf16", weights=weights)
        if compiled:
            ours["compiled"] = FeatureExtractor(compile=True, weights=weights)
    chunk = ours["eager"].chunk_size
    # Each extractor's input as its preprocess() makes it: channels last, in the network's dtype.
    inputs = {
        name: x[:chunk].to(torch.bfloat16 if name == "bf16" else torch.float32, memory_format=torch.channels_last)
        for name in ours
    }
    features: dict[str, torch.Tensor] = {}
    first_call = {}
    with torch.inference_mode():
        for name, extractor in ours.items():
            start = time.perf_counter()
            features[name] = extractor.network(inputs[name])
            first_call[name] = time.perf_counter() - start
        expected = features["eager"] if theirs is None else theirs(x[:chunk])
        scale = float(expected.abs().max())
        differences = {name: float((value - expected).abs().max()) / scale for name, value in features.items()}
        for name, difference in differences.items():
            check_close(f"features, {name}", difference, 0.0, absolute=0.05 if name == "bf16" else 2e-5)
        runs: dict[str, Callable[[], object]] = {
            name: lambda extractor=extractor, name=name: extractor.network(inputs[name])
            for name, extractor in ours.items()
        }
        counts = dict.fromkeys(runs, chunk)
        for size in batch_sizes:
            if theirs is not None:
                runs[f"pytorch-fid, batch {size}"] = lambda size=size, network=theirs: network(x[:size])
                counts[f"pytorch-fid, batch {size}"] = size
        taken = paired(runs, rounds=3, at_least=2.0)
    middle = medians(taken)
    rates = {name: counts[name] / middle[name] for name in runs}
    peers = {name: rate for name, rate in rates.items() if name.startswith("pytorch-fid")}
    bound = gemm_rate(torch.float32) / FLOP_PER_IMAGE
    return {
        "chunk_size": chunk,
        "kernels": ours["eager"].kernels,
        "feature_difference": differences,
        "images_per_second": rates,
        "first_call_seconds": first_call,
        "compile_seconds": getattr(ours.get("compiled"), "compile_seconds", None),
        "bound_images_per_second": bound,
        "fraction_of_gemm": rates["eager"] / bound,
        "ratios": {
            **{f"eager, {name}": rates["eager"] / rate for name, rate in peers.items()},
            **{f"compiled, {name}": rates["compiled"] / rate for name, rate in peers.items() if "compiled" in rates},
        },
        "best_batch": max(peers, key=peers.__getitem__) if peers else None,
    }
