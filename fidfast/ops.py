"""torch.library ops over fidfast's kernels: schema, fake, checks; the only importer of the compiled modules."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import get_worker_info
from torch.utils.dlpack import to_dlpack

from fidfast import _cpu

OUT = 299
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
) -> tuple[Tensor, Tensor]:
    """((N, 3, 299, 299) dtype, (N, 2) int64 hashes or (0, 2)): resize and normalise as the preset's tool does.

    images may differ in size and have any strides; all are uint8 in [0, 255], or all float in value_range (0, 1) or
    (-1, 1). The hashes, of the images quantised to 8 bits, are on the CPU. Raises TypeError or ValueError naming the
    argument. The CPU kernel is used for CPU tensors, a torch implementation on any other device.
    """
    _check_images(images, value_range, quantize)
    if preset not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    if dtype not in OUT_DTYPES:
        raise ValueError(f"dtype: expected float32, bfloat16 or float16, got {dtype}")
    if not images:
        return _empty_out(0, dtype, channels_last, torch.device("cpu")), torch.empty(0, 2, dtype=torch.int64)
    low, high = value_range or VALUE_RANGES[0]
    tensors = [image.detach() for image in images]
    return torch.ops.fidfast.resize_normalize(
        tensors, preset, float(low), float(high), quantize or "", dtype, channels_last, content_hash
    )


def content_hash(
    images: Sequence[Tensor],  # N x (3, H, W) uint8 or float
    *,
    value_range: Sequence[float] | None = None,
    quantize: str | None = "round",
) -> Tensor:
    """(N, 2) int64 on the CPU: 128-bit hashes of the images' content, equal for every layout, device and thread count.

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
    kind = torch.device(device).type
    name = f"cpu {simd_level()}" if kind == "cpu" else f"torch on {kind}"
    return {"resize_normalize": name, "content_hash": name}


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


def _raise_unusable(images: Sequence[Tensor], indices: Sequence[int], low: float, high: float) -> None:
    """ValueError about the first of the float images that hold NaN or values far outside [low, high]."""
    if not indices:
        return
    image = images[indices[0]]
    not_numbers = int(image.isnan().sum())
    got = f"NaN at {not_numbers} places" if not_numbers else f"values from {image.min():g} to {image.max():g}"
    raise ValueError(f"images[{indices[0]}]: expected values in [{low:g}, {high:g}] (value_range), got {got}")


# ---------------------------------------------------------------------------------------------------------------------
# The ops
# ---------------------------------------------------------------------------------------------------------------------


def _empty_out(count: int, dtype: torch.dtype, channels_last: bool, device: torch.device) -> Tensor:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(count, 3, OUT, OUT, dtype=dtype, device=device, memory_format=memory_format)


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
    run = _run_cpu if images[0].device.type == "cpu" else _run_torch
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
    out = _empty_out(len(images), dtype, channels_last, images[0].device)
    return out, torch.empty(len(images) if content_hash else 0, 2, dtype=torch.int64)


@torch.library.impl("fidfast::content_hash", "default")
def _content_hash_op(images: Sequence[Tensor], low: float, high: float, quantize: str) -> Tensor:
    if images[0].device.type != "cpu":
        return torch.cat([_torch_hash(_torch_to_255(image[None], low, high, quantize)) for image in images])
    hashes = torch.empty(len(images), 2, dtype=torch.int64)
    _call_cpu(images, None, hashes, "pytorch-fid", low, high, quantize, False)
    return hashes


@torch.library.register_fake("fidfast::content_hash")
def _(images: Sequence[Tensor], low: float, high: float, quantize: str) -> Tensor:
    return torch.empty(len(images), 2, dtype=torch.int64)


# ---------------------------------------------------------------------------------------------------------------------
# CPU kernels
# ---------------------------------------------------------------------------------------------------------------------


def _num_threads() -> int:
    return 1 if get_worker_info() is not None else torch.get_num_threads()


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
        threads or _num_threads(),
        simd,
    )
    _raise_unusable(images, unusable, low, high)


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
    out = _empty_out(len(images), dtype, channels_last, torch.device("cpu"))
    hashes = torch.empty(len(images) if content_hash else 0, 2, dtype=torch.int64)
    _call_cpu(images, out, hashes if content_hash else None, preset, low, high, quantize, channels_last, threads, simd)
    return out, hashes


# ---------------------------------------------------------------------------------------------------------------------
# Any other device: the same tap tables as dense matrices, in torch
# ---------------------------------------------------------------------------------------------------------------------


def _torch_to_255(
    images: Tensor,  # (N, 3, H, W) uint8 or float
    low: float,
    high: float,
    quantize: str,
) -> Tensor:
    if images.dtype == torch.uint8:
        return images.float()
    scale = 255.0 / (high - low)
    values = images.float() * scale + -low * scale
    if not quantize:
        return values
    values = values.clamp(0.0, 255.0)
    return values.round() if quantize == "round" else values.trunc()


def _resize_matrix(preset: str, size: int) -> Tensor:
    """(299, size) float64: one axis of the preset's resize."""
    matrix = torch.zeros(OUT, size, dtype=torch.float64)
    for row, (start, weights) in enumerate(_cpu.taps(preset, size)):
        matrix[row, start : start + len(weights)] = torch.tensor(weights, dtype=torch.float64)
    return matrix


def _run_torch(
    images: Sequence[Tensor],
    preset: str,
    low: float,
    high: float,
    quantize: str,
    dtype: torch.dtype,
    channels_last: bool,
    content_hash: bool,
) -> tuple[Tensor, Tensor]:
    device = images[0].device
    # float64 also keeps TF32 out of the products; MPS has none of either
    real = torch.float32 if device.type == "mps" else torch.float64
    centre, scale, clip = _cpu.preset(preset)
    out = _empty_out(len(images), dtype, channels_last, device)
    hashes = torch.empty(len(images) if content_hash else 0, 2, dtype=torch.int64)
    _check_torch(images, low, high)
    by_size: dict[tuple[int, int], list[int]] = {}
    for i, image in enumerate(images):
        by_size.setdefault((image.shape[1], image.shape[2]), []).append(i)
    for (height, width), members in by_size.items():
        columns = _resize_matrix(preset, width).to(real).to(device)
        rows = _resize_matrix(preset, height).to(real).to(device)
        chunk = max(1, 2**22 // (height * width))  # images at a time: at most 100 MB of float64
        for first in range(0, len(members), chunk):
            indices = members[first : first + chunk]
            values = _torch_to_255(torch.stack([images[i] for i in indices]), low, high, quantize)
            resized = rows @ (values.to(real) @ columns.T).float().to(real)
            resized = resized.float().clamp(0.0, 255.0) if clip else resized.float()
            out[indices] = ((resized - centre) * scale).to(dtype)
            if content_hash:
                hashes[indices] = _torch_hash(values)
    return out, hashes


def _check_torch(images: Sequence[Tensor], low: float, high: float) -> None:
    if images[0].dtype == torch.uint8:
        return
    slack = 0.25 * (high - low)
    usable = torch.stack([((image >= low - slack) & (image <= high + slack)).all() for image in images])
    _raise_unusable(images, (~usable).nonzero().flatten().tolist(), low, high)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """x >> bits of the 64 bits as an unsigned number; torch's own shift copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(x: int) -> int:
    x &= (1 << 64) - 1
    return x - (1 << 64) if x >> 63 else x


def _torch_hash(
    values: Tensor,  # (N, 3, H, W) float32 on the scale 0..255
) -> Tensor:
    """(N, 2) int64 on the CPU; content_hash.h says what is computed. int64 products wrap as unsigned ones do."""
    segment, golden, multipliers, keys = _cpu.hash_constants()
    count, _, height, width = values.shape
    values = values.clamp(0.0, 255.0).round().to(torch.int64)
    pixels = values[:, 0] + values[:, 1] * 2**8 + values[:, 2] * 2**16
    segments = -(-width // segment)
    pixels = torch.nn.functional.pad(pixels, (0, segments * segment - width)).view(count, height, segments, segment)
    place = torch.arange(height, device=values.device)[:, None] * 2**20
    place = (place + torch.arange(segments, device=values.device) + 1) * _signed(golden)  # (H, segments)
    halves = []
    for j in range(2):
        terms = pixels + torch.tensor(keys[j], device=values.device)
        x = (terms[..., 0::2] * terms[..., 1::2]).sum(-1) + place
        x = (x ^ _shift_right(x, 29)) * _signed(multipliers[j])
        x = (x ^ _shift_right(x, 32)).sum((1, 2)) + _signed((height * 2**32 + width) * golden)
        x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
        x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
        halves.append(x ^ _shift_right(x, 31))
    return torch.stack(halves, 1).cpu()


# ---------------------------------------------------------------------------------------------------------------------
# 3×3 convolution + ReLU on the CPU by Winograd's minimal filtering (csrc/kernels/cpu/winograd.h)
# ---------------------------------------------------------------------------------------------------------------------

torch.library.define(
    "fidfast::winograd_conv_relu",
    "(Tensor x, Tensor weight, Tensor bias, int padding) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


def winograd_weight(
    weight: Tensor,  # (K, C, 3, 3) float32
    simd: str = "",
) -> Tensor | None:
    """(K / panel, 36, C, panel) float32 for winograd_conv_relu, or None where this CPU or this shape has no kernel."""
    panel, (k, c, *size) = _cpu.winograd_panel(simd), weight.shape
    if not panel or size != [3, 3] or k % 32 or c % 16 or weight.dtype != torch.float32 or weight.device.type != "cpu":
        return None
    a, b = 0.5, 2.0  # squares of the points ±1/√2 and ±√2; the others are 0 and infinity
    norms = [(0.0, a * b)] + [(s * p**0.5, 2 * p * (p - q)) for p, q in ((a, b), (b, a)) for s in (1, -1)]
    rows = [[1 / norm, point / norm, point**2 / norm] for point, norm in norms] + [[0.0, 0.0, 1.0]]
    g = torch.tensor(rows, dtype=torch.float64, device="cpu")  # (6, 3)
    points = (g @ weight.double() @ g.T).reshape(k // panel, panel, c, 36)
    return points.permute(0, 3, 2, 1).float().contiguous()


def winograd_conv_relu(
    x: Tensor,  # (N, C, H, W) float32
    weight: Tensor,  # (K / panel, 36, C, panel) float32 of winograd_weight
    bias: Tensor,  # (K,) float32
    padding: int,
    simd: str = "",
) -> Tensor:
    """relu(3×3 convolution of stride 1 + bias) → (N, K, H', W') channels_last; Lavin and Gray, arXiv:1509.09308."""
    out = _winograd_out(x, weight, bias, padding)
    nhwc = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    views = [to_dlpack(tensor) for tensor in (nhwc, weight, bias, out.permute(0, 2, 3, 1))]
    _cpu.winograd_conv_relu(views[0], views[1], views[2], views[3], padding, _num_threads(), simd)
    return out


torch.library.impl("fidfast::winograd_conv_relu", "cpu")(winograd_conv_relu)


@torch.library.register_fake("fidfast::winograd_conv_relu")
def _winograd_out(x: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    size = (x.shape[0], bias.shape[0], x.shape[2] + 2 * padding - 2, x.shape[3] + 2 * padding - 2)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
