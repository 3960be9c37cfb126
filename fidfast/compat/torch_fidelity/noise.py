"""Noise for generators and interpolations between it, as torch-fidelity draws them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def batch_normalize_last_dim(v: Tensor, eps: float = 1e-7) -> Tensor:
    return v / v.square().sum(dim=-1, keepdim=True).sqrt().clamp_min(eps)


def random_normal(rng: np.random.RandomState, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(rng.randn(*shape)).float()


def random_unit(rng: np.random.RandomState, shape: tuple[int, ...]) -> Tensor:
    return batch_normalize_last_dim(random_uniform_0_1(rng, shape))  # of the positive orthant, as torch-fidelity's


def random_uniform_0_1(rng: np.random.RandomState, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(rng.rand(*shape)).float()


def batch_lerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    return a + (b - a) * t


def batch_slerp_any(a: Tensor, b: Tensor, t: float, eps: float = 1e-7) -> Tensor:
    """Along the great circle between the directions of a and b; a straight line where those are one or nothing."""
    directions = [batch_normalize_last_dim(v, eps) for v in (a, b)]
    cosine = (directions[0] * directions[1]).sum(dim=-1, keepdim=True)
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin().clamp_min(eps)
    curved = ((1 - t) * angle).sin() / sine * a + (t * angle).sin() / sine * b
    short = torch.stack([d.norm(dim=-1, keepdim=True) < eps for d in directions]).any(dim=0)
    return torch.where(short | (cosine.abs() > 1 - eps), batch_lerp(a, b, t), curved)


def batch_slerp_unit(a: Tensor, b: Tensor, t: float, eps: float = 1e-7) -> Tensor:
    return batch_normalize_last_dim(batch_slerp_any(a, b, t, eps), eps)
