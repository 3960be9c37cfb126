"""The ranks of a torch.distributed process group: they meet, agree and add up, and an absent one is named."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = 600.0
# What rank 0 has to say takes a moment to arrive: the others wait this much longer, so that all give one reason.
_GRACE = 5.0
# How long, at most, tensors are waited for that a collective has finished with: a backend might keep them for good.
_LET_GO = 1.0
# Numbers that several ranks computed from the same images on unlike machines differ by less than this.
_SAME = 1e-5


class RanksError(RuntimeError):
    """Ranks that are missing or do not agree; the message names them."""


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class Ranks:
    """This process's view of a process group; without one (or with ``alone``), a group of itself.

    ``meet`` comes before any collective operation. It goes through the group's store, so that a rank that is missing
    is named after ``timeout`` seconds: a collective would hang, and NCCL's watchdog kill the process without a name.
    """

    def __init__(
        self, group: dist.ProcessGroup | None = None, *, timeout: float = TIMEOUT, alone: bool = False
    ) -> None:
        self.group, self.timeout = group, timeout
        self.rank, self.size = 0, 1
        if alone or not is_distributed():
            return
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise RanksError(f"process_group: rank {dist.get_rank()} is not a member of it")
        members = list(range(self.size)) if group is None else dist.get_process_group_ranks(group)
        self._members = members
        # One store serves all groups of a process; the default group's is the one that every torch has.
        prefix = hashlib.sha256(repr(members).encode()).hexdigest()[:12]
        self._store = dist.PrefixStore(f"fidfast/{prefix}", dist.distributed_c10d._get_default_store())

    @property
    def device(self) -> torch.device:
        """Where this group's collectives want tensors."""
        if self.size > 1 and "nccl" in str(dist.get_backend_config(self.group)):
            group = dist.group.WORLD if self.group is None else self.group
            bound = getattr(group, "bound_device_id", None)  # by init_process_group(device_id=…)
            return bound or torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")

    # -- the store: no collective ------------------------------------------------------------------------------------

    def publish(self, key: str, data: bytes) -> None:
        """Leave ``data`` for the others; waits for nobody."""
        if self.size > 1:
            self._store.set(f"{key}/{self.rank}", data.hex())

    def published(self, key: str, rank: int) -> bytes | None:
        """What a rank has left, or None if it has not yet."""
        place = f"{key}/{rank}"
        if self.size == 1 or not self._store.check([place]):
            return None
        return bytes.fromhex(self._store.get(place).decode())

    def withdraw(self, key: str) -> None:
        """Take back what this rank left, so that the store does not grow from evaluation to evaluation."""
        if self.size > 1:
            with contextlib.suppress(RuntimeError, NotImplementedError):  # some stores cannot delete
                self._store.delete_key(f"{key}/{self.rank}")

    def meet(self, key: str, agree: Mapping[str, Any], facts: Any = None) -> list[Any]:
        """Wait until every rank is here; returns everybody's ``facts`` (JSON), by rank.

        Args:
            key: of this meeting, the same on all ranks and never used again.
            agree: what must be the same on all ranks; None agrees with anything.

        Raises:
            RanksError: on every rank that came, naming those that did not within ``timeout``, or that differ.
        """
        if self.size == 1:
            return [facts]
        places = [f"{key}/{rank}" for rank in range(self.size)]
        verdict_place = f"{key}/verdict"
        try:
            self._store.set(places[self.rank], json.dumps([dict(agree), facts]))
            if self.rank == 0:
                verdict = self._judge(places)
                self._store.set(verdict_place, json.dumps(verdict))
            elif self._wait([verdict_place], self.timeout + _GRACE):
                verdict = json.loads(self._store.get(verdict_place))
            else:
                missing = [rank for rank in range(self.size) if not self._store.check([places[rank]])]
                self._store.set(places[self.rank], json.dumps(None))
                verdict = [self._absence(missing or [0]), None]
        except RanksError:
            raise
        except RuntimeError as error:  # the process that holds the store is gone
            raise RanksError(
                f"the ranks cannot meet: the store of the process group does not answer, so the process that holds it "
                f"(rank {dist.get_global_rank(self.group, 0) if self.group else 0}, as a rule) has ended: {error}"
            ) from error
        message, everybody = verdict
        if message is not None:
            raise RanksError(message)
        return everybody

    def leave(self, key: str) -> None:
        """After a collective that followed the meeting: nobody reads its keys any more."""
        self.withdraw(key)
        if self.size > 1 and self.rank == 0:
            with contextlib.suppress(RuntimeError, NotImplementedError):
                self._store.delete_key(f"{key}/verdict")

    def _judge(self, places: list[str]) -> list[Any]:
        """[what is wrong or None, everybody's facts], by rank 0."""
        self._wait(places, self.timeout)
        missing = [rank for rank, place in enumerate(places) if not self._store.check([place])]
        if missing:
            return [self._absence(missing), None]
        said = [json.loads(self._store.get(place)) for place in places]
        gone = [rank for rank, words in enumerate(said) if words is None]
        if gone:
            return [f"{name_ranks(gone)} came, and gave up waiting for rank 0 after {self.timeout:g} s", None]
        return [disagreement([agree for agree, _ in said]), [facts for _, facts in said]]

    def _wait(self, places: list[str], seconds: float) -> bool:
        started = time.monotonic()
        while not self._store.check(places):
            waited = time.monotonic() - started
            if waited > seconds:
                return False
            time.sleep(min(0.2, 0.001 + waited / 50))
        return True

    def _absence(self, missing: Sequence[int]) -> str:
        return (
            f"{name_ranks(missing)} of {self.size} did not come within {self.timeout:g} s: ended, still busy, or not "
            "calling this at all; every rank of the process group must (timeout= waits longer)"
        )

    # -- collectives: after a meeting --------------------------------------------------------------------------------

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, on the tensor's own device; the argument may be overwritten."""
        if self.size == 1:
            return tensor
        moved = tensor.to(self.device).contiguous()
        self._collective(lambda x: dist.all_reduce(x, group=self.group), moved)
        return moved.to(tensor.device)

    def reduce(self, tensor: Tensor, to: int) -> Tensor | None:
        """The sum over the ranks, on rank ``to`` only; the argument may be overwritten."""
        if self.size == 1:
            return tensor
        moved = tensor.to(self.device).contiguous()
        self._collective(lambda x: dist.reduce(x, dst=self._members[to], group=self.group), moved)
        return moved.to(tensor.device) if self.rank == to else None

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        """The tensor of rank ``source``, on everybody's own device; all of one shape and dtype."""
        if self.size == 1:
            return tensor
        moved = tensor.to(self.device, copy=True).contiguous()
        self._collective(lambda x: dist.broadcast(x, src=self._members[source], group=self.group), moved)
        return moved.to(tensor.device)

    def gather_rows(self, rows: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """Every rank's (counts[rank], ...) rows, on everybody, on this rank's device."""
        if self.size == 1 or max(counts) == 0:
            return [rows] * self.size
        padded = rows.new_zeros(max(counts), *rows.shape[1:], device=self.device)
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in counts]
        self._collective(lambda x, *parts: dist.all_gather(list(parts), x, group=self.group), padded, *gathered)
        return [part[:count].to(rows.device) for part, count in zip(gathered, counts, strict=True)]

    def _collective(self, run: Callable[..., Any], *tensors: Tensor) -> None:
        """run(*tensors), and the group's threads have let go of them.

        A thread of Gloo's drops a collective's tensors a little after the collective has returned, and needs Python's
        lock for that. If this thread is in destroy_process_group by then it may hold the lock and wait for that thread,
        for ever; if Python is ending, the process is aborted.
        """
        given = [tensor.detach() for tensor in tensors]  # that nobody else has
        held = [weakref.ref(tensor) for tensor in given]
        run(*given)
        del given
        end = time.monotonic() + _LET_GO
        while self.device.type == "cpu" and any(one() is not None for one in held) and time.monotonic() < end:
            time.sleep(1e-4)  # without the lock

    def exchange(self, said: Any) -> list[Any]:
        """Everybody's JSON value, by rank."""
        if self.size == 1:
            return [said]
        data = torch.frombuffer(bytearray(json.dumps(said).encode()), dtype=torch.uint8)
        length = torch.tensor([len(data)], dtype=torch.int64, device="cpu")
        lengths = [int(one) for one in self.gather_rows(length, [1] * self.size)]
        return [json.loads(bytes(part.numpy())) for part in self.gather_rows(data, lengths)]

    def together(self, work: Callable[[], Any]) -> list[Any]:
        """What ``work`` (JSON) gives on every rank, by rank; where it fails on one, all get its error."""
        if self.size == 1:
            return [work()]
        failure: Exception | None = None
        try:
            said = {"done": work()}
        except Exception as error:  # whatever it is, the others must not wait for this rank for ever
            failure, said = error, {"failed": f"{type(error).__name__}: {error}"}
        everybody = self.exchange(said)
        for rank, words in enumerate(everybody):
            if "failed" in words:
                raise RanksError(f"rank {rank}: {words['failed']}") from failure
        return [words["done"] for words in everybody]


def disagreement(said: Sequence[Mapping[str, Any]]) -> str | None:
    """One sentence naming what differs between the ranks, and in which; None where all agree."""
    for name in said[0]:
        groups: list[tuple[Any, list[int]]] = []
        for rank, words in enumerate(said):
            value = words.get(name)
            if value is None:
                continue
            for known, ranks in groups:
                if _same(known, value):
                    ranks.append(rank)
                    break
            else:
                groups.append((value, [rank]))
        if len(groups) > 1:
            differing = "; ".join(f"{name_ranks(ranks)}: {value!r}" for value, ranks in groups)
            return f"the ranks do not agree on {name}: {differing}"
    return None


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=_SAME)
    return a == b


def name_ranks(ranks: Sequence[int]) -> str:
    """[0, 1, 2, 5] → "ranks 0–2, 5"."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and runs[-1][1] == rank - 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    text = ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in runs)
    return f"rank{'s' if len(ranks) > 1 else ''} {text}"
