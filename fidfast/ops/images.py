"""Resize, normalise and hash images: the ops, their checks, and the CPU kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import to_dlpack

from fidfast import _cpu
from fidfast.ops import images_cuda
from fidfast.ops.images_torch import (
    check_torch,
    empty_out,
    raise_unusable,
    resize_normalize_torch,
    torch_hash,
    torch_to_255,
    with_places,
)
from fidfast.ops.modules import cuda_module
from fidfast.ops.symmetric_product import symmetric_product_route
from fidfast.ops.threads import num_threads
from fidfast.ops.uploads import pieces, uploads

VALUE_RANGES = ((0.0, 1.0), (-1.0, 1.0))
QUANTIZE = ("round", "truncate", None)
PRESETS = tuple(_cpu.presets())
OUT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def resize_normalize(
    images: Sequence[Tensor],  # N x (3, H, W) uint8 or float
    preset: str,
    *,
    value_range: Sequence[float] | None = None,
    quantize: str | None = "round",
    dtype: torch.dtype = torch.float32,
    channels_last: bool = True,
    content_hash: bool = False,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """((N, 3, 299, 299) dtype, (N, 2) int64 hashes or (0, 2)): resize and normalise as the preset's tool does.

    images may differ in size and have any strides; all are uint8 in [0, 255], or all float in value_range (0, 1) or
    (-1, 1). The hashes are of the images quantised to 8 bits. Raises TypeError or ValueError naming the argument; for
    float images on a GPU that takes one wait for it. Kernels for CPU and CUDA tensors (sides up to 16384 pixels), a
    torch implementation on any other device.

    ``device`` is where the results are to be: images of the host go to a CUDA device that has our kernels as they are
    and are resized there, through pinned memory, in pieces of at most 256 MB (of float images each has its wait); else
    the results go. Without it all stays on the images' device.
    """
    _check_images(images, value_range, quantize)
    if preset not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    if dtype not in OUT_DTYPES:
        raise ValueError(f"dtype: expected float32, bfloat16 or float16, got {dtype}")
    if not images:
        nowhere = device or torch.device("cpu")
        return empty_out(0, dtype, channels_last, nowhere), torch.empty(0, 2, dtype=torch.int64, device=nowhere)
    low, high = value_range or VALUE_RANGES[0]
    tensors = [image.detach() for image in images]
    options = (preset, float(low), float(high), quantize or "", dtype, channels_last, content_hash)
    if device is not None and device.type == "cuda" and images[0].device.type == "cpu" and cuda_module() is not None:
        out, hashes = _resize_uploaded(device, tensors, options)
    else:
        out, hashes = torch.ops.fidfast.resize_normalize(tensors, *options)
    return (out, hashes) if device is None else (out.to(device), hashes.to(device))


def _resize_uploaded(device: torch.device, images: list[Tensor], options: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """The op with its ``options`` on a CUDA device, for images of the host, piece by piece."""
    *_, dtype, channels_last, _ = options
    upload = uploads(device)
    parts = pieces(images)
    if len(parts) == 1:
        return torch.ops.fidfast.resize_normalize(upload(images), *options)
    out, start = empty_out(len(images), dtype, channels_last, device), 0
    hashes: list[Tensor] = []
    for part in parts:
        try:
            resized, found = torch.ops.fidfast.resize_normalize(upload(part), *options)
        except ValueError as error:
            raise ValueError(with_places(str(error), start)) from error
        out[start : start + len(part)] = resized
        hashes.append(found)
        start += len(part)
    return out, torch.cat(hashes)


def content_hash(
    images: Sequence[Tensor],  # N x (3, H, W) uint8 or float
    *,
    value_range: Sequence[float] | None = None,
    quantize: str | None = "round",
) -> Tensor:
    """(N, 2) int64 on the images' device: 128-bit hashes of their content, equal for every layout and device.

    Float images are hashed as quantised to 8 bits (rounded if quantize is None). Raises as resize_normalize does.
    """
    _check_images(images, value_range, quantize)
    if not images:
        return torch.empty(0, 2, dtype=torch.int64)
    low, high = value_range or VALUE_RANGES[0]
    tensors = [image.detach() for image in images]
    return torch.ops.fidfast.content_hash(tensors, float(low), float(high), quantize or "round")


def simd_level() -> str:
    """The instruction set that the CPU kernels use on this machine: "avx512", "avx2" or "scalar"."""
    return _cpu.simd_level()


def kernels(device: str | torch.device = "cpu") -> dict[str, str]:
    """Which implementation of each op runs on the device, such as {"resize_normalize": "cpu avx512"}."""
    device = torch.device(device)
    if device.type == "cpu":
        images, products = f"cpu {simd_level()}", dict.fromkeys(("add_covariance", "symmetric_product"), "torch on cpu")
    else:
        compiled = device.type == "cuda" and cuda_module() is not None
        images = "cuda" if compiled else f"torch on {device.type}"
        products = {"add_covariance": images, "symmetric_product": symmetric_product_route(device)}
    return {"resize_normalize": images, "content_hash": images, **products}


# ---------------------------------------------------------------------------------------------------------------------
# Checks
# ---------------------------------------------------------------------------------------------------------------------


def _check_images(images: Sequence[Tensor], value_range: Sequence[float] | None, quantize: str | None) -> None:
    for i, image in enumerate(images):
        if not isinstance(image, Tensor):
            raise TypeError(f"images[{i}]: expected a torch.Tensor, got {type(image).__name__}")
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise TypeError(f"images[{i}]: expected uint8 or a floating dtype, got {image.dtype}")
        if image.ndim != 3 or image.shape[0] != 3 or image.shape[1] < 1 or image.shape[2] < 1:
            hint = " (layout NHWC?)" if image.ndim == 3 and image.shape[2] == 3 else ""
            raise ValueError(f"images[{i}]: expected shape (3, H, W), got {tuple(image.shape)}{hint}")
        if image.device != images[0].device:
            raise ValueError(f"images[{i}]: expected device {images[0].device} as images[0], got {image.device}")
        if image.is_floating_point() != images[0].is_floating_point():
            raise TypeError(f"images[{i}]: expected {images[0].dtype} as images[0], got {image.dtype}")
    if quantize not in QUANTIZE:
        raise ValueError(f'quantize: expected "round", "truncate" or None, got {quantize!r}')
    if images and images[0].is_floating_point():
        if value_range is None or tuple(value_range) not in VALUE_RANGES:
            raise ValueError(f"value_range: float images need (0, 1) or (-1, 1), got {value_range}")
    elif images and value_range is not None:
        raise ValueError(f"value_range: expected None for uint8 images, got {value_range}")


# ---------------------------------------------------------------------------------------------------------------------
# The ops
# ---------------------------------------------------------------------------------------------------------------------


# torch.library.define and impl, because torch.library.custom_op imports torch._dynamo at its first call: 1 to 2 s
# at the start of every command. pt2_compliant_tag is what custom_op sets: opcheck has passed.
torch.library.define(
    "fidfast::resize_normalize",
    "(Tensor[] images, str preset, float low, float high, str quantize, ScalarType dtype, bool channels_last, "
    "bool content_hash) -> (Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "fidfast::content_hash",
    "(Tensor[] images, float low, float high, str quantize) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


@torch.library.impl("fidfast::resize_normalize", "default")
def _resize_normalize_op(
    images: Sequence[Tensor],
    preset: str,
    low: float,
    high: float,
    quantize: str,
    dtype: torch.dtype,
    channels_last: bool,
    content_hash: bool,
) -> tuple[Tensor, Tensor]:
    module = images_cuda.module_for(images)
    if module is not None:
        out, hashes, unusable = images_cuda.enqueue_resize_normalize(
            module, images, preset, low, high, quantize, dtype, channels_last, content_hash
        )
        raise_unusable(images, images_cuda.bad_indices(unusable), low, high)
        return out, hashes
    run = _run_cpu if images[0].device.type == "cpu" else resize_normalize_torch
    return run(images, preset, low, high, quantize, dtype, channels_last, content_hash)


@torch.library.register_fake("fidfast::resize_normalize")
def _(
    images: Sequence[Tensor],
    preset: str,
    low: float,
    high: float,
    quantize: str,
    dtype: torch.dtype,
    channels_last: bool,
    content_hash: bool,
) -> tuple[Tensor, Tensor]:
    out = empty_out(len(images), dtype, channels_last, images[0].device)
    return out, torch.empty(len(images) if content_hash else 0, 2, dtype=torch.int64, device=images[0].device)


@torch.library.impl("fidfast::content_hash", "default")
def _content_hash_op(images: Sequence[Tensor], low: float, high: float, quantize: str) -> Tensor:
    module = images_cuda.module_for(images)
    if module is not None:
        hashes = torch.zeros(len(images), 2, dtype=torch.int64, device=images[0].device)
        unusable = images_cuda.launch(module, images, None, hashes, "pytorch-fid", low, high, quantize, False)
        raise_unusable(images, images_cuda.bad_indices(unusable), low, high)
        return hashes
    if images[0].device.type != "cpu":
        check_torch(images, low, high)
        return torch.cat([torch_hash(torch_to_255(image[None], low, high, quantize)) for image in images])
    hashes = torch.empty(len(images), 2, dtype=torch.int64)
    _call_cpu(images, None, hashes, "pytorch-fid", low, high, quantize, False)
    return hashes


@torch.library.register_fake("fidfast::content_hash")
def _(images: Sequence[Tensor], low: float, high: float, quantize: str) -> Tensor:
    return torch.empty(len(images), 2, dtype=torch.int64, device=images[0].device)


# ---------------------------------------------------------------------------------------------------------------------
# CPU kernels
# ---------------------------------------------------------------------------------------------------------------------


def _call_cpu(
    images: Sequence[Tensor],
    out: Tensor | None,  # (N, 3, 299, 299) float32, bfloat16 or float16
    hashes: Tensor | None,  # (N, 2) int64
    preset: str,
    low: float,
    high: float,
    quantize: str,
    channels_last: bool,
    threads: int | None = None,
    simd: str = "",
) -> None:
    supported = [image.float() if image.is_floating_point() else image for image in images]
    unusable = _cpu.resize_normalize(
        [to_dlpack(image) for image in supported],
        None if out is None else to_dlpack(out),
        None if hashes is None else to_dlpack(hashes),
        preset,
        low,
        high,
        quantize,
        channels_last,
        threads or num_threads(),
        simd,
    )
    raise_unusable(images, unusable, low, high)


def _run_cpu(
    images: Sequence[Tensor],
    preset: str,
    low: float,
    high: float,
    quantize: str,
    dtype: torch.dtype,
    channels_last: bool,
    content_hash: bool,
    threads: int | None = None,
    simd: str = "",
) -> tuple[Tensor, Tensor]:
    out = empty_out(len(images), dtype, channels_last, torch.device("cpu"))
    hashes = torch.empty(len(images) if content_hash else 0, 2, dtype=torch.int64)
    _call_cpu(images, out, hashes if content_hash else None, preset, low, high, quantize, channels_last, threads, simd)
    return out, hashes
