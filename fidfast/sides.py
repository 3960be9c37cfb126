"""One side of an evaluation, from whatever the caller gave to what is to be said of it; all ranks together."""

from __future__ import annotations

import itertools
import os
import sys
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch

from fidfast import ops
from fidfast.accumulate import Accumulator, Extractor, Side, collect
from fidfast.distributed import Ranks
from fidfast.duplicates import count_duplicates, count_shared, describe_duplicates, num_effective, unique_hashes
from fidfast.error_bars import measure
from fidfast.images import ImagesError, ImageSource, open_images
from fidfast.preprocessing import get_preset
from fidfast.result import FidfastWarning, FIDResult
from fidfast.statistics import FeatureStatistics, StatisticsError, is_statistics_file

_meetings = itertools.count()  # every rank calls in the same order, and so meets the others of the same call


def is_statistics(images: Any) -> bool:
    if isinstance(images, FeatureStatistics):
        return True
    return isinstance(images, (str, os.PathLike)) and is_statistics_file(images)


def load_statistics(
    images: Any, name: str, *, preset: str | None, feature_dim: int | None, allow_pickle: bool
) -> FeatureStatistics:
    if isinstance(images, FeatureStatistics):
        return images
    try:
        return FeatureStatistics.load(images, preset=preset, feature_dim=feature_dim, allow_pickle=allow_pickle)
    except StatisticsError as error:
        raise StatisticsError(f"{name}: {error}") from error


def open_side(
    images: Any,
    name: str,
    batch_size: int,
    num_workers: int | None,
    on_error: Literal["raise", "skip"],
    recursive: bool,
    preset: str,
    ranks: Ranks,
    *,
    least: int = 2,
) -> ImageSource:
    source = open_images(
        images,
        batch_size=batch_size,
        num_workers=num_workers,
        on_error=on_error,
        recursive=recursive,
        preset=get_preset(preset).name,
        name=name,
        shard=(ranks.rank, ranks.size) if ranks.size > 1 else None,
    )
    if source.total is not None and source.total < least:
        source.close()
        raise ImagesError(f"{name}: a covariance needs at least 2 images, got {source.total}")
    return source


def empty_statistics(extractor: Extractor, feature_dim: int, shift: torch.Tensor | None = None) -> FeatureStatistics:
    return FeatureStatistics(
        feature_dim,
        shift=shift,
        preset=extractor.preset,
        precision=extractor.precision,
        weights=extractor.identity,
    )


def read_side(
    source: ImageSource,
    extractor: Extractor,
    accumulator: Accumulator,
    ranks: Ranks,
    *,
    value_range: tuple[float, float] | None,
    quantize: Literal["round", "truncate"] | None,
    progress: bool,
) -> Side:
    """One side from its images: this rank's pass over its share, then the sum of all ranks."""
    seconds = collect(
        source,
        extractor,
        accumulator,
        value_range=value_range,
        quantize=quantize,
        progress=progress,
        ranks=ranks,
    )
    side = join_side(source, extractor, accumulator, ranks)
    side.seconds = seconds
    return side


def join_side(source: ImageSource, extractor: Extractor, accumulator: Accumulator, ranks: Ranks) -> Side:
    """The side of all ranks from what each has collected of it."""
    if ranks.size == 1 and len(accumulator) < 2:
        raise ImagesError(f"{source.name}: a covariance needs at least 2 images, got {len(accumulator)}")
    meeting = f"evaluate/{next(_meetings)}" if ranks.size > 1 else ""
    agree = {
        "side": source.name,
        "preset": extractor.preset,
        "precision": extractor.precision,
        "weights": extractor.identity,
        "feature_dim": extractor.feature_dim,
        "number of images": source.total,
    }
    facts = ranks.meet(meeting, agree, accumulator.facts())
    side = accumulator.together(
        ranks, facts, lambda size: empty_statistics(extractor, size, accumulator.shift), source.name
    )
    said = ranks.exchange([list(source.notes), list(source.skipped)])
    ranks.leave(meeting)
    if side.hashes is not None:
        side.statistics.content_hashes = unique_hashes(np.concatenate(side.hashes))[0]
    side.notes = said[0][0]
    side.skipped = [tuple(pair) for _, skipped in said for pair in skipped]
    return side


def make_result(
    real: Side,
    generated: Side,
    extractor: Extractor | None,
    seconds: dict[str, float],
    ranks: Ranks,
    *,
    error_bars: bool = False,
    duplicates: dict[str, Any] | None = None,
    notes: Iterable[str] = (),
) -> FIDResult:
    """The distance of two sides and all that is to be said of it, the same on every rank.

    ``duplicates`` and ``notes``: what the caller already knows of the generated side.
    """
    started = time.perf_counter()
    measured = measure(real, generated, ranks, error_bars=error_bars)
    distance_seconds = time.perf_counter() - started
    seconds = add_seconds(seconds, (real, generated))
    seconds["distance"] = distance_seconds
    seconds["total"] += distance_seconds

    counted: dict[str, Any] = {}
    said = list(notes)
    for name, side in (("real", real), ("generated", generated)):
        if side.hashes is not None and not (name == "generated" and duplicates is not None):
            counted[name] = count_duplicates(np.concatenate(side.hashes))
            said += side_notes(name, side)
    if duplicates is not None:
        counted["generated"] = duplicates
    effective, images, others = None, generated.all_hashes, real.all_hashes
    if generated.hashes is not None and images is not None:
        effective = num_effective(unique_hashes(images)[1])
        if others is not None:
            counted["shared"] = count_shared(images, others)
    warn_of(said, ranks)
    metadata = generated.statistics.metadata
    where = str(extractor.device) if extractor is not None else "cpu"
    kernels = {**ops.kernels(where), **(extractor.kernels if extractor is not None else {})}
    where, kernels, seconds = ranks.exchange([where, kernels, seconds])[0]
    return FIDResult(
        measured.value,
        raw=measured.raw,
        num_real=real.statistics.num_samples,
        num_generated=generated.statistics.num_samples,
        preset=metadata.preset,
        feature_dim=generated.statistics.feature_dim,
        precision=metadata.precision,
        device=where,
        route=measured.route,
        error_bound=measured.error_bound,
        duplicates=counted,
        kernels=kernels,
        seconds=seconds,
        notes=tuple(said if measured.note is None else [*said, measured.note]),
        skipped=tuple(real.skipped + generated.skipped),
        weights=metadata.weights,
        standard_error=measured.standard_error,
        corrected=measured.corrected,
        floor=measured.floor,
        num_effective=effective,
    )


def add_seconds(seconds: Mapping[str, float], sides: Iterable[Side]) -> dict[str, float]:
    """The seconds of each stage, set-up and both passes together; "total" is their sum by the clock."""
    found = dict(seconds)
    for side in sides:
        for stage, value in side.seconds.items():
            found[stage] = found.get(stage, 0.0) + value
    found["total"] = seconds["setup"] + found.get("total", 0.0)
    return found


def side_notes(name: str, side: Side) -> list[str]:
    """What a careful reader should know of one side."""
    notes = [f"{name}: {note}" for note in side.notes]
    notes += skipped_notes(name, side.skipped)
    if side.hashes is not None:
        repeated = describe_duplicates(name, count_duplicates(np.concatenate(side.hashes)))
        notes += [] if repeated is None else [repeated]
    return notes


def skipped_notes(name: str, skipped: Sequence[tuple[str, str]]) -> list[str]:
    if not skipped:
        return []
    number = f"{len(skipped)} unreadable image{'s were' if len(skipped) > 1 else ' was'}"
    return [f"{name}: {number} skipped, first {skipped[0][0]}: {skipped[0][1]}"]


def warn_of(notes: Iterable[str], ranks: Ranks) -> None:
    """Once, not on every rank, at the line of the caller's own that led here."""
    frame: FrameType | None = sys._getframe()
    level = 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "fidfast":
        level, frame = level + 1, frame.f_back
    for note in notes if ranks.rank == 0 else ():
        warnings.warn(note, FidfastWarning, stacklevel=level)


def check_choice(argument: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_positive(argument: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{argument} must be a whole number of at least 1, got {value!r}")
