"""What the metrics that keep every image's features have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fidfast.compat.torchmetrics.image.network import extract
from fidfast.compat.torchmetrics.metric import Metric

LOGITS = 1008


class FeatureLists(Metric):
    """A metric whose states are lists of features (N, D), joined over the ranks."""

    normalize: bool
    used_custom_model: bool
    inception: nn.Module
    real_features: list[Tensor]
    reset_real_features: bool = True
    _width: int | None

    def _add_lists(self, names: Sequence[str], feature: Any, dtype: torch.dtype | None = None) -> None:
        self._width = LOGITS if isinstance(feature, str) else feature if isinstance(feature, int) else None
        self.orig_dtype, self._kept_dtype = torch.get_default_dtype(), dtype  # None: kept as they come
        for name in names:
            self.add_state(name, [], dist_reduce_fx="cat")

    def _append(self, name: str, imgs: Tensor) -> None:
        features = extract(self, imgs)
        self._width, self.orig_dtype = features.shape[1], features.dtype
        getattr(self, name).append(features.detach().to(self._kept_dtype or features.dtype))

    def _rows(self, name: str) -> Tensor:  # (N, D)
        state = getattr(self, name)
        parts = [state] if isinstance(state, Tensor) else list(state)
        if not parts:
            raise ValueError(f"{name}: expected images before compute(), got none")
        return torch.cat(parts)

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        """Of torchmetrics: a rank without images takes part with (0, D), where torchmetrics would wait for ever."""
        for name in self._defaults:
            if not len(getattr(self, name)) and self._width is not None:
                dtype = self._kept_dtype or self.orig_dtype
                setattr(self, name, [torch.empty(0, self._width, dtype=dtype, device=self.device)])
        super()._sync_dist(*args, **kwargs)  # type: ignore[misc]

    def reset(self) -> None:
        """Begin again; the real side stays if ``reset_real_features`` is False."""
        kept = None if self.reset_real_features else list(self.real_features)
        super().reset()
        if kept is not None:
            self.real_features = kept
