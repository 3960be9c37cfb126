"""Which squared distances are small, as float64 has them: float32 products leave the large ones out.

A product of D float32 terms, summed in any order, is off by at most γ |x||y|, γ = D u / (1 - D u), u = 2⁻²⁴ (Higham,
Accuracy and Stability of Numerical Algorithms, section 3.1). That bounds every distance from below and from above at
half the work of a float64 product. The few whose bounds do not decide are computed again in float64: no result depends
on the float32 rounding.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fidfast.metrics.rows import parts, tile_rows, tiles

_UNIT = 2.0**-24  # float32 rounds by at most this, relatively
_SPARE = 16  # more such roundings: of the rows, of their norms, and of what is added to a product
_TINY = 2.0**-120  # above what products lose where they are too small for float32


class Points:
    """Rows (N, D), and what their float32 products about a shift may be off by.

    ``shift`` must be a float32 number: then float32 rows minus the shift are rounded once.
    """

    def __init__(self, rows: Tensor, shift: Tensor) -> None:  # (N, D), (D,) float64
        self.rows, self.shift = rows, shift
        self.norms = torch.cat([part.square().sum(dim=1) for _, part in parts(rows, shift)])  # (N,) float64, squared
        dims = rows.shape[1]
        gamma = (dims + _SPARE) * _UNIT / (1 - (dims + _SPARE) * _UNIT)
        # 2 |x·y - its float32| <= 2 γ |x||y| <= γ |x|² + γ |y|²
        self.slack = gamma * self.norms + dims * _TINY  # (N,) float64

    def __len__(self) -> int:
        return len(self.rows)


def lower_bounds(a: Points, b: Points | None = None) -> Iterator[tuple[slice, slice, Tensor]]:
    """(rows, columns, float32 lower bounds of the squared distances) of one tile after the other.

    A distance is at most twice the slack of its two points above its bound. ``b=None``: within a, of which only the
    tiles on and above the diagonal come.
    """
    left, right = ((points.norms - points.slack).float() for points in (a, a if b is None else b))
    for here, there, products in tiles(a.rows, None if b is None else b.rows, a.shift, torch.float32):
        yield here, there, products.mul_(-2).add_(left[here, None]).add_(right[there])


def squared_distances(a: Points, b: Points, i: Tensor, j: Tensor) -> Tensor:  # (p,), (p,) → (p,) float64
    """Of the pairs (i, j), from differences: rows that are equal are at exactly 0."""
    found = a.norms.new_empty(len(i))
    size = tile_rows(a.rows.device) // 8 + 1  # what is gathered stays in a CPU's cache
    for start in range(0, len(i), size):
        some = slice(start, start + size)
        found[some] = (a.rows[i[some]].double() - b.rows[j[some]].double()).square_().sum(dim=1)
    return found


def nearest(points: Points, neighbours: int) -> Tensor:  # (N, k) float64, ascending
    """Squared distances from each of N > k points to its k nearest others; a tile serves its rows and its columns."""
    count = len(points)
    kept = min(count - 1, 2 * neighbours + 6)
    bounds = points.norms.new_full((count, kept), torch.inf, dtype=torch.float32)
    others = torch.zeros(count, kept, dtype=torch.int64, device=bounds.device)
    for here, there, lower in lower_bounds(points):
        if here == there:
            lower.fill_diagonal_(torch.inf)
        else:
            _keep_smallest(bounds, others, there, lower.T, here.start)
        _keep_smallest(bounds, others, here, lower, there.start)
    upper = bounds + 2 * (points.slack[:, None] + points.slack[others])
    farthest = upper.topk(neighbours, dim=1, largest=False).values[:, -1:]  # no k-th neighbour is beyond it
    row, place = (bounds <= farthest).nonzero(as_tuple=True)
    squared = torch.full_like(upper, torch.inf)
    squared[row, place] = squared_distances(points, points, row, others[row, place])
    squared = squared.sort(dim=1).values[:, :neighbours]
    last = squared[:, -1]
    if kept < count - 1:  # one that was not kept may be nearer where its bound, at least the largest kept, allows it
        doubtful = ((bounds.amax(dim=1) < last) & (last > 0)).nonzero().flatten()
        for some in doubtful.split(tile_rows(doubtful.device)):
            squared[some] = _nearest_in_float64(points, some, neighbours)
    return squared


def _keep_smallest(bounds: Tensor, others: Tensor, where: slice, lower: Tensor, start: int) -> None:
    """``lower`` (n, m) of the points ``where`` to those from ``start`` on goes into the smallest (n, kept) so far."""
    kept = bounds.shape[1]
    found = lower.topk(min(kept, lower.shape[1]), dim=1, largest=False, sorted=False)
    both = torch.cat([bounds[where], found.values], dim=1)
    indices = torch.cat([others[where], found.indices + start], dim=1)
    bounds[where], chosen = both.topk(kept, dim=1, largest=False, sorted=False)
    others[where] = indices.gather(1, chosen)


def _nearest_in_float64(points: Points, some: Tensor, neighbours: int) -> Tensor:  # (n,) → (n, k), n of a tile at most
    best = points.norms.new_full((len(some), neighbours), torch.inf)
    for _, there, products in tiles(points.rows[some], points.rows, points.shift):
        squared = products.mul_(-2).add_(points.norms[some, None]).add_(points.norms[there]).clamp_(min=0)
        columns = torch.arange(there.start, there.stop, device=some.device)
        squared.masked_fill_(some[:, None] == columns, torch.inf)
        found = squared.topk(min(neighbours, len(columns)), dim=1, largest=False).values
        best = torch.cat([best, found], dim=1).sort(dim=1).values[:, :neighbours]
    return best


def pairs_near(
    a: Points,
    b: Points,
    radii_a: list[Tensor],  # of (M,) float64, squared
    radii_b: list[Tensor],  # of (N,)
    equal: float,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(i, j, squared distances) of one tile after the other: all pairs within a radius of either, and a few others.

    A distance is of float64 where that matters to a radius or to what is within ``equal`` · (|x|² + |y|²) of it; others
    are lower bounds, on the same side of every radius.
    """
    widest = [_largest(points, radii) for points, radii in ((a, radii_a), (b, radii_b))]
    for here, there, lower in lower_bounds(a, b):
        near = lower <= widest[1][there]
        near |= lower <= widest[0][here, None]
        i, j = near.nonzero(as_tuple=True)
        squared = lower[i, j].double()
        i, j = i + here.start, j + there.start
        margin = equal * (a.norms[i] + b.norms[j])
        upper = squared + 2 * (a.slack[i] + b.slack[j])
        unsure = torch.zeros_like(i, dtype=torch.bool)
        for indices, radii in ((i, radii_a), (j, radii_b)):
            for radius in radii:
                unsure |= (squared <= radius[indices] + margin) & (upper >= radius[indices] - margin)
        place = unsure.nonzero().flatten()
        if 64 * len(place) > lower.numel():  # then the products of all pairs take less time
            products = _rows(a, here) @ _rows(b, there).T
            inner = products[i[place] - here.start, j[place] - there.start]
            squared[place] = (a.norms[i[place]] + b.norms[j[place]] - 2 * inner).clamp_(min=0)
        else:
            squared[place] = squared_distances(a, b, i[place], j[place])
        yield i, j, squared


def _largest(points: Points, radii: list[Tensor]) -> Tensor:  # (N,) float32, not below any radius
    if not radii:
        return torch.full_like(points.norms, -torch.inf).float()
    return (torch.stack(radii).amax(dim=0) * (1 + 4 * _UNIT)).float()


def _rows(points: Points, where: slice) -> Tensor:  # (n, D) float64
    return points.rows[where].double() - points.shift
