"""FID-50k all in on a GPU, from uint8 images at 256² that lie there, per precision; and where its time goes.

Needs the FID weights (FIDFAST_WEIGHTS, or where `fidfast weights` finds them). The reference is statistics, as in a
training loop, so that one pass over the images is timed: resize, hash, network, sums, distance. Bound of the network:
its 11.46 GFLOP an image at the device's rate of matrix products in that precision.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.bench_network import FLOP_PER_IMAGE
from benchmarks.gpu_timing import device_gemm_rate
from benchmarks.timing import Keep, forget
from fidfast import compute_fid, features
from fidfast.features import FeatureExtractor
from fidfast.statistics import FeatureStatistics

SIZE, DIM = 256, 2048


def images(count: int) -> Tensor:  # (N, H, W, 3) uint8 on the device
    """Smooth noise, from a seed: no two alike."""
    generator = torch.Generator("cuda").manual_seed(0)
    out = torch.empty(count, SIZE, SIZE, 3, dtype=torch.uint8, device="cuda")
    for part in out.split(1000):
        coarse = torch.rand(len(part), 3, 16, 16, generator=generator, device="cuda")
        fine = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bicubic").clamp(0, 1)
        part.copy_((fine * 255).permute(0, 2, 3, 1))
    return out


def reference() -> FeatureStatistics:
    generator = torch.Generator("cuda").manual_seed(1)
    rows = torch.rand(4000, DIM, generator=generator, device="cuda")
    made = FeatureStatistics(DIM, preset="pytorch-fid")
    made.update(rows)
    made.factor()
    return made


@contextlib.contextmanager
def chunks_of(size: int) -> Iterator[None]:
    before = features.CUDA_CHUNK
    features.CUDA_CHUNK = size
    try:
        yield
    finally:
        features.CUDA_CHUNK = before


def evaluated(real: FeatureStatistics, batch: Tensor, extractor: FeatureExtractor) -> dict[str, Any]:
    torch.cuda.synchronize()
    started = time.perf_counter()
    result = compute_fid(real, batch, feature_extractor=extractor, progress=False)
    torch.cuda.synchronize()
    taken = time.perf_counter() - started
    return {
        "seconds": taken,
        "images_per_second": len(batch) / taken,
        "host_seconds": dict(result.seconds),
        "fid": float(result),
        "kernels": dict(result.kernels),
    }


def network_rate(extractor: FeatureExtractor) -> float:
    """Images a second of the network alone, on a chunk that lies there."""
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(extractor.precision or "", torch.float32)
    x = torch.rand(extractor.chunk_size, 3, 299, 299, device="cuda").to(dtype, memory_format=torch.channels_last)
    for _ in range(5):
        extractor.network(x)
    torch.cuda.synchronize()
    started, calls = time.perf_counter(), 20
    for _ in range(calls):
        extractor.network(x)
    torch.cuda.synchronize()
    return calls * extractor.chunk_size / (time.perf_counter() - started)


def profile(real: FeatureStatistics, batch: Tensor) -> dict[str, Any]:
    """The kernels that take the device's time in one evaluation in fp16, and how much of the time it is busy."""
    extractor = FeatureExtractor(DIM, device="cuda", precision="fp16")
    evaluated(real, batch[:640], extractor)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as found:
        taken = evaluated(real, batch, extractor)["seconds"]
    by_name: dict[str, float] = {}
    for event in found.key_averages():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            name = event.key[:100]
            by_name[name] = by_name.get(name, 0.0) + event.self_device_time_total / 1e6
    most = sorted(by_name.items(), key=lambda item: -item[1])
    busy = sum(by_name.values())
    return {"images": len(batch), "seconds": taken, "busy_seconds": busy, "kernels": dict(most[:25])}


def by_chunk() -> dict[str, float]:
    """Images a second of the fp16 network by the images that it takes at a time."""
    found = {}
    for size in (32, 128, 256):
        with chunks_of(size):
            found[str(size)] = network_rate(FeatureExtractor(DIM, device="cuda", precision="fp16"))
    return found


def row_of(real: FeatureStatistics, batch: Tensor, extractor: FeatureExtractor, bound: float) -> dict[str, Any]:
    evaluated(real, batch[:640], extractor)  # libraries, tables, graph
    found = evaluated(real, batch, extractor)
    found |= {"network_images_per_second": network_rate(extractor), "bound_images_per_second": bound}
    return found | {
        "precision": extractor.precision,
        "compile": extractor.compile,
        "compile_seconds": extractor.compile_seconds,
    }


def run(*, quick: bool = False, keep: Keep = forget) -> dict[str, Any]:
    real, batch = reference(), images(50_000)
    rates = {
        "fp32": device_gemm_rate(torch.float32),
        "tf32": device_gemm_rate(torch.float32, tf32=True),
        "fp16": device_gemm_rate(torch.float16),
        "bf16": device_gemm_rate(torch.bfloat16),
    }
    rows: list[dict[str, Any]] = []
    result: dict[str, Any] = {"size": SIZE, "images": len(batch), "rows": rows}

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        print(row, flush=True)
        keep(result)

    for precision in ("fp16", "tf32", "fp32") if quick else ("fp16", "tf32", "fp32", "bf16"):
        extractor = FeatureExtractor(DIM, device="cuda", precision=precision)
        add(row_of(real, batch, extractor, rates[precision] / FLOP_PER_IMAGE))
    result["fp16_images_per_second_by_chunk"] = by_chunk()
    keep(result)
    result["profile"] = profile(real, batch[:2560])
    keep(result)
    # Last: a cold torch.compile takes minutes, and the time may be up within it.
    for precision in ("fp16",) if quick else ("fp16", "tf32"):
        try:
            extractor = FeatureExtractor(DIM, device="cuda", precision=precision, compile=True)
        except Exception as error:  # where torch.compile has no compiler for the device
            add({"precision": precision, "compile": True, "failed": str(error)[:500]})
            continue
        add(row_of(real, batch, extractor, rates[precision] / FLOP_PER_IMAGE))
    return result
