"""One pass over the images of each side: decode, preprocess, network, statistics; then the distance and its fellows."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor

from fidfast.accumulate import Accumulator, Extractor, collect
from fidfast.distributed import Ranks
from fidfast.error_bars import GROUPS
from fidfast.features import resolve_extractor
from fidfast.images import ImagesError, ImageSource
from fidfast.inception import TAPS
from fidfast.kept_features import RowsOnly, TapAccumulator
from fidfast.measures import (
    METRICS,
    EvaluationResult,
    MeasureOptions,
    check_counts,
    check_metrics,
    check_sources,
    kept_taps,
    main_tap,
    measure_all,
    taps_of,
)
from fidfast.result import FIDResult
from fidfast.sides import (
    Side,
    add_seconds,
    check_choice,
    check_positive,
    empty_statistics,
    is_statistics,
    join_side,
    load_statistics,
    make_result,
    open_side,
    read_side,
    side_notes,
    skipped_notes,
    warn_of,
)
from fidfast.statistics import FeatureStatistics, check_comparable

__all__ = ["METRICS", "compute_features", "compute_fid", "compute_statistics", "evaluate"]


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
    evaluation = evaluate(
        real,
        generated,
        metrics=("fid",),
        preset=preset,
        feature_dim=feature_dim,
        batch_size=batch_size,
        device=device,
        precision=precision,
        compile=compile,
        num_workers=num_workers,
        weights=weights,
        on_error=on_error,
        progress=progress,
        feature_extractor=feature_extractor,
        value_range=value_range,
        quantize=quantize,
        recursive=recursive,
        allow_pickle=allow_pickle,
        error_bars=error_bars,
        all_ranks=all_ranks,
    )
    result: FIDResult = evaluation["fid"]
    return result


def evaluate(
    real: Any,
    generated: Any,
    *,
    metrics: Sequence[str] = ("fid",),
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
    kid_subsets: int | None = 100,
    kid_subset_size: int = 1000,
    splits: int | Sequence[int] = 10,
    pr_neighbours: int = 3,
    dc_neighbours: int = 5,
    max_features: int | None = None,
    seed: int = 2020,
) -> EvaluationResult:
    """Several measures of generated images from one pass over each side: the network sees every image once.

    ============  ===============================================================  ==========================
    ``metrics``   value                                                            reads
    ============  ===============================================================  ==========================
    ``"fid"``     :class:`FIDResult`                                               both sides, or statistics
    ``"kid"``     :func:`fidfast.metrics.kid.kernel_distance`                      both sides
    ``"prdc"``    :func:`fidfast.metrics.prdc.prdc`                                both sides
    ``"sfid"``    FID of the "spatial" features (Nash et al. 2021), a float        both sides
    ``"is"``      :func:`fidfast.metrics.inception_score.inception_score`          generated
    ============  ===============================================================  ==========================

    Memory: FID and sFID need the same for any number of images. KID and PRDC keep every image's features, float32, on
    the device of the network: N · 2048 · 4 bytes a side (410 MB for 50 000 images), the Inception Score N · 1008 · 4
    of the generated side; the features of all ranks then meet on each. ``max_features`` bounds N.

    Args:
        metrics: which; ``real`` may be None where only "is" is wanted.
        feature_dim: of the features that FID, KID and PRDC are of.
        feature_extractor: as for :func:`compute_fid`, for "fid", "kid" and "prdc". A :class:`FeatureExtractor` must
            have the taps that the metrics need.
        kid_subsets, kid_subset_size: KID's; of a side with fewer images the subsets are as large as it is, which the
            notes say. ``kid_subsets=None`` is the exact unbiased value over all samples.
        splits: the Inception Score's.
        pr_neighbours, dc_neighbours: k of precision and recall, and of density and coverage.
        max_features: KID, PRDC and the Inception Score take at most so many images of a side, drawn by ``seed``.
        seed: of KID's subsets, the Inception Score's shuffle and the draw of ``max_features``.

    The other arguments, what each side may be, and the errors are those of :func:`compute_fid`. Also
    FinalLayerError, before any long work, where the Inception Score is wanted and the weights lack the final layer.
    """
    check_choice("on_error", on_error, ("raise", "skip"))
    check_positive("batch_size", batch_size)
    wanted = check_metrics(metrics, feature_extractor)
    options = MeasureOptions(kid_subsets, kid_subset_size, splits, pr_neighbours, dc_neighbours, max_features, seed)
    given = {"real": real, "generated": generated}
    if set(wanted) == {"is"}:
        del given["real"]
    check_sources(wanted, given)
    started = time.perf_counter()
    extractor: Extractor | None = None
    main = ""
    sides: dict[str, Side] = {}
    spatial: dict[str, Side] = {}
    rows: dict[str, dict[str, Tensor]] = {}
    ranks = Ranks(alone=not all_ranks)
    with ExitStack() as stack:
        sources: dict[str, ImageSource] = {}
        for name, images in given.items():
            if is_statistics(images):
                own = feature_extractor is not None
                sides[name] = Side(
                    load_statistics(
                        images,
                        name,
                        preset=None if own else preset,
                        feature_dim=None if own else feature_dim,
                        allow_pickle=allow_pickle,
                    )
                )
            else:
                sources[name] = stack.enter_context(
                    open_side(images, name, batch_size, num_workers, on_error, recursive, preset, ranks)
                )
        check_counts(wanted, {name: source.total for name, source in sources.items()}, options)
        if sources:
            extractor = resolve_extractor(
                feature_extractor,
                preset=preset,
                feature_dim=feature_dim,
                device=device,
                precision=precision,
                compile=compile,
                weights=weights,
                taps=None if feature_extractor is not None else taps_of(wanted, feature_dim),
            )
            main = main_tap(wanted, extractor, feature_dim)
            width = extractor.feature_dim if main == "features" else TAPS[main][1]
            if width is not None:  # a caller's own extractor shows it with the first features only
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # said once, with the distance
                    for side in sides.values():
                        check_comparable(side.statistics, empty_statistics(extractor, width))
            seconds = {"setup": time.perf_counter() - started}
            for name, source in sources.items():
                accumulator = TapAccumulator(
                    extractor.split,
                    main,
                    keep=kept_taps(wanted, name, main),
                    cap=max_features,
                    seed=seed,
                    spatial=Accumulator(shift=_mean(spatial.get("real"))) if "sfid" in wanted else None,
                    groups=GROUPS if error_bars and "fid" in wanted and name == "generated" else 1,
                    shift=_mean(sides.get("real")),
                )
                sides[name] = read_side(
                    source, extractor, accumulator, ranks, value_range=value_range, quantize=quantize, progress=progress
                )
                if accumulator.spatial is not None:
                    spatial[name] = join_side(source, extractor, accumulator.spatial, ranks)
                rows[name] = {tap: kept.all_ranks(ranks) for tap, kept in accumulator.kept.items()}
        else:
            seconds = {"setup": time.perf_counter() - started}
    values: dict[str, Any] = {}
    if "fid" in wanted:
        result = make_result(sides["real"], sides["generated"], extractor, seconds, ranks, error_bars=error_bars)
        values["fid"], seconds, notes = result, dict(result.seconds), list(result.notes)
    else:
        notes = [note for name, side in sides.items() for note in side_notes(name, side)]
        warn_of(notes, ranks)
        seconds = add_seconds(seconds, sides.values())
    measured, own_seconds, more = measure_all(wanted, rows, spatial, main, options, ranks)
    warn_of(more, ranks)
    seconds = ranks.exchange({**seconds, **own_seconds, "total": seconds["total"] + sum(own_seconds.values())})[0]
    counts = {name: side.statistics.num_samples for name, side in sides.items()}
    return EvaluationResult(
        {metric: {**values, **measured}[metric] for metric in wanted},
        num_real=counts.get("real"),
        num_generated=counts["generated"],
        seconds=seconds,
        notes=[*notes, *more],
    )


def _mean(side: Side | None) -> Tensor | None:
    return None if side is None else side.statistics.mu


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
    check_positive("batch_size", batch_size)
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
        accumulator = TapAccumulator(extractor.split, main_tap({"fid": None}, extractor, feature_dim))
        side = read_side(
            source, extractor, accumulator, ranks, value_range=value_range, quantize=quantize, progress=progress
        )
    warn_of(side_notes("images", side), ranks)
    return side.statistics


def compute_features(
    images: Any,
    *,
    taps: Sequence[str] = ("2048",),
    preset: str = "pytorch-fid",
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
) -> dict[str, Tensor]:
    """Features of every image of one set, tap → (N, D) float32 on the network's device, in the order of the source.

    Args:
        taps: any of "64", "192", "768", "2048", "spatial" (sFID's, D = 2023), "logits_unbiased" and "logits" (1008
            classes; they need weights with the final layer), from one run of the network.
        feature_extractor: a module or callable, whose features come as "features", or a :class:`FeatureExtractor`
            made before, whose taps come.

    The other arguments are those of :func:`compute_fid`, and so are the errors. Memory: N · D · 4 bytes a tap.
    """
    check_choice("on_error", on_error, ("raise", "skip"))
    check_positive("batch_size", batch_size)
    ranks = Ranks(alone=True)
    with open_side(images, "images", batch_size, num_workers, on_error, recursive, preset, ranks, least=1) as source:
        extractor = resolve_extractor(
            feature_extractor,
            preset=preset,
            device=device,
            precision=precision,
            compile=compile,
            weights=weights,
            taps=taps,
        )
        rows = RowsOnly()
        collect(source, extractor, rows, value_range=value_range, quantize=quantize, progress=progress, ranks=ranks)
        if not len(rows):
            raise ImagesError("images: expected at least 1 image, got 0")
        warn_of([*(f"images: {note}" for note in source.notes), *skipped_notes("images", source.skipped)], ranks)
    return {tap: part.contiguous() for tap, part in extractor.split(torch.cat(rows.rows)).items()}
