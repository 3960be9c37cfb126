"""The Inception Score (Salimans et al. 2016, "Improved Techniques for Training GANs", arXiv:1606.03498)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fidfast.metrics.rows import as_rows, parts


class InceptionScore(NamedTuple):
    """Mean and standard deviation (ddof 0) over the splits; from 1 (worst) to the number of classes."""

    mean: float
    std: float
    values: np.ndarray  # (S,) float64, of each split


def inception_score(
    logits: Tensor | np.ndarray,  # (N, C)
    *,
    splits: int | Sequence[int] = 10,
    shuffle: bool = True,
    seed: int = 2020,
) -> InceptionScore:
    """exp E_x KL(p(y|x) ‖ p(y)) from the class logits of N images, in float64.

    The defaults are torch-fidelity's: the images are shuffled by numpy's RandomState(seed), and split i has those from
    i·N/splits to (i+1)·N/splits. The field's logits are those without the bias ("logits_unbiased").

    Args:
        splits: how many, or the size of each (ADM's evaluator: 5000, 5000, …, unshuffled).

    Raises:
        ValueError, TypeError: logits that are no finite (N, C); splits that do not fit N.
    """
    rows = as_rows(logits, "logits")
    bounds = split_bounds(splits, len(rows))
    if shuffle:
        order = np.random.RandomState(seed).permutation(len(rows))
        rows = rows[torch.from_numpy(order).to(rows.device)]
    values = np.array([_score(rows[start:end]) for start, end in pairwise(bounds)])
    return InceptionScore(float(values.mean()), float(values.std()), values)


def _score(logits: Tensor) -> float:  # (n, C)
    """E KL(p(y|x) ‖ p(y)) = Σ_y (E p log p - p(y) log p(y)); a class of probability 0 adds 0."""
    total = logits.new_zeros(logits.shape[1], dtype=torch.float64)
    entropy = logits.new_zeros((), dtype=torch.float64)
    for _, part in parts(logits):
        log_p = part.log_softmax(dim=1)
        p = log_p.exp()
        total += p.sum(dim=0)
        entropy += (p * log_p).sum()
    marginal = total / len(logits)
    return float((entropy / len(logits) - torch.xlogy(marginal, marginal).sum()).exp())


def split_bounds(splits: int | Sequence[int], count: int) -> list[int]:
    """Where each split of ``count`` images begins, and the end of the last; ValueError where they do not fit."""
    if isinstance(splits, int):
        if isinstance(splits, bool) or not 1 <= splits <= count:
            raise ValueError(f"splits: expected 1 to {count}, the number of images, got {splits!r}")
        return [i * count // splits for i in range(splits + 1)]
    sizes = [int(size) for size in splits]
    if sum(sizes) != count or min(sizes, default=0) < 1:
        raise ValueError(f"splits: expected sizes of at least 1 that add up to {count} images, got {sizes}")
    return [sum(sizes[:i]) for i in range(len(sizes) + 1)]
