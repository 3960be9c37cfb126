"""Resize to 299² and normalise on a GPU, uint8 images that lie there: the kernel against a copy of the same bytes.

    python -m benchmarks.bench_cuda_resize

Bytes: the 32-byte sectors of the source that the preset must read (all of them for the hash, and where the filter
widens with the reduction), and the output written. Bound: torch's copy of a large tensor, bytes read plus written.
Replayed as a CUDA graph, so that the host's part (given on its own, as seconds per call) does not count.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.bench_resize import PATHS
from benchmarks.timing import Keep, check_close, forget, plain, seconds
from fidfast import ops, reference
from fidfast.preprocessing import PRESETS, preprocess

SECTOR = 32
OUT_DTYPES = (torch.float32, torch.bfloat16)
THEIRS = ("pytorch-fid", "torchmetrics")  # the tools' own operations that run on a GPU


def source_bytes(preset: str, size: int, content_hash: bool) -> int:
    """What must be read of one interleaved image whose rows begin on sectors."""
    if content_hash:
        return 3 * size * size
    needed = (reference.resize_matrix(preset, size) != 0).any(0).nonzero().flatten()
    sectors = torch.cat([3 * needed // SECTOR, (3 * needed + 2) // SECTOR]).unique()
    return min(3 * size, SECTOR * len(sectors)) * len(needed)


def device_seconds(run: Callable[[], object], rounds: int) -> float:
    """Seconds that the device takes for one call, the median over rounds of a graph of it, replayed."""
    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = run()
    taken = []
    for _ in range(rounds + 1):  # the first one is not counted
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(5):
            graph.replay()
        end.record()
        end.synchronize()
        taken.append(start.elapsed_time(end) / 5000)
    del kept
    return statistics.median(taken[1:])


def copy_rate(rounds: int) -> float:
    """Bytes read and written per second by torch's copy of 1 GiB on the device."""
    source = torch.ones(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / device_seconds(lambda: target.copy_(source), rounds)


def check(images: list[Tensor], preset: str, dtype: torch.dtype) -> float:
    """Largest difference from the CPU's kernel, and equal hashes; else SystemExit."""
    few = images[:2] + images[-1:]
    got, hashes = ops.resize_normalize(few, preset, dtype=dtype, content_hash=True)
    without, _ = ops.resize_normalize(few, preset, dtype=dtype)
    expected, expected_hashes = preprocess([image.cpu() for image in few], preset, content_hash=True)
    if not torch.equal(hashes.cpu(), expected_hashes) or not torch.equal(got, without):
        raise SystemExit(f"{preset}: hashes differ from the CPU's, or the hash changes the output")
    apart = float((got.cpu().float() - expected).abs().max())
    return check_close(preset, apart, 0.0, absolute=2e-6 if dtype == torch.float32 else 2**-8)


def run(*, quick: bool = False, keep: Keep = forget) -> dict[str, Any]:
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA device: torch sees none")
    if ops.kernels("cuda")["resize_normalize"] != "cuda":
        raise SystemExit("this benchmark needs fidfast._cuda: build it with nvcc")
    rounds = 5 if quick else 15
    bandwidth = copy_rate(rounds)
    rows: list[dict[str, Any]] = []
    result = {"device": torch.cuda.get_device_name(), "copy_bytes_per_second": bandwidth, "rows": rows}
    for size in (256, 1024) if quick else (256, 512, 1024):
        count = min(1024, 2**28 // (3 * size * size))  # the images alone are larger than any cache
        batch = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, device="cuda").permute(0, 3, 1, 2)
        images = list(batch)
        for preset in PRESETS:
            for dtype in OUT_DTYPES:
                apart = check(images, preset, dtype)
                for content_hash in (False, True):

                    def ours(
                        preset: str = preset,
                        dtype: torch.dtype = dtype,
                        content_hash: bool = content_hash,
                        images: list[Tensor] = images,
                    ) -> object:
                        return ops.resize_normalize(images, preset, dtype=dtype, content_hash=content_hash)

                    taken = device_seconds(ours, rounds)
                    moved = count * (source_bytes(preset, size, content_hash) + 3 * 299 * 299 * dtype.itemsize)
                    rows.append(
                        {
                            "preset": preset,
                            "size": size,
                            "images": count,
                            "dtype": str(dtype).removeprefix("torch."),
                            "content_hash": content_hash,
                            "max_difference": apart,
                            "images_per_second": count / taken,
                            "fraction_of_copy": moved / bandwidth / taken,
                            "host_seconds": statistics.median(seconds(ours) for _ in range(5)),
                        }
                    )
                torch.cuda.synchronize()
            if preset in THEIRS:
                planes = batch[: max(count // 4, 1)].contiguous()
                theirs = device_seconds(lambda planes=planes, path=PATHS[preset]: path(planes), rounds)
                rows[-4]["ratio_to_torch"] = theirs / len(planes) * rows[-4]["images_per_second"]
            keep(result)
    return result


if __name__ == "__main__":
    print(json.dumps(plain(run()), indent=1))
