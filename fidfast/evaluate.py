"""One pass over the images of each side: decode, preprocess, network, statistics; then the distance."""

from __future__ import annotations

import os
import re
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from tqdm import tqdm

from fidfast import ops
from fidfast.duplicates import ContentHashes, count_duplicates, count_shared, describe_duplicates
from fidfast.features import CallableExtractor, FeatureExtractor, resolve_extractor
from fidfast.frechet import statistics_distance
from fidfast.images import ImagesError, ImageSource, open_images
from fidfast.preprocessing import get_preset
from fidfast.result import FidfastWarning, FIDResult
from fidfast.statistics import FeatureStatistics, StatisticsError, check_comparable, is_statistics_file

Extractor = FeatureExtractor | CallableExtractor


@dataclass
class _Side:
    """What one pass over one side leaves."""

    statistics: FeatureStatistics
    hashes: ContentHashes | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


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

    Returns:
        FIDResult: a float (≥ 0) that carries counts, settings, duplicates and timings.

    Raises:
        ImagesError, StatisticsError, WeightsError, ValueError, TypeError: naming the argument or file, what was
        expected and what came, before any long work where that is possible.
    """
    _check_choice("on_error", on_error, ("raise", "skip"))
    _check_positive("batch_size", batch_size)
    started = time.perf_counter()
    own_network = feature_extractor is not None
    extractor: Extractor | None = None
    sides: dict[str, _Side] = {}
    with ExitStack() as stack:
        sources: dict[str, ImageSource] = {}
        for name, images in (("real", real), ("generated", generated)):
            if _is_statistics(images):
                sides[name] = _Side(
                    _load_statistics(
                        images,
                        name,
                        preset=None if own_network else preset,
                        feature_dim=None if own_network else feature_dim,
                        allow_pickle=allow_pickle,
                    )
                )
            else:
                sources[name] = stack.enter_context(
                    _open(images, name, batch_size, num_workers, on_error, recursive, preset)
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
                        check_comparable(side.statistics, _empty_statistics(extractor, extractor.feature_dim))
            seconds = {"setup": time.perf_counter() - started}
            for name, source in sources.items():
                shift = sides["real"].statistics.mu if "real" in sides else None
                sides[name] = _collect(source, extractor, shift, value_range, quantize, progress)
        else:
            seconds = {"setup": time.perf_counter() - started}
    return _result(sides["real"], sides["generated"], extractor, seconds)


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
) -> FeatureStatistics:
    """Mean and covariance of the features of one image set, to be saved and compared later.

    The arguments are those of :func:`compute_fid`, and so are the errors. ``compute_statistics(x).save("x.npz")``
    writes a file that fidfast, pytorch-fid and the other tools take in the place of the images.
    """
    _check_choice("on_error", on_error, ("raise", "skip"))
    _check_positive("batch_size", batch_size)
    with _open(images, "images", batch_size, num_workers, on_error, recursive, preset) as source:
        extractor = resolve_extractor(
            feature_extractor,
            preset=preset,
            feature_dim=feature_dim,
            device=device,
            precision=precision,
            compile=compile,
            weights=weights,
        )
        side = _collect(source, extractor, None, value_range, quantize, progress)
    _warn(_side_notes("images", side))
    return side.statistics


def _is_statistics(images: Any) -> bool:
    if isinstance(images, FeatureStatistics):
        return True
    return isinstance(images, (str, os.PathLike)) and is_statistics_file(images)


def _load_statistics(
    images: Any, name: str, *, preset: str | None, feature_dim: int | None, allow_pickle: bool
) -> FeatureStatistics:
    if isinstance(images, FeatureStatistics):
        return images
    try:
        return FeatureStatistics.load(images, preset=preset, feature_dim=feature_dim, allow_pickle=allow_pickle)
    except StatisticsError as error:
        raise StatisticsError(f"{name}: {error}") from error


def _open(
    images: Any,
    name: str,
    batch_size: int,
    num_workers: int | None,
    on_error: Literal["raise", "skip"],
    recursive: bool,
    preset: str,
) -> ImageSource:
    source = open_images(
        images,
        batch_size=batch_size,
        num_workers=num_workers,
        on_error=on_error,
        recursive=recursive,
        preset=get_preset(preset).name,
        name=name,
    )
    if source.count is not None and source.count < 2:
        source.close()
        raise ImagesError(f"{name}: a covariance needs at least 2 images, got {source.count}")
    return source


def _empty_statistics(extractor: Extractor, feature_dim: int, shift: torch.Tensor | None = None) -> FeatureStatistics:
    return FeatureStatistics(
        feature_dim,
        shift=shift,
        preset=extractor.preset,
        precision=extractor.precision,
        weights=extractor.identity,
    )


def _chunks(source: Iterable[list[torch.Tensor]], size: int) -> Iterator[list[torch.Tensor]]:
    """Regroup batches into chunks of exactly ``size`` images: what the network computes never depends on batch_size."""
    pending: list[torch.Tensor] = []
    for batch in source:
        pending += batch
        while len(pending) >= size:
            yield pending[:size]
            del pending[:size]
    if pending:
        yield pending


def _collect(
    source: ImageSource,
    extractor: Extractor,
    shift: torch.Tensor | None,
    value_range: tuple[float, float] | None,
    quantize: Literal["round", "truncate"] | None,
    progress: bool,
) -> _Side:
    statistics: FeatureStatistics | None = None
    hashes = ContentHashes()
    seconds = dict.fromkeys(("decode", "preprocess", "network", "statistics"), 0.0)
    started = time.perf_counter()
    with tqdm(
        total=source.count,
        desc=source.name,
        unit=" images",
        disable=not progress or sys.stderr is None,
        file=sys.stderr,
        # a log file wants a line now and then, not a thousand
        mininterval=0.5 if sys.stderr is not None and sys.stderr.isatty() else 10.0,
    ) as bar:
        for images in _chunks(source, extractor.chunk_size):
            times = [time.perf_counter()]
            is_float = any(image.is_floating_point() for image in images)  # the other side may be uint8
            try:
                inputs, chunk_hashes = extractor.preprocess(
                    images, value_range=value_range if is_float else None, quantize=quantize, content_hash=True
                )
            except (ValueError, TypeError) as error:
                raise type(error)(f"{source.name}: {_with_places(str(error), len(hashes))}") from error
            times.append(time.perf_counter())
            features = extractor.network(inputs)  # (n, D) float32
            times.append(time.perf_counter())
            if shift is not None and len(shift) != features.shape[1]:
                raise StatisticsError(
                    f"{source.name}: the feature_dim differs: expected {len(shift)} as of the real side, "
                    f"got {features.shape[1]}"
                )
            if statistics is None:
                statistics = _empty_statistics(extractor, features.shape[1], shift)
            statistics.update(features)
            times.append(time.perf_counter())
            if chunk_hashes is not None:
                hashes.extend(chunk_hashes)
            for stage, begin, end in zip(("preprocess", "network", "statistics"), times, times[1:], strict=False):
                seconds[stage] += end - begin
            bar.update(len(images))
    seconds["decode"] = source.decode_seconds
    seconds["total"] = time.perf_counter() - started
    found = 0 if statistics is None else statistics.num_samples or 0
    if statistics is None or found < 2:
        raise ImagesError(f"{source.name}: a covariance needs at least 2 images, got {found}")
    return _Side(statistics, hashes, seconds, list(source.notes), list(source.skipped))


def _with_places(message: str, before: int) -> str:
    """``images[i]`` of a chunk → the image's place in its source, counting those that could be read."""
    return re.sub(r"images\[(\d+)\]", lambda found: f"images[{before + int(found[1])}]", message)


def _result(real: _Side, generated: _Side, extractor: Extractor | None, seconds: dict[str, float]) -> FIDResult:
    started = time.perf_counter()
    term = statistics_distance(generated.statistics, real.statistics)
    distance_seconds = time.perf_counter() - started
    for side in (real, generated):
        for stage, value in side.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + value
    seconds["distance"] = distance_seconds
    seconds["total"] = seconds["setup"] + seconds.get("total", 0.0) + distance_seconds

    duplicates: dict[str, Any] = {}
    notes: list[str] = []
    for name, side in (("real", real), ("generated", generated)):
        notes += _side_notes(name, side)
        if side.hashes is not None:
            duplicates[name] = count_duplicates(side.hashes)
    if real.hashes is not None and generated.hashes is not None:
        duplicates["shared"] = count_shared(generated.hashes, real.hashes)
    _warn(notes)
    metadata = generated.statistics.metadata
    return FIDResult(
        term.value,
        raw=term.raw,
        num_real=real.statistics.num_samples,
        num_generated=generated.statistics.num_samples,
        preset=metadata.preset,
        feature_dim=generated.statistics.feature_dim,
        precision=metadata.precision,
        device=str(extractor.device) if extractor is not None else "cpu",
        route=term.route,
        duplicates=duplicates,
        kernels={**ops.kernels(), **(extractor.kernels if extractor is not None else {})},
        seconds=seconds,
        notes=tuple(notes),
        skipped=tuple(real.skipped + generated.skipped),
        weights=metadata.weights,
    )


def _side_notes(name: str, side: _Side) -> list[str]:
    """What a careful reader should know of one side."""
    notes = [f"{name}: {note}" for note in side.notes]
    if side.skipped:
        number = f"{len(side.skipped)} unreadable image{'s were' if len(side.skipped) > 1 else ' was'}"
        notes.append(f"{name}: {number} skipped, first {side.skipped[0][0]}: {side.skipped[0][1]}")
    repeated = describe_duplicates(name, count_duplicates(side.hashes)) if side.hashes is not None else None
    return notes + ([] if repeated is None else [repeated])


def _warn(notes: Iterable[str]) -> None:
    for note in notes:
        warnings.warn(note, FidfastWarning, stacklevel=4)


def _check_choice(argument: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _check_positive(argument: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{argument} must be a whole number of at least 1, got {value!r}")
