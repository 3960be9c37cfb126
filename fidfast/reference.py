"""Plain twins of fidfast's ops, with the same signatures: slow, written from the formulas, the oracle of the tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

OUT = 299

# ---------------------------------------------------------------------------------------------------------------------
# Resize and normalise
# ---------------------------------------------------------------------------------------------------------------------

Taps = list[tuple[int, list[float]]]  # for every output: first source index, weights


def _taps_bilinear(size: int) -> Taps:
    """torch's bilinear, align_corners=False: float32 coordinate, the multiply-add rounded once (ATen UpSample.h)."""
    if size == OUT:
        return [(i, [1.0]) for i in range(OUT)]
    scale = float(np.float32(size) / np.float32(OUT))
    taps: Taps = []
    for i in range(OUT):
        source = max(float(np.float32(scale * (i + 0.5) - 0.5)), 0.0)
        low = min(int(source), size - 1)
        weight = float(np.float32(source) - np.float32(low))
        taps.append((low, [1.0 - weight, weight] if low + 1 < size else [1.0]))
    return taps


def _taps_bilinear_tf1(size: int) -> Taps:
    """TensorFlow 1's bilinear: no half-pixel centres, float32 coordinate (torch-fidelity, interpolate_compat)."""
    scale = np.float32(size / OUT)
    taps: Taps = []
    for i in range(OUT):
        source = np.float32(i) * scale
        low = int(source)
        weight = float(source - np.float32(low))
        taps.append((low, [1.0 - weight, weight] if low + 1 < size else [1.0]))
    return taps


def _windowed(size: int, support: float, kernel: Callable[[float], float], real: type) -> Taps:
    """Taps of a filter that widens with the reduction, weights normalised to sum 1 (Pillow's Resample.c, ATen's aa).

    `real` is the type that the original keeps its intermediate values in; expressions are double in both.
    """
    scale = float(real(real(size) / real(OUT)))
    support = float(real(support * max(scale, 1.0)))
    inverse = float(real(1.0 / max(scale, 1.0)))
    taps: Taps = []
    for i in range(OUT):
        centre = float(real(scale * (i + 0.5)))
        low = max(int(float(real(centre - support)) + 0.5), 0)
        high = min(int(float(real(centre + support)) + 0.5), size)
        offsets = [float(real(real(j) - real(centre))) + 0.5 for j in range(low, high)]
        weights = [real(kernel(real(offset * inverse))) for offset in offsets]
        total = real(0.0)
        for weight in weights:
            total = real(total + weight)
        taps.append((low, [float(real(weight / total)) for weight in weights]))
    return taps


def _triangle(x: float) -> float:
    return max(1.0 - abs(x), 0.0)


def _bicubic(x: float) -> float:
    """Keys' cubic, a = -0.5, factored as in Pillow."""
    x = abs(float(x))
    if x < 1.0:
        return ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1.0
    if x < 2.0:
        return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return 0.0


# preset: (taps of one axis, centre and scale of `(value - centre) * scale`, clip to [0, 255] before it)
_PRESETS: dict[str, tuple[Callable[[int], Taps], float, float, bool]] = {
    "pytorch-fid": (_taps_bilinear, 127.5, 2.0 / 255.0, False),
    "tensorflow": (_taps_bilinear_tf1, 128.0, 1.0 / 128.0, False),
    "clean-fid": (lambda size: _windowed(size, 2.0, _bicubic, float), 128.0, 1.0 / 128.0, True),
    "torchmetrics": (lambda size: _windowed(size, 1.0, _triangle, np.float32), 128.0, 1.0 / 128.0, False),
}


def resize_matrix(preset: str, size: int) -> Tensor:
    """(299, size) float64: the preset's resize of one axis as a matrix."""
    matrix = torch.zeros(OUT, size, dtype=torch.float64)
    for row, (start, weights) in enumerate(_PRESETS[preset][0](size)):
        matrix[row, start : start + len(weights)] = torch.tensor(weights, dtype=torch.float64)
    return matrix


def to_255(image: Tensor, value_range: Sequence[float] | None, quantize: str | None) -> Tensor:
    """(3, H, W) image on the scale 0..255 as float32; integers unless it is a float image and quantize is None."""
    if image.dtype == torch.uint8:
        return image.float()
    low, high = value_range or (0.0, 1.0)
    scale = 255.0 / (high - low)
    values = image.float() * scale - low * scale
    if quantize is None:
        return values
    values = values.clamp(0.0, 255.0)
    return values.round() if quantize == "round" else values.trunc()


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
    """Twin of ops.resize_normalize: dense float64 matrices Ry X Rxᵀ, float32 between the two passes as in Pillow."""
    _, centre, scale, clip = _PRESETS[preset]
    out = torch.empty(len(images), 3, OUT, OUT, dtype=dtype)
    for i, image in enumerate(images):
        values = to_255(image.detach().cpu(), value_range, quantize).double()
        rows = (values @ resize_matrix(preset, values.shape[2]).T).float().double()
        resized = (resize_matrix(preset, values.shape[1]) @ rows).float()
        if clip:
            resized = resized.clamp(0.0, 255.0)
        out[i] = ((resized - centre) * scale).to(dtype)
    if channels_last:
        out = out.contiguous(memory_format=torch.channels_last)
    hashes = torch.empty(0, 2, dtype=torch.int64)
    if content_hash:
        hashes = content_hashes(images, value_range=value_range, quantize=quantize)
    return out, hashes


# ---------------------------------------------------------------------------------------------------------------------
# Content hash
# ---------------------------------------------------------------------------------------------------------------------

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_SEGMENT = 64  # pixels along a row that share one product sum
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def _mix(x: int) -> int:
    """Finaliser of splitmix64 (Steele, Lea, Flood 2014): a bijection of 64 bits."""
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & _MASK
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & _MASK
    return x ^ x >> 31


def _keys(j: int) -> list[int]:
    """The 64 keys of half j: at least 2^30 and below 2^30 + 2^31, so that a key plus a pixel never wraps or is zero."""
    return [(1 << 30) + (_mix((j * _SEGMENT + i + 1) * _GOLDEN & _MASK) >> 33) for i in range(_SEGMENT)]


def content_hash_of(image: Tensor) -> tuple[int, int]:
    """128-bit hash of one uint8 (3, H, W) image as two unsigned numbers: over (y, x, R, G, B), H and W.

    Each segment of 64 pixels is hashed by NH of UMAC (Black et al. 1999): sum over pixel pairs of
    (w0 + k0)(w1 + k1), w = R + 256 G + 65536 B; its place is added, the result mixed, and all segments summed.
    """
    _, height, width = image.shape
    red, green, blue = image.cpu().to(torch.int64)
    pixels = (red | green << 8 | blue << 16).tolist()
    result = []
    for j in range(2):
        keys = _keys(j)
        total = 0
        for y in range(height):
            for segment in range(math.ceil(width / _SEGMENT)):
                words = pixels[y][segment * _SEGMENT : (segment + 1) * _SEGMENT]
                words = words + [0] * (_SEGMENT - len(words))
                x = (y * 2**20 + segment + 1) * _GOLDEN
                for i in range(0, _SEGMENT, 2):
                    x += (words[i] + keys[i]) * (words[i + 1] + keys[i + 1])
                x &= _MASK
                x ^= x >> 29
                x = x * _MULTIPLIERS[j] & _MASK
                total += x ^ x >> 32
        result.append(_mix((total + (height * 2**32 + width) * _GOLDEN) & _MASK))
    return result[0], result[1]


def content_hashes(
    images: Sequence[Tensor],  # N x (3, H, W) uint8 or float
    *,
    value_range: Sequence[float] | None = None,
    quantize: str | None = "round",
) -> Tensor:
    """Twin of ops.content_hash: (N, 2) int64."""
    out = torch.zeros(len(images), 2, dtype=torch.int64)
    for i, image in enumerate(images):
        quantised = to_255(image.detach().cpu(), value_range, quantize or "round").to(torch.uint8)
        for j, number in enumerate(content_hash_of(quantised)):
            out[i, j] = number - (1 << 64) if number >> 63 else number
    return out


# ---------------------------------------------------------------------------------------------------------------------
# Statistics and distance
# ---------------------------------------------------------------------------------------------------------------------


def covariance(features: Tensor) -> tuple[np.ndarray, np.ndarray]:  # (N, D) → (D,), (D, D) float64
    """Mean and unbiased covariance as every tool writes them: numpy, float64, all rows at once."""
    rows = features.detach().cpu().numpy().astype(np.float64)
    return rows.mean(axis=0), np.atleast_2d(np.cov(rows, rowvar=False))


def add_covariance(rows: Tensor, shift: Tensor, total: Tensor, scatter: Tensor, first_index: int = 0) -> None:
    """Twin of ops.add_covariance: row after row, all of scatter."""
    groups = total.shape[0] if total.ndim == 2 else 1
    totals, scatters = total.view(groups, -1), scatter.view(groups, *scatter.shape[-2:])
    for i, row in enumerate(rows.double() - shift.double()):
        totals[(first_index + i) % groups] += row
        scatters[(first_index + i) % groups] += torch.outer(row, row)


def symmetric_product(
    x: Tensor,  # (m, D)
    y: Tensor | None = None,
    *,
    addend: Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float = 0.0,
) -> Tensor:
    """Twin of ops.symmetric_product in float64: row after row of x and y, not symmetric beyond rounding."""
    right = (x if y is None else y).double()
    product = (x.double()[:, :, None] * right[:, None, :]).sum(dim=0)
    result = alpha * product + gamma * torch.eye(x.shape[1], dtype=torch.float64, device=x.device)
    return result if addend is None else result + beta * addend.double()


def frechet_distance(mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray) -> float:
    """The formula of Heusel et al. 2017 (TTUR) as it stands: scipy's square root of Σ1 Σ2, of which the real part."""
    import scipy.linalg

    root = np.asarray(scipy.linalg.sqrtm(np.asarray(sigma1) @ np.asarray(sigma2))).real
    apart = np.asarray(mu1) - np.asarray(mu2)
    return float(apart @ apart + np.trace(sigma1) + np.trace(sigma2) - 2 * np.trace(root))


def polar(m: Tensor) -> Tensor:  # (m, r) float64, m ≥ r, of full rank
    """The polar factor from singular vectors."""
    left, _, right = torch.linalg.svd(m, full_matrices=False)
    return left @ right


def matrix_sqrt(a: np.ndarray) -> np.ndarray:
    """scipy's Schur-based square root."""
    import scipy.linalg

    return np.asarray(scipy.linalg.sqrtm(np.asarray(a))).real
