"""The sums of K groups of one stream of features: what the error bars leave out in turn. K = 1 is the plain stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fidfast.moments import StatisticsError, Sums, add_rows, check_features, check_shift, rebase, zero_sums

# Rows enter the sums in blocks of at least 512, as in fidfast.statistics. The last 512 stay rows in any case: those of
# them that turn out to be a sampler's padding are left out of the sums, from which nothing can be taken back.
_BLOCK_ROWS = 512
TAIL_ROWS = 512


class GroupedStatistics:
    """n, Σ(x-k) and Σ(x-k)(x-k)ᵀ of each of K groups; every row enters one of them, and together they are the whole.

    While n is at most D plus the tail, the float32 rows themselves are held. Memory: K · D² · 8 bytes beyond that,
    a group's only once it has rows; 335 MB for K = 10 at D = 2048. Lives on the device of the first features.
    """

    def __init__(self, feature_dim: int, *, groups: int = 1, shift: Tensor | None = None) -> None:
        self.feature_dim, self.groups = feature_dim, groups
        self.num_samples = 0
        self.shift = None if shift is None else check_shift(shift, feature_dim)  # (D,) float32
        self._block = -(-feature_dim // _BLOCK_ROWS) * _BLOCK_ROWS
        self._sums: list[Sums | None] = [None] * groups
        self._rows: Tensor | None = None  # (block + tail, D) float32, the last rows
        self._groups = torch.empty(self._block + TAIL_ROWS, dtype=torch.int64, device="cpu")  # of those rows
        self._filled = 0

    def check(self, features: Tensor, finite: Tensor | None = None) -> Tensor:
        """(N, D) float32 on this object's device; StatisticsError for another shape or dtype, NaN or infinity."""
        rows = check_features(features, self.feature_dim, self.num_samples, finite)
        return rows if self._rows is None else rows.to(self._rows.device)

    def add(self, features: Tensor, groups: Tensor | None = None, *, finite: Tensor | None = None) -> None:
        """Add features (N, D) to the group (N,) int64 of each, default 0; all of them or, on an error, none.

        finite: (N,) bool on the host, where it is known which rows are.
        """
        rows = self.check(features, finite)
        start = 0
        while start < len(rows):
            if self._rows is None:
                self._rows = rows.new_empty(len(self._groups), self.feature_dim)
            if self._filled == len(self._rows):
                self._flush()
            size = min(len(self._rows) - self._filled, len(rows) - start)
            self._rows[self._filled : self._filled + size] = rows[start : start + size]
            added = 0 if groups is None else groups[start : start + size].cpu()
            self._groups[self._filled : self._filled + size] = added
            self._filled += size
            start += size
        self.num_samples += len(rows)

    @property
    def num_held(self) -> int:
        """How many of the last rows are still rows."""
        return self._filled

    @property
    def holds_all(self) -> bool:
        return self._filled == self.num_samples

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self._rows is None else self._rows.device

    def held_rows(self, keep: Tensor | None = None) -> Tensor:
        """The rows that are held (or those that ``keep``, (num_held,) bool, marks), (h, D) float32, a copy."""
        if self._rows is None:
            return torch.empty(0, self.feature_dim, dtype=torch.float32, device="cpu")
        rows = self._rows[: self._filled]
        return rows.clone() if keep is None else rows[keep.to(rows.device)]

    def first_shift(self) -> Tensor | None:
        """The shift of the sums, or what it would be: (D,) float32; None without rows."""
        if self.shift is None and self._rows is not None and self._filled:
            return self._rows[: min(self._filled, _BLOCK_ROWS)].double().mean(dim=0).float()
        return self.shift

    def sums(self, shift: Tensor, *, group: int | None = None, keep: Tensor | None = None) -> Sums:
        """New sums about ``shift`` of one group or of all, without the held rows that ``keep`` does not mark."""
        total = zero_sums(shift.to(self.device))
        for own in self._sums if group is None else [self._sums[group]]:
            if own is not None:
                moved = rebase(own, total.shift)
                total = Sums(
                    total.count + own.count, total.shift, total.total + moved.total, total.scatter.add_(moved.scatter)
                )
        chosen = torch.ones(self._filled, dtype=torch.bool, device="cpu") if keep is None else keep.cpu()
        if group is not None:
            chosen = chosen & (self._groups[: self._filled] == group)
        for rows in self.held_rows(chosen).split(self._block):
            total = add_rows(total, rows, in_place=True)
        return total

    def _flush(self) -> None:
        """The oldest block goes into the sums; the tail moves to the front."""
        shift = self.first_shift()
        if self._rows is None or shift is None:
            return
        self.shift = shift.to(self._rows.device)
        block, groups = self._rows[: self._block], self._groups[: self._block]
        for group in range(self.groups):  # each row is in one product, whatever K is: K partial sums at the work of one
            members = (groups == group).nonzero().flatten()
            if len(members) == 0:
                continue
            rows = (
                block
                if len(members) == len(block)
                else block.index_select(0, members.to(block.device, non_blocking=True))
            )
            own = self._sums[group]
            self._sums[group] = add_rows(zero_sums(self.shift) if own is None else own, rows, in_place=True)
        self._filled -= self._block
        for held in (self._rows, self._groups):
            held[: self._filled] = held[self._block : self._block + self._filled].clone()

    def state_dict(self) -> dict[str, Any]:
        """Everything, exactly, as tensors, numbers and None; shares no memory."""
        sums = [None if own is None else own.copied_to(None) for own in self._sums]
        return {
            "feature_dim": self.feature_dim,
            "num_samples": self.num_samples,
            "shift": None if self.shift is None else self.shift.clone(),
            "sums": [None if own is None else [own.count, own.shift, own.total, own.scatter] for own in sums],
            "rows": None if self._rows is None else self.held_rows(),
            "groups": self._groups[: self._filled].clone(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], device: torch.device | None = None) -> GroupedStatistics:
        """What :meth:`state_dict` gave, on ``device`` (default: where its tensors are)."""
        made = cls(state["feature_dim"], groups=len(state["sums"]), shift=state["shift"])
        sums = [None if own is None else Sums(*own).copied_to(device) for own in state["sums"]]
        if state["rows"] is not None:
            made.add(state["rows"] if device is None else state["rows"].to(device), state["groups"])
        if made.num_samples + sum(own.count for own in sums if own is not None) != state["num_samples"]:
            raise StatisticsError(f"state: expected the sums and rows of {state['num_samples']} samples, got others")
        made._sums, made.num_samples = sums, state["num_samples"]
        return made
