"""A metric of torchmetrics' interface for where torchmetrics is not installed: states, batch values, all ranks."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fidfast.distributed import Ranks

State = Tensor | list[Tensor]

_meetings = itertools.count()  # every rank computes its metrics in the same order, and so meets the others


class Metric(nn.Module):
    """``update`` adds to states, ``compute`` reads them, on every rank of the process group those of all ranks.

    A state is a tensor that is summed over ranks and batches, or a list of tensors (N, …) that is joined.

    Args:
        process_group: whose ranks compute together; default: all.
        sync_on_compute: False: this process alone.
        compute_with_cache: keep the result until the next update.
    """

    is_differentiable: bool | None = None
    higher_is_better: bool | None = None
    full_state_update: bool | None = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.process_group = kwargs.pop("process_group", None)
        self.sync_on_compute = kwargs.pop("sync_on_compute", True)
        self.compute_with_cache = kwargs.pop("compute_with_cache", True)
        for name in ("sync_on_compute", "compute_with_cache"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"Expected keyword argument `{name}` to be a `bool` but got {getattr(self, name)}")
        if kwargs:
            unknown = ", ".join(f"`{name}`" for name in sorted(kwargs))
            raise ValueError(f"Unexpected keyword arguments: {unknown} (without torchmetrics, which is not installed)")
        self._defaults: dict[str, State] = {}
        self._persistent: dict[str, bool] = {}
        self._computed: Any = None
        self._update_count = 0
        self._alone = False
        self._dtype_convert = False
        self._place = torch.empty(0)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "update" in cls.__dict__:
            cls.update = _counting(cls.update)  # type: ignore[method-assign]
        if "compute" in cls.__dict__:
            cls.compute = _of_all_ranks(cls.compute)  # type: ignore[method-assign]

    def update(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError

    def compute(self) -> Any:
        raise NotImplementedError

    def add_state(self, name: str, default: State, dist_reduce_fx: str | None = None, persistent: bool = False) -> None:
        """A tensor with ``dist_reduce_fx="sum"``, or an empty list with "cat"."""
        if (dist_reduce_fx == "cat") != (default == []) or dist_reduce_fx not in ("sum", "cat"):
            raise ValueError(
                f"{name}: expected a tensor with 'sum' or an empty list with 'cat', got {dist_reduce_fx!r}"
            )
        self._defaults[name], self._persistent[name] = copy.deepcopy(default), persistent
        setattr(self, name, default)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The value of this batch alone, on this rank; the batch is added to the states as well."""
        before, count = self.metric_state, self._update_count
        self.reset()
        alone, self._alone = self._alone, True
        try:
            self.update(*args, **kwargs)
            value = self.compute()
            self._reduce_states(before)
        except BaseException:
            self._set(before)
            self._update_count = count
            raise
        finally:
            self._alone, self._computed = alone, None
        self._update_count = count + 1
        return value

    def merge_state(self, incoming_state: dict[str, State] | Metric) -> None:
        """Add another metric of this class, or its ``metric_state``. ValueError: something else; nothing is added."""
        if isinstance(incoming_state, Metric):
            if not isinstance(incoming_state, type(self)):
                raise ValueError(f"Expected incoming state to be a {type(self).__name__} but got {incoming_state!r}")
            incoming_state = incoming_state.metric_state
        if not isinstance(incoming_state, dict) or not self._defaults.keys() <= incoming_state.keys():
            raise ValueError(f"Expected incoming state to be a dict of {', '.join(self._defaults)}")
        self._computed = None
        self._reduce_states(incoming_state)

    def _reduce_states(self, incoming_state: dict[str, State]) -> None:
        self._set({name: incoming_state[name] + state for name, state in self.metric_state.items()})  # type: ignore[operator]

    def reset(self) -> None:
        self._update_count, self._computed = 0, None
        self._set({name: copy.deepcopy(default) for name, default in self._defaults.items()})

    @property
    def metric_state(self) -> dict[str, State]:
        return {name: getattr(self, name) for name in self._defaults}

    @property
    def update_called(self) -> bool:
        return self._update_count > 0

    @property
    def update_count(self) -> int:
        return self._update_count

    @property
    def device(self) -> torch.device:
        return self._place.device

    @property
    def dtype(self) -> torch.dtype:
        return self._place.dtype

    def clone(self) -> Metric:
        return copy.deepcopy(self)

    def persistent(self, mode: bool = False) -> None:
        """Whether the states are part of the state_dict."""
        self._persistent = dict.fromkeys(self._persistent, mode)

    def set_dtype(self, dst_type: str | torch.dtype) -> Metric:
        """States and network in another float type; ``.double()`` and its like leave a metric as it is."""
        self._dtype_convert = True
        try:
            return super().type(dst_type)
        finally:
            self._dtype_convert = False

    def type(self, dst_type: str | torch.dtype) -> Metric:
        return self

    def float(self) -> Metric:
        return self

    def double(self) -> Metric:
        return self

    def half(self) -> Metric:
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Metric:
        super()._apply(fn, recurse)

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            keeps = self._dtype_convert or moved.dtype == tensor.dtype
            return moved if keeps else tensor.to(moved.device)  # not moved.to(dtype): it has been rounded

        def move_state(state: State) -> State:
            return [move(part) for part in state] if isinstance(state, list) else move(state)

        self._defaults = {name: move_state(state) for name, state in self._defaults.items()}
        self._set({name: move_state(state) for name, state in self.metric_state.items()})
        self._place = move(self._place)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, state in self.metric_state.items():
            if self._persistent[name]:
                destination[prefix + name] = copy.deepcopy(state)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name in self._defaults:
            if prefix + name in state_dict:
                setattr(self, name, state_dict.pop(prefix + name))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _plot(self, val: Any = None, ax: Any = None) -> Any:
        raise ModuleNotFoundError(f"{type(self).__name__}.plot: plotting is torchmetrics', which is not installed here")

    def _set(self, states: dict[str, State]) -> None:
        for name, state in states.items():
            setattr(self, name, state)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Within it, the states are those of all ranks."""
        ranks = Ranks(self.process_group, alone=self._alone or not self.sync_on_compute)
        if ranks.size == 1:
            yield
            return
        own = self.metric_state
        rows = {name: torch.cat(state) if state else None for name, state in own.items() if isinstance(state, list)}
        facts = {
            name: [0, None, None] if part is None else [len(part), list(part.shape[1:]), str(part.dtype)]
            for name, part in rows.items()
        }
        meeting = f"compat/torchmetrics/{type(self).__name__}/{next(_meetings)}"
        everybody = ranks.meet(meeting, {"states": sorted(own)}, facts)
        joined: dict[str, State] = {}
        for name, state in own.items():
            if not isinstance(state, list):
                joined[name] = ranks.all_reduce(state.clone())
                continue
            counts = [said[name][0] for said in everybody]
            part, known = rows[name], [said[name][1:] for said in everybody if said[name][0]]
            if part is None and known:
                shape, dtype = known[0]
                part = torch.empty(0, *shape, dtype=getattr(torch, dtype.split(".")[1]), device=self.device)
            joined[name] = [] if part is None else ranks.gather_rows(part, counts)
        ranks.leave(meeting)
        self._set(joined)
        try:
            yield
        finally:
            self._set(own)


def _counting(update: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(update)
    def counted(self: Metric, *args: Any, **kwargs: Any) -> None:
        self._computed = None
        with torch.no_grad():
            update(self, *args, **kwargs)
        self._update_count += 1

    return counted


def _of_all_ranks(compute: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(compute)
    def computed(self: Metric) -> Any:
        if self._computed is None:
            with self._together(), torch.no_grad():
                value = compute(self)
            if not self.compute_with_cache:
                return value
            self._computed = value
        return self._computed

    return computed
