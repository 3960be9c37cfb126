"""cleanfid.fid: its functions, their order of arguments, their defaults and what they print."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from fidfast import FeatureStatistics, StatisticsError
from fidfast.compat.cleanfid.extraction import (
    get_batch_features,
    get_files_features,
    get_folder_features,
    get_model_features,
)
from fidfast.compat.cleanfid.features import (
    CUDA,
    InceptionFeatures,
    build_feature_extractor,
    find_statistics,
    get_reference_statistics,
    statistics_folder,
    statistics_name,
)
from fidfast.compat.cleanfid.resize import FolderResizer, build_resizer, make_resizer
from fidfast.compat.cleanfid.utils import EXTENSIONS, ResizeDataset
from fidfast.compat.pytorch_fid.fid_score import calculate_frechet_distance as frechet_distance
from fidfast.frechet import statistics_distance
from fidfast.metrics.kid import kernel_distance as _kernel_distance
from fidfast.statistics_io import write_statistics

__all__ = ["EXTENSIONS", "FolderResizer", "ResizeDataset", "build_feature_extractor", "build_resizer",
           "compare_folders", "compute_fid", "compute_kid", "fid_folder", "fid_from_feats", "fid_model",
           "frechet_distance", "get_batch_features", "get_files_features", "get_folder_features", "get_model_features",
           "get_reference_statistics", "kernel_distance", "make_custom_stats", "make_resizer", "remove_custom_stats",
           "test_stats_exists"]  # fmt: skip

_Transform = Callable[[np.ndarray], np.ndarray] | None
_Generator = Callable[[Tensor], Tensor]


def kernel_distance(
    feats1: np.ndarray, feats2: np.ndarray, num_subsets: int = 100, max_subset_size: int = 1000
) -> float:
    """The KID of two sets of features (N, D), over subsets that numpy's global random state draws, as there."""
    size = min(len(feats1), len(feats2), max_subset_size)
    drawn = [
        [np.random.choice(len(feats), size, replace=False) for feats in (feats2, feats1)]  # noqa: NPY002
        for _ in range(num_subsets)
    ]
    second, first = (np.stack(indices) for indices in zip(*drawn, strict=True))
    return float(_kernel_distance(feats1, feats2, subsets=num_subsets, indices=(first, second)).mean)


def fid_from_feats(feats1: np.ndarray, feats2: np.ndarray) -> np.float64:
    """The Fréchet distance of two sets of features (N, D)."""
    return _distance(feats1, feats2)


def fid_folder(
    fdir: str,
    dataset_name: str,
    dataset_res: int,
    dataset_split: str,
    model: Any = None,
    mode: str = "clean",
    model_name: str = "inception_v3",
    num_workers: int = 12,
    batch_size: int = 128,
    device: Any = CUDA,
    verbose: bool = True,
    custom_image_tranform: _Transform = None,
    custom_fn_resize: _Transform = None,
) -> np.float64:
    """The FID of a folder against a named dataset's statistics."""
    reference = _reference(model, (dataset_name, dataset_res, dataset_split, model_name), mode)
    feats = get_folder_features(
        fdir,
        model,
        num_workers=num_workers,
        batch_size=batch_size,
        device=device,
        mode=mode,
        description=_description("FID", fdir),
        verbose=verbose,
        custom_image_tranform=custom_image_tranform,
        custom_fn_resize=custom_fn_resize,
    )
    return _distance(feats, reference)


def fid_model(
    G: _Generator,
    dataset_name: str,
    dataset_res: int,
    dataset_split: str,
    model: Any = None,
    model_name: str = "inception_v3",
    z_dim: int = 512,
    num_gen: int = 50_000,
    mode: str = "clean",
    num_workers: int = 0,
    batch_size: int = 128,
    device: Any = CUDA,
    verbose: bool = True,
    custom_image_tranform: _Transform = None,
    custom_fn_resize: _Transform = None,
) -> np.float64:
    """The FID of a generator against a named dataset's statistics."""
    reference = _reference(model, (dataset_name, dataset_res, dataset_split, model_name), mode)
    feats = get_model_features(
        G,
        model,
        mode=mode,
        z_dim=z_dim,
        num_gen=num_gen,
        batch_size=batch_size,
        device=device,
        verbose=verbose,
        custom_image_tranform=custom_image_tranform,
        custom_fn_resize=custom_fn_resize,
    )
    return _distance(feats, reference)


def compare_folders(
    fdir1: str,
    fdir2: str,
    feat_model: Any,
    mode: str,
    num_workers: int = 0,
    batch_size: int = 8,
    device: Any = CUDA,
    verbose: bool = True,
    custom_image_tranform: _Transform = None,
    custom_fn_resize: _Transform = None,
) -> np.float64:
    """The FID between two folders."""
    feats = [
        get_folder_features(
            fdir,
            feat_model,
            num_workers=num_workers,
            batch_size=batch_size,
            device=device,
            mode=mode,
            description=_description("FID", fdir),
            verbose=verbose,
            custom_image_tranform=custom_image_tranform,
            custom_fn_resize=custom_fn_resize,
        )
        for fdir in (fdir1, fdir2)
    ]
    return _distance(*feats)


def test_stats_exists(name: str, mode: str, model_name: str = "inception_v3", metric: str = "FID") -> bool:
    """Whether there are custom statistics of this name, in any case."""
    return find_statistics(statistics_name(name, mode, model_name, "custom", "na", metric)) is not None


test_stats_exists.__test__ = False  # type: ignore[attr-defined]  # a name that pytest would collect


def remove_custom_stats(name: str, mode: str = "clean", model_name: str = "inception_v3") -> None:
    """Delete the custom statistics of this name, those for FID and those for KID."""
    found = False
    for metric in ("FID", "KID"):
        file = statistics_name(name, mode, model_name, "custom", "na", metric)
        while (path := find_statistics(file)) is not None:  # ours, and those of an installed clean-fid
            path.unlink()
            found = True
    if not found:
        raise FileNotFoundError(f"The stats file {name} does not exist.")


def make_custom_stats(
    name: str,
    fdir: str,
    num: int | None = None,
    mode: str = "clean",
    model_name: str = "inception_v3",
    num_workers: int = 0,
    batch_size: int = 64,
    device: Any = CUDA,
    verbose: bool = True,
) -> None:
    """Keep the statistics and the features of a folder under a name, for dataset_name= with dataset_split="custom"."""
    check_model_name(model_name)
    if test_stats_exists(name, mode, model_name):
        raise FileExistsError(
            f"The statistics file {name} already exists. Use remove_custom_stats function to delete it first."
        )
    paths = {
        metric: statistics_folder() / statistics_name(name, mode, model_name, "custom", "na", metric)
        for metric in ("FID", "KID")
    }
    paths["FID"].parent.mkdir(parents=True, exist_ok=True)  # now, not after the work
    model = build_feature_extractor(mode, device)
    feats = get_folder_features(
        fdir,
        model,
        num_workers=num_workers,
        num=num,
        batch_size=batch_size,
        device=device,
        verbose=verbose,
        mode=mode,
        description=f"custom stats: {os.path.basename(fdir)} : ",
    )
    extractor = model.extractor
    statistics = FeatureStatistics(
        feats.shape[1], preset=extractor.preset, precision=extractor.precision, weights=extractor.identity
    )
    statistics.update(feats)
    print(f"saving custom FID stats to {paths['FID']}")
    statistics.save(paths["FID"])
    try:
        print(f"saving custom KID stats to {paths['KID']}")
        write_statistics(paths["KID"], {"feats": feats})
    except BaseException:  # both or none, an interruption too: one alone would count as made, and not be found for KID
        paths["FID"].unlink(missing_ok=True)
        raise


def compute_kid(
    fdir1: str | None = None,
    fdir2: str | None = None,
    gen: _Generator | None = None,
    mode: str = "clean",
    num_workers: int = 12,
    batch_size: int = 32,
    device: Any = CUDA,
    dataset_name: str = "FFHQ",
    dataset_res: int = 1024,
    dataset_split: str = "train",
    num_gen: int = 50_000,
    z_dim: int = 512,
    verbose: bool = True,
    use_dataparallel: bool = True,
) -> float:
    """The KID between two folders, or of a folder or generator against a folder or a named dataset."""
    return kernel_distance(
        *_sides(
            "KID",
            (fdir1, fdir2, gen),
            build_feature_extractor(mode, device, use_dataparallel),
            (dataset_name, dataset_res, dataset_split, "inception_v3"),
            {"num_gen": num_gen, "z_dim": z_dim},
            {"num_workers": num_workers},
            mode=mode,
            batch_size=batch_size,
            device=device,
            verbose=verbose,
        )
    )


def compute_fid(
    fdir1: str | None = None,
    fdir2: str | None = None,
    gen: _Generator | None = None,
    mode: str = "clean",
    model_name: str = "inception_v3",
    num_workers: int = 12,
    batch_size: int = 32,
    device: Any = CUDA,
    dataset_name: str = "FFHQ",
    dataset_res: int = 1024,
    dataset_split: str = "train",
    num_gen: int = 50_000,
    z_dim: int = 512,
    custom_feat_extractor: Any = None,
    verbose: bool = True,
    custom_image_tranform: _Transform = None,
    custom_fn_resize: _Transform = None,
    use_dataparallel: bool = True,
) -> np.float64:
    """The FID between two folders, or of a folder or generator against a folder or a named dataset."""
    model = custom_feat_extractor
    if model is None:
        check_model_name(model_name)
        model = build_feature_extractor(mode, device, use_dataparallel)
    return _distance(
        *_sides(
            "FID",
            (fdir1, fdir2, gen),
            model,
            (dataset_name, dataset_res, dataset_split, model_name),
            {"num_gen": num_gen, "z_dim": z_dim},
            {"num_workers": num_workers},
            mode=mode,
            batch_size=batch_size,
            device=device,
            verbose=verbose,
            custom_image_tranform=custom_image_tranform,
            custom_fn_resize=custom_fn_resize,
        )
    )


def check_model_name(model_name: str) -> None:
    if model_name != "inception_v3":
        raise ValueError(
            f"model_name: expected 'inception_v3', got {model_name!r}: fidfast has no CLIP; pass yours to compute_fid "
            "as custom_feat_extractor and custom_fn_resize"
        )


def _sides(
    metric: str,
    given: tuple[str | None, str | None, _Generator | None],
    model: Any,
    dataset: tuple[str, int, str, str],
    of_generator: dict[str, Any],
    of_files: dict[str, Any],
    **options: Any,
) -> tuple[Any, Any]:
    """What clean-fid compares, in its order: features (N, D) or, of a dataset, (mu, sigma)."""
    fdir1, fdir2, gen = given
    name, resolution, *_ = dataset
    if fdir1 is not None:
        what = "between two folders" if fdir2 is not None else f"of a folder with {name} statistics"
    elif gen is not None:
        of_dataset = f"of a model with {name}-{resolution} statistics"
        what = "of a model, using references in fdir2" if fdir2 is not None else of_dataset
    else:
        raise ValueError("invalid combination of directories and models entered")
    if options["verbose"]:
        print(f"compute {metric} {what}")

    def folder(fdir: str) -> np.ndarray:
        return get_folder_features(fdir, model, description=_description(metric, fdir), **of_files, **options)

    if fdir1 is not None and fdir2 is not None:
        return folder(fdir1), folder(fdir2)
    reference = folder(fdir2) if fdir2 is not None else _reference(model, dataset, options["mode"], metric)
    if gen is None or fdir1 is not None:
        return reference, folder(str(fdir1))
    return reference, get_model_features(gen, model, desc=f"{metric} model: ", **of_generator, **options)


def _reference(model: Any, dataset: tuple[str, int, str, str], mode: str, metric: str = "FID") -> Any:
    """A named dataset's statistics; of someone's own network they may have any number of features."""
    name, resolution, split, model_name = dataset
    reference = get_reference_statistics(
        name, resolution, mode=mode, model_name=model_name, seed=0, split=split, metric=metric
    )
    size = reference[0].shape[-1]  # of the mean, or of the first image's features
    if (model is None or isinstance(model, InceptionFeatures)) and size != 2048:
        raise StatisticsError(f"{name}: expected statistics of 2048 features, got {size}")
    return reference


def _description(metric: str, fdir: str) -> str:
    return f"{metric} {os.path.basename(fdir)} : "


def _distance(*sides: Any) -> np.float64:
    """Of two sides, each features (N, D) or (mu, sigma)."""
    first, second = (
        FeatureStatistics.from_moments(*side) if isinstance(side, tuple) else _statistics(side) for side in sides
    )
    return np.float64(statistics_distance(first, second).value)


def _statistics(feats: np.ndarray) -> FeatureStatistics:
    feats = np.asarray(feats)
    if feats.dtype == np.float64:  # of someone's own network: not to be rounded
        return FeatureStatistics.from_moments(feats.mean(axis=0), np.cov(feats, rowvar=False), len(feats))
    statistics = FeatureStatistics(feats.shape[1])
    statistics.update(feats)
    return statistics
