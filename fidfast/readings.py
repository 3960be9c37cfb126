"""What a report is made of: training histories, saved results and sets of images, read and named."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fidfast.gallery import ImageSet
from fidfast.training_history import curves_of, read_history


@dataclass(frozen=True)
class Reading:
    """One FID as a history or a result file tells it; ``run`` names the file, ``label`` the curve."""

    run: str
    label: str
    fid: float
    step: int | None = None
    num_images: int | None = None
    standard_error: float | None = None
    corrected: float | None = None
    floor: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    images: Path | None = None
    others: Mapping[str, float] = field(default_factory=dict)  # metrics beside the FID, by name

    @property
    def where(self) -> str:
        return self.run if self.step is None else f"step {self.step:,}"

    @property
    def name(self) -> str:
        return self.label if self.step is None else f"{self.label} at {self.where}"

    @property
    def value(self) -> str:
        return f"{self.fid:.2f}" + ("" if self.standard_error is None else f" ± {self.standard_error:.2f}")


@dataclass(frozen=True)
class Run:
    """A training history: its curves by label, and its other lines."""

    name: str
    curves: Mapping[str, Sequence[Reading]]
    records: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Inputs:
    """All that a report is made of; the reference images, if any, are the last of the sets."""

    runs: Sequence[Run] = ()
    results: Sequence[Reading] = ()
    sets: Sequence[ImageSet] = ()
    has_real: bool = False


def read_inputs(
    inputs: Iterable[str | os.PathLike[str]],
    real: str | os.PathLike[str] | None,
    *,
    value_range: tuple[float, float] | None,
    progress: bool,
) -> Inputs:
    """The histories and results first: they are quick, and what is wrong with them is said before images are read."""
    histories: list[Path] = []
    results: list[Reading] = []
    images: list[Path] = []
    for path in map(Path, inputs):
        if not path.exists():
            raise ValueError(f"{path} does not exist: expected a history, a result or a set of images")
        within = [file for file in sorted(path.glob("*.jsonl")) if _is_history(file)] if path.is_dir() else []
        if within or path.suffix == ".jsonl":
            histories += within or [path]
        elif path.suffix == ".json":
            results += read_results(path)
        else:
            images.append(path)
    names = _short_names(histories)
    runs = [read_run(path, name) for path, name in zip(histories, names, strict=True)]
    if real is not None:
        images.append(Path(real))
    called = [path.name for path in images]
    called = called if len(set(called)) == len(images) else [str(path) for path in images]
    sets = [
        ImageSet(path, name=name, value_range=value_range, progress=progress)
        for path, name in zip(images, called, strict=True)
    ]
    return Inputs(runs, results, sets, real is not None)


def read_run(path: Path, name: str) -> Run:
    """A history that a TrainingEvaluator wrote."""
    records = read_history(path)
    try:
        found = curves_of(records)
        curves = {
            label: [
                _reading(name, label, row["fid"], row.get("num_images"), row, row.get("result"),
                         step=int(row["step"]), images=_beside(path, row.get("images")))
                for row in rows
            ]
            for label, rows in found.items()
        }  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: an evaluation is not as fidfast.TrainingEvaluator writes it: {reason}") from error
    return Run(name, curves, records)


def read_results(path: Path) -> list[Reading]:
    """What ``fidfast --json`` printed: one object, a list of such, or one a line."""
    text = path.read_text(encoding="utf-8")
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        try:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: expected JSON, as fidfast --json prints it: {error}") from error
    results = found if isinstance(found, list) else [found]
    readings = []
    for index, result in enumerate(results):
        others: dict[str, float] = {}
        if isinstance(result, Mapping) and isinstance(result.get("fid"), Mapping):  # of --metrics
            others = _other_metrics(result)
            result = {**result["fid"], "seconds": result.get("seconds")}
        fid = result.get("fid") if isinstance(result, Mapping) else None
        if not isinstance(fid, (int, float)) or isinstance(fid, bool) or not math.isfinite(fid):
            kind = f"an object with the keys {', '.join(map(str, result))}" if isinstance(result, Mapping) else result
            raise ValueError(f"{path}: expected the result of fidfast --json, which has a number 'fid', got {kind}")
        name = path.stem if len(results) == 1 else f"{path.stem} {index + 1}"
        try:
            readings.append(_reading(name, name, fid, result.get("num_generated"), result, result, others=others))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: not as fidfast --json prints it: {error}") from error
    return readings


def _reading(
    run: str,
    label: str,
    fid: Any,
    num_images: Any,
    row: Mapping[str, Any],
    result: Any,
    *,
    step: int | None = None,
    images: Path | None = None,
    others: Mapping[str, float] | None = None,
) -> Reading:
    """With every field of the kind that it must have, whatever stands in the file."""
    error, corrected, floor = (
        None if row.get(name) is None else _finite(row[name]) for name in ("standard_error", "corrected", "floor")
    )
    return Reading(
        run,
        str(label),
        _finite(fid),
        step=step,
        num_images=None if num_images is None else int(num_images),
        standard_error=error,
        corrected=corrected,
        floor=floor,
        seconds={str(name): _finite(value) for name, value in dict(row.get("seconds") or {}).items()},
        result=dict(result or {}),
        images=images,
        others=others or {},
    )


def _other_metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of the metrics beside the FID, named as the command prints them."""
    found: dict[str, float] = {}
    for metric, value in results.items():
        if isinstance(value, float) and metric != "fid":
            found[metric] = _finite(value)
        elif isinstance(value, Mapping) and metric not in ("fid", "seconds"):
            prefix = "" if metric == "prdc" else f"{metric}_"
            found |= {f"{prefix}{name}": _finite(part) for name, part in value.items() if isinstance(part, float)}
    return found


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value!r}")
    return float(value)


def _is_history(path: Path) -> bool:
    with open(path, "rb") as file:
        return b'"event"' in file.readline(10_000)


def read_picture(path: Path) -> np.ndarray:  # (H, W, 3) uint8
    """A grid of samples that a history names."""
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def _beside(history: Path, name: str | None) -> Path | None:
    """The picture that a history names, which stands beside it or below; None where it is no more."""
    if not name:
        return None
    folder = history.resolve().parent
    path = (folder / name).resolve()
    return path if path.is_relative_to(folder) and path.is_file() else None


def _short_names(paths: Sequence[Path]) -> list[str]:
    """What tells the runs apart: the folder where the files are named alike, else the file."""
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(paths):
        return stems
    folders = [path.resolve().parent.name for path in paths]
    return folders if len(set(folders)) == len(paths) else [str(path) for path in paths]
