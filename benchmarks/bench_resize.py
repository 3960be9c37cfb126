"""Resize to 299² and normalise, uint8 in, float32 out: our fused kernel against the tools' own paths.

Bound: a plain copy of the bytes that must move (the uint8 image read, 299²·3 float32 written). The content hash of the
same call: what it adds to the resize's time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.timing import check_close, copy_bandwidth, medians, paired, paired_ratio
from fidfast.preprocessing import preprocess
from fidfast.reference import content_hashes

OUTPUT_BYTES = 3 * 299 * 299 * 4


def pytorch_fid_path(images: torch.Tensor) -> torch.Tensor:  # (N, 3, H, W) uint8 -> (N, 3, 299, 299) float32
    """ToTensor's division, then what pytorch_fid/inception.py does (resize_input, normalize_input)."""
    x = images.float() / 255
    x = torch.nn.functional.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
    return 2 * x - 1


def torchmetrics_path(images: torch.Tensor) -> torch.Tensor:  # (N, 3, H, W) uint8 -> (N, 3, 299, 299) float32
    """What torchmetrics/image/fid.py does with antialias=True."""
    x = torch.nn.functional.interpolate(
        images.float(), (299, 299), mode="bilinear", align_corners=False, antialias=True
    )
    return (x - 128) / 128


def tensorflow_path(images: torch.Tensor) -> torch.Tensor:  # (N, 3, H, W) uint8 -> (N, 3, 299, 299) float32
    """torch_fidelity/interpolate_compat_tensorflow.py in short: no half-pixel centres, gathers of rows and columns."""
    x = images.float()
    for axis, length in ((2, x.shape[2]), (3, x.shape[3])):
        position = torch.arange(299, dtype=torch.float32) * (length / 299)
        low = position.long()
        high = (low + 1).clamp(max=length - 1)
        weight = (position - low).view(-1, 1) if axis == 2 else position - low
        x = x.index_select(axis, low) + (x.index_select(axis, high) - x.index_select(axis, low)) * weight
    return (x - 128) / 128


def clean_fid_path(images: torch.Tensor) -> torch.Tensor:  # (N, 3, H, W) uint8 -> (N, 3, 299, 299) float32
    """What cleanfid/resize.py does in mode "clean": Pillow, one channel at a time, float32, clipped, not rounded."""
    results = []
    for image in images.permute(0, 2, 3, 1).numpy():
        channels = [Image.fromarray(image[:, :, c].astype(np.float32)) for c in range(3)]
        resized = [np.asarray(c.resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255) for c in channels]
        results.append(torch.from_numpy(np.stack(resized).astype(np.float32)))
    return (torch.stack(results) - 128) / 128


PATHS = {
    "pytorch-fid": pytorch_fid_path,
    "torchmetrics": torchmetrics_path,
    "tensorflow": tensorflow_path,
    "clean-fid": clean_fid_path,
}


def run(*, quick: bool = False) -> dict[str, Any]:
    threads = torch.get_num_threads()
    bandwidth = copy_bandwidth()
    rows = []
    try:
        for size in (256,) if quick else (32, 256, 512, 1024):
            count = {32: 50, 256: 50, 512: 16}.get(size, 8)  # 50: the batch that pytorch-fid takes
            generator = torch.Generator().manual_seed(size)
            # (N, 3, H, W) seen through a permutation, as images come out of a decoder
            images = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
            images = images.permute(0, 3, 1, 2)
            for preset, path in PATHS.items():
                # Pillow resizes on one core; per core is the fair comparison there (clean-fid runs one per worker).
                torch.set_num_threads(1 if preset == "clean-fid" else threads)
                planes = images.contiguous()  # what the tools' loaders hand over
                ours = preprocess(images, preset)
                furthest = float((ours - path(planes)).abs().max())  # type: ignore[operator]
                check_close(f"{preset} at {size}²", furthest, 0.0, absolute=2e-5)
                hashed, hashes = preprocess(images, preset, content_hash=True)
                if not torch.equal(hashed, ours) or not torch.equal(hashes[:1], content_hashes([images[0]])):
                    raise SystemExit(f"{preset} at {size}²: the hash is wrong or changes the output: not timed")
                runs = {
                    "tool": lambda path=path, planes=planes: path(planes),
                    "fidfast": lambda images=images, preset=preset: preprocess(images, preset),
                    "with hash": lambda images=images, preset=preset: preprocess(images, preset, content_hash=True),
                }
                taken = paired(runs, rounds=9)
                middle = medians(taken)
                bytes_moved = count * (3 * size * size + OUTPUT_BYTES)
                rows.append(
                    {
                        "preset": preset,
                        "size": size,
                        "batch": count,
                        "threads": torch.get_num_threads(),
                        "max_difference": furthest,
                        "tool_images_per_second": count / middle["tool"],
                        "images_per_second": count / middle["fidfast"],
                        "ratio": paired_ratio(taken, "tool", "fidfast"),
                        "hash_share": paired_ratio(taken, "with hash", "fidfast") - 1,
                        "fraction_of_copy": bytes_moved / 2 / bandwidth / middle["fidfast"],
                    }
                )
    finally:
        torch.set_num_threads(threads)
    return {"copy_bytes_per_second": bandwidth, "rows": rows}
