"""The evaluations of a training so far, and everywhere that they are told: log, history, TensorBoard and others."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fidfast.result import FIDResult
from fidfast.training_history import History, Record, Sinks, curves_of, plot_curves, read_history
from fidfast.training_schedule import label_of

_log = logging.getLogger("fidfast.training")


@dataclass(frozen=True)
class Evaluation:
    """One finished evaluation: ``record`` is its line in the history, ``result`` None where it was read from one."""

    label: str  # "fid_2k": of the n that was evaluated
    step: int  # whose weights were sampled; of an evaluation spread over steps the first
    last_step: int
    fid: float
    is_best: bool  # the lowest of its label so far
    record: Record = field(repr=False)
    result: FIDResult | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, record: Mapping[str, Any], result: FIDResult | None = None) -> Evaluation:
        named = {name: record[name] for name in ("label", "step", "last_step", "fid", "is_best")}
        return cls(**named, record=dict(record), result=result)


class Results:
    """Evaluations in the order they ended; only rank 0 tells of them."""

    def __init__(self, history: str | os.PathLike[str] | None, log: Any, *, tells: bool) -> None:
        self.history, self.sinks, self.tells = History(history), Sinks(log), tells
        self.evaluations: list[Evaluation] = []

    def read(self, before: int) -> None:
        """Take over what the history knows of steps before this one."""
        if self.tells and self.history.path is not None and self.history.path.exists():
            records = [one for one in read_history(self.history.path) if one["event"] == "evaluation"]
            self.load([one for one in records if one["last_step"] < before])

    def load(self, records: Sequence[Record]) -> None:
        known = {(one.label, one.step): one.result for one in self.evaluations}
        self.evaluations = [Evaluation.of(one, known.get((one["label"], one["step"]))) for one in records]

    def records(self) -> list[Record]:
        return [one.record for one in self.evaluations]

    def add(self, result: FIDResult, fields: Mapping[str, Any]) -> Evaluation:
        """``fields``: step, last_step, num_images and what else the history is to say."""
        label, step = label_of(fields["num_images"]), fields["step"]
        record = {
            "label": label,
            "step": step,
            "last_step": fields["last_step"],
            "fid": result.fid,
            "standard_error": result.standard_error,
            "corrected": result.corrected,
            "floor": result.floor,
            "is_best": all(result.fid < one.fid for one in self.evaluations if one.label == label),
            **fields,
            "result": _brief(result),
        }
        evaluation = Evaluation.of(record, result)
        self.evaluations.append(evaluation)
        if self.tells:
            self.history.write("evaluation", **record)
            extra = {f"{label}/{name}": record[name] for name in ("standard_error", "corrected")}
            numbers = {name: value for name, value in {label: result.fid, **extra}.items() if value is not None}
            self.sinks.write(step, numbers)
            error = "" if result.standard_error is None else f" ± {result.standard_error:.2g}"
            best = ", the best so far" if evaluation.is_best else ""
            _log.info("step %s: %s: FID %.6g%s%s", f"{step:,}", label, result.fid, error, best)
        return evaluation

    def say(self, step: int, kind: str, n: int | None, message: str, *, warn: bool) -> None:
        """One sentence to the log and the history."""
        if self.tells:
            label = None if n is None else label_of(n)
            name = "" if label is None else f"{label}: "
            _log.log(logging.WARNING if warn else logging.INFO, "step %s: %s%s", f"{step:,}", name, message)
            self.history.write("log", step=step, label=label, kind=kind, message=message)

    @property
    def curves(self) -> dict[str, list[Evaluation]]:
        found = {(one.label, one.step): one for one in self.evaluations}
        curves = curves_of(self.records())
        return {label: [found[label, record["step"]] for record in records] for label, records in curves.items()}

    def stalled(self, min_delta: float) -> int:
        """For how many evaluations the curve that has stood still longest has not improved by more than that."""
        return max((_since_best([one.fid for one in curve], min_delta) for curve in self.curves.values()), default=0)

    def plot(self, path: str | os.PathLike[str]) -> None:
        plot_curves(curves_of(self.records()), path)


def _brief(result: FIDResult) -> dict[str, Any]:
    """The result without the table of what each two ranks share, where that is nothing."""
    made = result.to_dict()
    found = made["duplicates"].get("generated")
    if found is not None and not found.get("same_images"):
        found.pop("overlap", None)
    return made


def _since_best(values: Sequence[float], min_delta: float) -> int:
    best, since = math.inf, 0
    for value in values:
        best, since = (value, 0) if value < best - min_delta else (best, since + 1)
    return since
