"""Mean and covariance as numbers: checked, and as sums about a fixed shift that can be added and combined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fidfast.ops import add_covariance, mirror_lower

# Products of two covariances must stay below 1e308.
_LARGEST = 1e140
# A float32 covariance is symmetric to 1e-7 of its largest entry; one that is off by more was not made by a covariance.
_SYMMETRY = 1e-5


class StatisticsError(ValueError):
    """Statistics that cannot be read, computed or compared; the message names the file or argument."""


@dataclass(frozen=True)
class Sums:
    """n, a fixed shift k, Σ(x-k) and Σ(x-k)(x-k)ᵀ, of which only the lower triangle counts."""

    count: int
    shift: Tensor  # (D,) float32
    total: Tensor  # (D,) float64
    scatter: Tensor  # (D, D) float64

    def copied_to(self, device: torch.device | None) -> Sums:
        """A copy that shares no memory, on ``device`` (None: where it is)."""
        tensors = (self.shift, self.total, self.scatter)
        return Sums(self.count, *(tensor.to(device, copy=True) for tensor in tensors))


def check_moments(
    mu: Any, sigma: Any, mu_name: str = "mu", sigma_name: str = "sigma", *, values: bool = True
) -> tuple[Tensor, Tensor]:
    """A mean (D,) and covariance (D, D) as float64 tensors on their own device: finite, symmetric, of one size.

    ``values=False`` looks at types and shapes only, so that it never waits for a device.

    Raises:
        StatisticsError: naming the argument, what was expected and what came.
    """
    mean, covariance = _real_tensor(mu, mu_name), _real_tensor(sigma, sigma_name)
    if mean.ndim != 1 or mean.shape[0] == 0:
        raise StatisticsError(f"{mu_name}: expected shape (D,), got {tuple(mean.shape)}")
    size = mean.shape[0]
    if covariance.shape != (size, size):
        expected = f"expected shape ({size}, {size}) to go with {mu_name} ({size},)"
        raise StatisticsError(f"{sigma_name}: {expected}, got {tuple(covariance.shape)}")
    if not values:
        return mean, symmetric(covariance)
    _check_values(mean, mu_name)
    return mean, _check_symmetric(covariance, sigma_name)


def check_symmetric(a: Any, name: str) -> Tensor:  # (D, D)
    """A symmetric matrix as a float64 tensor on its own device: finite, of at least one row.

    Raises:
        StatisticsError: naming the argument, what was expected and what came.
    """
    matrix = _real_tensor(a, name)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise StatisticsError(f"{name}: expected a square matrix, got shape {tuple(matrix.shape)}")
    return _check_symmetric(matrix, name)


def _check_values(value: Tensor, name: str) -> float:
    """Finite and not too large; the largest."""
    finite = torch.isfinite(value)
    if not bool(finite.all()):
        bad = torch.nonzero(~finite)
        place = tuple(bad[0].tolist())
        raise StatisticsError(
            f"{name}: expected finite numbers, got {len(bad)} that are not, the first {float(value[place])} at {place}"
        )
    largest = float(value.detach().abs().max())
    if largest > _LARGEST:
        raise StatisticsError(
            f"{name}: expected numbers below {_LARGEST:.0e}, or the distance overflows, got {largest:.3g}"
        )
    return largest


def _check_symmetric(matrix: Tensor, name: str) -> Tensor:
    largest = _check_values(matrix, name)
    if torch.equal(matrix, matrix.T):
        return matrix
    skew = float((matrix - matrix.T).detach().abs().max())
    if skew > _SYMMETRY * largest:
        raise StatisticsError(
            f"{name}: expected a symmetric matrix, got one that differs from its transpose by {skew:.3g} "
            f"(largest entry {largest:.3g})"
        )
    return symmetric(matrix)


def as_tensor(value: Tensor | np.ndarray) -> Tensor:
    """A tensor of the same numbers, where they are; torch.as_tensor would move them to the default device."""
    return value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value))


def check_shift(shift: Tensor | np.ndarray, size: int) -> Tensor:
    """(D,) float32, a copy."""
    tensor = as_tensor(shift).to(torch.float32)
    if tensor.shape != (size,) or not bool(torch.isfinite(tensor).all()):
        raise StatisticsError(f"shift: expected {size} finite numbers, got shape {tuple(tensor.shape)}")
    return tensor.clone()


def check_features(
    features: Tensor | np.ndarray, size: int, before: int, finite: Tensor | None = None
) -> Tensor:  # finite: (N,) bool on the host, where it is known
    """(N, D) of any float type as float32 on its own device (the CPU for MPS, which has no float64); all finite."""
    batch = as_tensor(features)
    if batch.ndim != 2 or batch.shape[1] != size:
        raise StatisticsError(f"features: expected shape (N, {size}), got {tuple(batch.shape)}")
    if not batch.is_floating_point():
        raise StatisticsError(f"features: expected a float type, got {batch.dtype}")
    batch = batch.to(device="cpu" if batch.device.type == "mps" else batch.device, dtype=torch.float32)
    finite = torch.isfinite(batch).all(dim=1) if finite is None else finite
    if not bool(finite.all()):
        bad = torch.nonzero(~finite).flatten()
        raise StatisticsError(
            f"features: expected finite numbers, got NaN or infinity in {len(bad)} of {len(batch)} rows, "
            f"the first at index {before + int(bad[0])} of all rows so far; none of these {len(batch)} were added"
        )
    return batch


def _real_tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, Tensor):
        tensor = value
    else:
        array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            raise StatisticsError(f"{name}: expected real numbers, got dtype {array.dtype}")
        tensor = torch.from_numpy(np.array(array, dtype=np.float64))
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise StatisticsError(f"{name}: expected real numbers, got dtype {tensor.dtype}")
    if tensor.device.type == "mps":  # has no float64
        tensor = tensor.cpu()
    return tensor.to(torch.float64)


def symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2


def centre_rows(rows: Tensor) -> tuple[Tensor, Tensor]:  # (n, D) float32 → (D,), (n, D) float64
    """The mean, and the rows without it."""
    centred = rows.double()
    mean = centred.mean(dim=0)
    centred -= mean
    rest = centred.mean(dim=0)  # what rounding left of a large mean
    centred -= rest
    return mean + rest, centred


def add_rows(sums: Sums, rows: Tensor, *, in_place: bool) -> Sums:  # (n, D) float32
    total, scatter = (sums.total, sums.scatter) if in_place else (sums.total.clone(), sums.scatter.clone())
    add_covariance(rows, sums.shift, total, scatter)
    return Sums(sums.count + len(rows), sums.shift, total, scatter)


def zero_sums(shift: Tensor) -> Sums:  # (D,) float32
    zeros = torch.zeros(len(shift), len(shift), dtype=torch.float64, device=shift.device)
    return Sums(0, shift, zeros[0].clone(), zeros)


def moments_of_sums(sums: Sums) -> tuple[Tensor, Tensor]:
    """The mean (D,) and the unbiased covariance (D, D)."""
    centre = sums.total / sums.count
    covariance = (sums.scatter - torch.outer(sums.total, centre)) / (sums.count - 1)
    return sums.shift.double() + centre, mirror_lower(covariance)


def rebase(sums: Sums, shift: Tensor) -> Sums:
    """The same samples about another shift (D,) float32."""
    if torch.equal(sums.shift, shift):
        return sums
    apart = sums.shift.double() - shift.double()
    cross = torch.outer(apart, sums.total)
    scatter = sums.scatter + cross + cross.T + sums.count * torch.outer(apart, apart)
    return Sums(sums.count, shift, sums.total + sums.count * apart, scatter)


def sums_of_moments(count: int, mean: Tensor, centred_scatter: Tensor) -> Sums:
    """Sums about the float32 nearest to the mean, where they are smallest."""
    shift = mean.float()
    rest = mean - shift.double()
    return Sums(count, shift, count * rest, centred_scatter + count * torch.outer(rest, rest))


def combine(a: Sums, b: Sums) -> Sums:
    """The sums of both; where the shifts differ, by Chan's formula about the common mean."""
    count = a.count + b.count
    if torch.equal(a.shift, b.shift):
        return Sums(count, a.shift, a.total + b.total, a.scatter + b.scatter)
    centre_a, centre_b = a.total / a.count, b.total / b.count
    apart = (b.shift.double() - a.shift.double()) + (centre_b - centre_a)
    scatter = a.scatter - torch.outer(a.total, centre_a)
    scatter += b.scatter - torch.outer(b.total, centre_b)
    scatter += (a.count * b.count / count) * torch.outer(apart, apart)
    return sums_of_moments(count, a.shift.double() + centre_a + apart * (b.count / count), scatter)
