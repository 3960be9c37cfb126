"""How close the generated samples are to the training set: the penalty of MiFID (Bai et al. 2021, arXiv:2106.03062)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fidfast.metrics.rows import as_sides, parts


def mean_nearest_cosine(
    features_a: Tensor | np.ndarray,  # (M, D)
    features_b: Tensor | np.ndarray,  # (N, D)
) -> float:
    """Mean over the rows of a of the smallest 1 - |cos| to a row of b; rows that sum to 0 are left out.

    MiFID is FID divided by this where it is below a threshold (0.1). Not symmetric.

    Raises:
        ValueError, TypeError: naming the argument; a side without a row that can be used.
    """
    a, b = as_sides(features_a, features_b, ("features_a", "features_b"))
    a, b = (rows[torch.cat([part.sum(dim=1) for _, part in parts(rows)]) != 0] for rows in (a, b))
    for name, rows in (("features_a", a), ("features_b", b)):
        if not len(rows):
            raise ValueError(f"{name}: expected rows that do not sum to 0, got none")
    total = 0.0
    for _, left in parts(a):
        left = torch.nn.functional.normalize(left)
        best = left.new_zeros(len(left))
        for _, right in parts(b):
            best = torch.maximum(best, (left @ torch.nn.functional.normalize(right).T).abs().amax(dim=1))
        total += float((1 - best).sum())
    return total / len(a)
