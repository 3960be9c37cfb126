"""What evaluations found in the course of a training: a file of JSON lines, and curves of equal n."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

Record = dict[str, Any]
# What two runs must have in common to write one history: else their numbers would stand in one curve.
SAME = ("preset", "feature_dim", "num_real", "seed")


class History:
    """An append-only file of JSON lines, which a crash can cut only in its last line; without a path, nothing.

    Each line has ``event`` ("start", "log" or "evaluation") and ``time``.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(path)

    @property
    def image_folder(self) -> Path | None:
        """Where the first images of each evaluation go: "fid.jsonl" → "fid-images"."""
        return None if self.path is None else self.path.with_name(f"{self.path.stem}-images")

    def write(self, event: str, **fields: Any) -> None:
        """Append one line, at once and to the disk."""
        if self.path is None:
            return
        line = json.dumps({"event": event, "time": datetime.now(timezone.utc).isoformat(timespec="seconds"), **fields})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab+") as file:
            # What a crash has cut must not take this line with it.
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """ValueError where the file holds results that cannot stand beside those of ``settings``."""
        if self.path is None or not self.path.exists():
            return
        for record in reversed(read_history(self.path)):
            if record["event"] == "start":
                for name in SAME:
                    if record.get(name) != settings.get(name):
                        raise ValueError(
                            f"history: {self.path} holds results with {name}={record.get(name)!r}, expected "
                            f"{settings.get(name)!r} as of this evaluator: give it a file of its own"
                        )
                return


def read_history(path: str | os.PathLike[str]) -> list[Record]:
    """All lines of a history, without one that a crash has cut, and without evaluations of steps that a training went
    back over when it was started again.

    Raises:
        FileNotFoundError: ``path``.
        ValueError: naming the line that is no history's.
    """
    lines = Path(path).read_bytes().split(b"\n")
    records: list[Record] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines) or _follows_a_crash(lines[number:]):
                continue
            raise ValueError(f"{os.fspath(path)}: line {number}: expected JSON, got {line[:60]!r}") from None
        if not isinstance(record, dict) or not isinstance(record.get("event"), str):
            raise ValueError(f"{os.fspath(path)}: line {number}: expected an object with 'event', got {line[:60]!r}")
        if record["event"] == "start":
            records = [one for one in records if one["event"] != "evaluation" or one["last_step"] < record["step"]]
        records.append(record)
    return records


def _follows_a_crash(rest: Sequence[bytes]) -> bool:
    """The next line was written by a run that started again."""
    for line in rest:
        if line.strip():
            return b'"event": "start"' in line
    return True


def curves_of(records: Iterable[Mapping[str, Any]]) -> dict[str, list[Record]]:
    """label → its evaluations by step; of several at one step the last. Labels in the order of their n."""
    found: dict[str, dict[int, Record]] = {}
    for record in records:
        if record.get("event", "evaluation") == "evaluation":
            found.setdefault(record["label"], {})[record["step"]] = dict(record)
    ordered = sorted(found.items(), key=lambda item: next(iter(item[1].values()))["num_images"])
    return {label: [by_step[step] for step in sorted(by_step)] for label, by_step in ordered}


def plot_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]], path: str | os.PathLike[str]) -> None:
    """One panel a curve: FID against the training step, ± its standard error where there is one. Needs matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError('plot: matplotlib is not installed, and curves need it: pip install "fidfast[report]"')
    if not curves:
        raise ValueError("plot: expected at least one evaluation, got none so far")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2.4 * len(curves) + 0.4), layout="constrained")
    panels = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (label, records) in zip(panels, curves.items(), strict=True):
        steps, values = [record["step"] for record in records], [record["fid"] for record in records]
        errors = [record.get("standard_error") or 0.0 for record in records]
        panel.errorbar(steps, values, yerr=errors if any(errors) else None, marker="o", markersize=3, capsize=2)
        best = min(records, key=lambda record: record["fid"])
        panel.plot([best["step"]], [best["fid"]], marker="*", markersize=10, linestyle="none", color="tab:green")
        panel.set_title(f"{label}: best {best['fid']:.4g} at step {best['step']:,}", fontsize="medium", loc="left")
        panel.set_ylabel(f"FID of {records[0]['num_images']:,} images")
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("training step")
    figure.savefig(path, dpi=120)


class Sinks:
    """Where numbers go besides the history: anything called with a dict, or with add_scalar(tag, value, step)."""

    def __init__(self, log: Any) -> None:
        self._sinks = [] if log is None else list(log) if isinstance(log, list | tuple) else [log]
        for sink in self._sinks:
            if not callable(sink) and not callable(getattr(sink, "add_scalar", None)):
                raise TypeError(
                    f"log: expected a callable that takes a dict, or an object with add_scalar(tag, value, step), got "
                    f"{type(sink).__name__}"
                )

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for sink in self._sinks:
            if callable(getattr(sink, "add_scalar", None)):
                for tag, value in numbers.items():
                    sink.add_scalar(tag, value, step)
            else:
                sink({**numbers, "step": step})
