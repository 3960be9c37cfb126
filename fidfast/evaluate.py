"""One pass over the images of each side: decode, preprocess, network, statistics; then the distance."""

from __future__ import annotations

import itertools
import os
import time
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, Literal

import numpy as np
import torch

from fidfast import ops
from fidfast.accumulate import Accumulator, Extractor, Side, collect
from fidfast.distributed import Ranks
from fidfast.duplicates import count_duplicates, count_shared, describe_duplicates, num_effective, unique_hashes
from fidfast.error_bars import GROUPS, measure
from fidfast.features import resolve_extractor
from fidfast.images import ImagesError, ImageSource, open_images
from fidfast.preprocessing import get_preset
from fidfast.result import FidfastWarning, FIDResult
from fidfast.statistics import FeatureStatistics, StatisticsError, check_comparable, is_statistics_file

_meetings = itertools.count()  # every rank calls in the same order, and so meets the others of the same call


def compute_fid(
    real: Any,
    generated: Any,
    *,
    preset: str = "pytorch-fid",
    feature_dim: int = 2048,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    precision: str = "fp32",
    compile: bool = False,
    num_workers: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    progress: bool = True,
    feature_extractor: Any = None,
    value_range: tuple[float, float] | None = None,
    quantize: Literal["round", "truncate"] | None = "round",
    recursive: bool = True,
    allow_pickle: bool = False,
    error_bars: bool = False,
    all_ranks: bool = False,
) -> FIDResult:
    """The Fréchet Inception Distance between two image sets (Heusel et al. 2017, arXiv:1706.08500).

    Each side is any of: a folder, a list of paths, a ``.zip``, ``.tar``, ``.npz`` (``arr_0``) or ``.npy`` file of
    images, a uint8 tensor (N, 3, H, W) or array (N, H, W, 3), a torch ``Dataset`` or ``DataLoader``, any iterable of
    images or batches, a statistics file of fidfast or another tool, or a :class:`FeatureStatistics`. Sizes may differ.

    Args:
        preset: preprocessing, and thereby whose number this is: see :data:`fidfast.PRESETS`.
        feature_dim: 64, 192, 768 or 2048, as in pytorch-fid.
        batch_size: images decoded at a time; the result does not depend on it.
        device: where the network runs; default: CUDA when torch has it, else the CPU.
        precision: of the network: "fp32", "tf32", "fp16", "bf16" or "auto".
        compile: run the network through torch.compile: seconds of compilation, then more images a second.
        num_workers: decoding processes; 0 decodes in this one; default: by the source and the machine.
        weights: the weight file; default: see :func:`fidfast.weights.find_weights`.
        on_error: "skip" leaves unreadable images out and lists them in the result.
        progress: a progress bar on standard error.
        feature_extractor: any module or callable, uint8 images (N, 3, H, W) → features (N, D), in the network's place.
        value_range: (0, 1) or (-1, 1): of float images, on either side; it does not touch uint8 ones.
        quantize: what becomes of float images: rounded to 8 bits ("round"), "truncate"d, or None (left as they are).
        recursive: also read the subfolders of a folder.
        allow_pickle: read statistics files that are pickles. Loading a pickle runs code: only for files you trust.
        error_bars: also the standard error, the value without the bias of a finite n, and the floor of a perfect
            model, where n ≥ 5·D; takes 10 covariances of memory (335 MB at D = 2048) and 11 distances of time.
        all_ranks: every rank of torch.distributed's process group calls this, takes its share of the images (the i-th,
            counted from its rank, of every world_size; an iterable must give each rank all of them) and returns the
            same result.

    Returns:
        FIDResult: a float (≥ 0) that carries counts, settings, duplicates and timings.

    Raises:
        ImagesError, StatisticsError, WeightsError, ValueError, TypeError: naming the argument or file, what was
        expected and what came, before any long work where that is possible.
    """
    check_choice("on_error", on_error, ("raise", "skip"))
    _check_positive("batch_size", batch_size)
    started = time.perf_counter()
    own_network = feature_extractor is not None
    extractor: Extractor | None = None
    sides: dict[str, Side] = {}
    ranks = Ranks(alone=not all_ranks)
    with ExitStack() as stack:
        sources: dict[str, ImageSource] = {}
        for name, images in (("real", real), ("generated", generated)):
            if is_statistics(images):
                sides[name] = Side(
                    load_statistics(
                        images,
                        name,
                        preset=None if own_network else preset,
                        feature_dim=None if own_network else feature_dim,
                        allow_pickle=allow_pickle,
                    )
                )
            else:
                sources[name] = stack.enter_context(
                    open_side(images, name, batch_size, num_workers, on_error, recursive, preset, ranks)
                )
        if sources:
            extractor = resolve_extractor(
                feature_extractor,
                preset=preset,
                feature_dim=feature_dim,
                device=device,
                precision=precision,
                compile=compile,
                weights=weights,
            )
            if extractor.feature_dim is not None:  # a caller's own extractor shows it with the first features only
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # said once, with the distance
                    for side in sides.values():
                        check_comparable(side.statistics, empty_statistics(extractor, extractor.feature_dim))
            seconds = {"setup": time.perf_counter() - started}
            for name, source in sources.items():
                shift = sides["real"].statistics.mu if "real" in sides else None
                accumulator = Accumulator(groups=GROUPS if error_bars and name == "generated" else 1, shift=shift)
                sides[name] = read_side(
                    source, extractor, accumulator, ranks, value_range=value_range, quantize=quantize, progress=progress
                )
        else:
            seconds = {"setup": time.perf_counter() - started}
    return make_result(sides["real"], sides["generated"], extractor, seconds, ranks, error_bars=error_bars)


def compute_statistics(
    images: Any,
    *,
    preset: str = "pytorch-fid",
    feature_dim: int = 2048,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    precision: str = "fp32",
    compile: bool = False,
    num_workers: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    progress: bool = True,
    feature_extractor: Any = None,
    value_range: tuple[float, float] | None = None,
    quantize: Literal["round", "truncate"] | None = "round",
    recursive: bool = True,
    all_ranks: bool = False,
) -> FeatureStatistics:
    """Mean and covariance of the features of one image set, to be saved and compared later.

    The arguments are those of :func:`compute_fid`, and so are the errors. ``compute_statistics(x).save("x.npz")``
    writes a file that fidfast, pytorch-fid and the other tools take in the place of the images.
    """
    check_choice("on_error", on_error, ("raise", "skip"))
    _check_positive("batch_size", batch_size)
    ranks = Ranks(alone=not all_ranks)
    with open_side(images, "images", batch_size, num_workers, on_error, recursive, preset, ranks) as source:
        extractor = resolve_extractor(
            feature_extractor,
            preset=preset,
            feature_dim=feature_dim,
            device=device,
            precision=precision,
            compile=compile,
            weights=weights,
        )
        side = read_side(
            source, extractor, Accumulator(), ranks, value_range=value_range, quantize=quantize, progress=progress
        )
    warn_of(_side_notes("images", side), ranks)
    return side.statistics


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
    if source.total is not None and source.total < 2:
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
    side.seconds = seconds
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
    for side in (real, generated):
        for stage, value in side.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + value
    seconds["distance"] = distance_seconds
    seconds["total"] = seconds["setup"] + seconds.get("total", 0.0) + distance_seconds

    counted: dict[str, Any] = {}
    said = list(notes)
    for name, side in (("real", real), ("generated", generated)):
        if side.hashes is not None and not (name == "generated" and duplicates is not None):
            counted[name] = count_duplicates(np.concatenate(side.hashes))
            said += _side_notes(name, side)
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


def _side_notes(name: str, side: Side) -> list[str]:
    """What a careful reader should know of one side."""
    notes = [f"{name}: {note}" for note in side.notes]
    if side.skipped:
        number = f"{len(side.skipped)} unreadable image{'s were' if len(side.skipped) > 1 else ' was'}"
        notes.append(f"{name}: {number} skipped, first {side.skipped[0][0]}: {side.skipped[0][1]}")
    if side.hashes is not None:
        repeated = describe_duplicates(name, count_duplicates(np.concatenate(side.hashes)))
        notes += [] if repeated is None else [repeated]
    return notes


def warn_of(notes: Iterable[str], ranks: Ranks) -> None:
    """Once, not on every rank."""
    for note in notes if ranks.rank == 0 else ():
        warnings.warn(note, FidfastWarning, stacklevel=4)


def check_choice(argument: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _check_positive(argument: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{argument} must be a whole number of at least 1, got {value!r}")
