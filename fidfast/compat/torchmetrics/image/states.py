"""What the image metrics keep of their states where torchmetrics' own would spoil them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fidfast.compat.torchmetrics.metric import Metric


class ImageMetric(Metric):
    """``reset`` leaves the states ``real_…`` as they are where ``reset_real_features`` is False.

    ``forward`` resets, updates and adds what was there before: torchmetrics' own metrics thereby count the real images
    that stayed once more with every call, which doubles their lists. And ``.to(torch.bfloat16)`` of a module that
    holds a metric leaves the sums in float64, as ``.half()`` of it does: only ``set_dtype`` changes them.
    """

    reset_real_features: bool = True
    _in_forward = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The value of this batch, against the real side that stays; the batch is added to the states as well."""
        before = self.__dict__.copy()
        self._in_forward = True
        try:
            return super().forward(*args, **kwargs)
        except BaseException:  # such as a batch of one side alone, which has no value: nothing is added, nothing lost
            self.__dict__.update(before)
            raise
        finally:
            self._in_forward = False

    def reset(self) -> None:
        """Begin again; the real side stays if ``reset_real_features`` is False."""
        kept = {name: getattr(self, name) for name in self._kept_names()}
        for name, default in self._defaults.items():
            if isinstance(default, list):  # torchmetrics empties it, and with it other metrics' of one compute group
                setattr(self, name, [])
        super().reset()
        for name, state in kept.items():
            setattr(self, name, list(state) if isinstance(state, list) else state)

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        self._computed = None  # merge_state() of torchmetrics leaves the value of before
        if self._in_forward:
            incoming_state = dict(incoming_state)
            for name in self._kept_names():
                stayed = getattr(self, name)
                incoming_state[name] = torch.zeros_like(stayed) if isinstance(stayed, Tensor) else []
        super()._reduce_states(incoming_state)

    def _kept_names(self) -> list[str]:
        return [] if self.reset_real_features else [name for name in self._defaults if name.startswith("real")]

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Metric:
        states, defaults = self.metric_state, self._defaults.copy()
        super()._apply(fn, *args, **kwargs)
        if not self._dtype_convert:
            for name, state in states.items():
                setattr(self, name, _moved_only(state, getattr(self, name)))
            self._defaults = {name: _moved_only(state, self._defaults[name]) for name, state in defaults.items()}
        return self


def _moved_only(before: Any, after: Any) -> Any:
    """A state, or a list of its parts, where ``after`` is and in the type that it had ``before``."""
    if isinstance(before, list):
        return [_moved_only(*pair) for pair in zip(before, after, strict=True)]
    return after if after.dtype == before.dtype else before.to(after.device)
