"""What the metrics that keep every image's features have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fidfast.compat.torchmetrics.image.network import extract
from fidfast.compat.torchmetrics.image.states import ImageMetric
from fidfast.decode import FLOAT_DTYPES


class FeatureLists(ImageMetric):
    """A metric whose states are lists of features (N, D), joined over the ranks."""

    normalize: bool
    used_custom_model: bool
    inception: nn.Module

    def _add_lists(self, names: Sequence[str], dtype: torch.dtype | None = None) -> None:
        self.orig_dtype, self._kept_dtype = torch.get_default_dtype(), dtype  # None: kept as they come
        for name in names:
            self.add_state(name, [], dist_reduce_fx="cat")

    def _append(self, name: str, imgs: Tensor) -> None:
        features = extract(self, imgs)
        self.orig_dtype = features.dtype
        getattr(self, name).append(features.detach().to(self._kept_dtype or features.dtype))

    def _rows(self, name: str) -> Tensor:  # (N, D)
        parts = self._parts(name)
        if not any(len(part) for part in parts):
            raise ValueError(f"{name}: expected images before compute(), got none")
        return torch.cat(parts)

    def _parts(self, name: str) -> list[Tensor]:  # (n, D) each
        state = getattr(self, name)
        return [state] if isinstance(state, Tensor) else list(state)

    def _sync_dist(self, dist_sync_fn: Callable[..., list[Tensor]], process_group: Any = None) -> None:
        """Of torchmetrics: a rank without images takes part with (0, D), where torchmetrics would wait or crash.

        The ranks tell each other D and the float type first: a network of the user's shows them with its images only.
        """
        own = [part for name in self._defaults for part in self._parts(name)]
        mine = [own[0].shape[1], FLOAT_DTYPES.index(own[0].dtype)] if own else [0, 0]
        group = process_group or self.process_group
        said = torch.stack(dist_sync_fn(torch.tensor(mine, device=self.device), group=group)).amax(dim=0).tolist()
        nothing = torch.empty(0, said[0], device=self.device)
        for name in self._defaults:
            setattr(self, name, [part.to(FLOAT_DTYPES[said[1]]) for part in self._parts(name) or [nothing]])
        super()._sync_dist(dist_sync_fn, process_group=process_group)  # type: ignore[misc]
