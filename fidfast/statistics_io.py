"""Statistics files: ours, and those of every tool that fidfast replaces; written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from fidfast.metadata import StatisticsMetadata, parse_metadata
from fidfast.moments import StatisticsError, check_moments

# (mean, covariance) as each tool calls them. ADM's files hold mu_s, sigma_s (sFID) beside mu, sigma, FD-loss's avg_mu,
# avg_sigma: those are other statistics and are left alone.
_MOMENT_KEYS = (
    ("mu", "sigma"),  # pytorch-fid, clean-fid, TTUR, EDM, ADM, torch-fidelity forks, fidfast
    ("m2", "s2"),  # denoising-diffusion-pytorch
    ("mean", "cov"),  # mmgeneration
)
_COUNT_KEYS = ("num_samples", "num_images", "num_items", "size")
_FIRST_MEMBERS = tuple(f"{key}.npy".encode() for pair in _MOMENT_KEYS for key in pair)


@dataclass(frozen=True)
class StoredStatistics:
    """What a statistics file holds."""

    mu: Tensor  # (D,) float64
    sigma: Tensor  # (D, D) float64, unbiased
    num_samples: int | None
    features: Tensor | None  # (n, D) float32
    metadata: StatisticsMetadata | None
    content_hashes: np.ndarray | None = None  # (U, 2) int64, of the images behind them


def is_statistics_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds statistics rather than images, by its name and the names of its arrays; reads no array."""
    path = Path(path)
    if not path.is_file():
        return False
    if path.suffix.lower() in (".pkl", ".pickle"):
        return True
    if path.suffix.lower() != ".npz":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError):
        # A truncated file has lost its directory; the name of its first array still stands at byte 30.
        with path.open("rb") as file:
            head = file.read(64)
        return head.startswith(b"PK\x03\x04") and head[30:].startswith(_FIRST_MEMBERS)
    if {"mu", "sigma"} <= names:  # ADM's reference files hold images (arr_0) too; its own tool takes their statistics
        return True
    return "arr_0" not in names and any(key in names for pair in _MOMENT_KEYS for key in pair)


def read_statistics(path: str | os.PathLike[str], *, allow_pickle: bool = False) -> StoredStatistics:
    """Read a statistics file of fidfast or another tool.

    Args:
        path: an ``.npz`` with (mu, sigma), (m2, s2) or (mean, cov); with ``allow_pickle`` also the pickles of
            mmgeneration (mean, cov), StyleGAN (raw_mean, raw_cov, num_items: made unbiased) and EDM2 ({"num_images",
            "fid": {"mu", "sigma"}}).
        allow_pickle: a pickle can run any code when it is loaded, so the caller must ask for it.

    Raises:
        StatisticsError: naming the file and key.
    """
    path = Path(path)
    if not path.is_file():
        raise StatisticsError(f"{path}: expected a statistics file, but there is {_what_is(path)}")
    with path.open("rb") as file:
        head = file.read(4)
    if not head:
        raise StatisticsError(f"{path}: expected a statistics file, got an empty one (0 bytes)")
    values: Mapping[str, Any] = _read_npz(path) if head.startswith(b"PK") else _read_pickle(path, head, allow_pickle)
    return _interpret(values, path)


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new file beside this one, renamed to it at the end: an error or interruption leaves the old file or none."""
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():  # /dev/null would become a file
        raise OSError(f"{path} is there, and no regular file")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_statistics(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> Path:
    """Write an ``.npz``, whole or not at all."""
    path = Path(os.path.realpath(path))
    if path.suffix != ".npz":
        raise StatisticsError(
            f"{path}: expected a file name that ends in .npz, which is how every tool knows statistics"
        )
    if not path.parent.is_dir():
        raise StatisticsError(f"{path}: the folder {path.parent} does not exist")
    try:
        # not np.savez, which stamps the time on its arrays: equal statistics make equal files
        with written_whole(path) as file, zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
    except OSError as error:
        raise StatisticsError(f"{path}: the statistics could not be written ({error})") from error
    return path


def _what_is(path: Path) -> str:
    return "a folder" if path.is_dir() else "nothing of that name"


def _read_npz(path: Path) -> Mapping[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)
            wanted = [name for name in names if name in _WANTED and (name not in _OURS or "fidfast" in names)]
            if not wanted:
                return dict.fromkeys(names)
            values: dict[str, Any] = {}
            for name in wanted:
                try:
                    values[name] = archive[name]
                except Exception as error:  # truncated, corrupt, an object array: numpy and zlib raise what they like
                    raise StatisticsError(f"{path}: {name} cannot be read ({error})") from error
            return values
    except StatisticsError:
        raise
    except Exception as error:
        raise StatisticsError(f"{path}: not a readable .npz file: truncated or damaged ({error})") from error


def _read_pickle(path: Path, head: bytes, allow_pickle: bool) -> Mapping[str, Any]:
    is_pickle = head[:1] == b"\x80" or path.suffix.lower() in (".pkl", ".pickle")
    if not is_pickle:
        raise StatisticsError(f"{path}: expected a statistics file (.npz, or .pkl with allow_pickle=True), got neither")
    if not allow_pickle:
        raise StatisticsError(
            f"{path}: this is a pickle, which can run any code when it is loaded; "
            "if you trust its author, pass allow_pickle=True (--allow-pickle)"
        )
    try:
        with path.open("rb") as file:
            values = pickle.load(file)
    except Exception as error:  # what a damaged or foreign pickle raises is anybody's guess
        raise StatisticsError(f"{path}: the pickle cannot be read: truncated or damaged ({error!r})") from error
    if not isinstance(values, Mapping):
        raise StatisticsError(f"{path}: expected a pickled dict of statistics, got {type(values).__name__}")
    if isinstance(values.get("fid"), Mapping):  # EDM2: one entry per metric
        return {**values["fid"], "num_images": values.get("num_images")}
    return values


_OURS = ("features", "content_hashes")  # keys that mean what we mean only beside "fidfast"
_WANTED = frozenset(
    [key for pair in _MOMENT_KEYS for key in pair] + [*_COUNT_KEYS, *_OURS, "fidfast", "raw_mean", "raw_cov"]
)


def _interpret(values: Mapping[str, Any], path: Path) -> StoredStatistics:
    count = _count(values, path)
    if values.get("raw_mean") is not None and values.get("raw_cov") is not None:
        if values.get("capture_mean_cov") is False:  # StyleGAN's for KID or precision: its sums stay 0
            raise StatisticsError(
                f"{path}: expected sums captured with capture_mean_cov=True, got a file without; the features that it "
                "may hold come by fidfast.compat.edm.metric_utils.FeatureStats.load(…).statistics()"
            )
        mean, covariance = _from_raw_sums(values, count, path)
    else:
        for pair in _MOMENT_KEYS:
            if all(values.get(key) is not None for key in pair):
                mean, covariance = check_moments(values[pair[0]], values[pair[1]], *(f"{path}: {key}" for key in pair))
                break
        else:
            alternatives = ", ".join(f"({', '.join(pair)})" for pair in _MOMENT_KEYS)
            found = ", ".join(map(str, values)) or "nothing"
            raise StatisticsError(f"{path}: expected the keys of one of {alternatives}, got {found}")
    mean, covariance = mean.cpu(), covariance.cpu()
    features, metadata = _features(values, mean, count, path), _metadata(values, mean.shape[0], path)
    return StoredStatistics(mean, covariance, count, features, metadata, _content_hashes(values, path))


def _from_raw_sums(values: Mapping[str, Any], count: int | None, path: Path) -> tuple[Tensor, Tensor]:
    """StyleGAN's sums; its own covariance divides by n, ours by n-1 as every other tool's does."""
    if count is None or count < 2:
        raise StatisticsError(f"{path}: num_items must be at least 2 to go with raw_mean and raw_cov, got {count}")
    total, products = check_moments(values["raw_mean"], values["raw_cov"], f"{path}: raw_mean", f"{path}: raw_cov")
    return total / count, (products - torch.outer(total, total) / count) / (count - 1)


def _count(values: Mapping[str, Any], path: Path) -> int | None:
    for key in _COUNT_KEYS:
        value = values.get(key)
        if value is None:
            continue
        array = np.asarray(value)
        is_count = array.size == 1 and array.dtype.kind in "iuf" and float(array.item()).is_integer()
        if not is_count or array.item() < 0:
            raise StatisticsError(f"{path}: {key} must be a number of images, got {value!r}")
        if array.item() < 2:
            raise StatisticsError(f"{path}: {key}: a covariance needs at least 2 samples, got {value}")
        return int(array.item())
    return None


def _features(values: Mapping[str, Any], mean: Tensor, count: int | None, path: Path) -> Tensor | None:
    if values.get("fidfast") is None or values.get("features") is None:
        return None
    array = np.asarray(values["features"])
    if array.dtype != np.float32 or array.shape != (count, mean.shape[0]):
        expected = f"expected float32 of shape ({count}, {mean.shape[0]})"
        raise StatisticsError(f"{path}: features: {expected}, got {array.dtype} of shape {array.shape}")
    features = torch.from_numpy(array)
    if not bool(torch.isfinite(features).all()):
        raise StatisticsError(f"{path}: features: expected finite numbers, got NaN or infinity")
    spread = float(features.abs().max()) if features.numel() else 0.0
    if not torch.allclose(features.double().mean(dim=0), mean, rtol=0, atol=1e-9 * spread):
        raise StatisticsError(f"{path}: features: their mean is not mu, so the file was changed after it was written")
    return features


def _content_hashes(values: Mapping[str, Any], path: Path) -> np.ndarray | None:
    if values.get("fidfast") is None or values.get("content_hashes") is None:
        return None
    array = np.asarray(values["content_hashes"])
    if array.dtype != np.int64 or array.ndim != 2 or array.shape[1] != 2:
        raise StatisticsError(
            f"{path}: content_hashes: expected int64 of shape (n, 2), got {array.dtype} of shape {array.shape}"
        )
    return array


def _metadata(values: Mapping[str, Any], size: int, path: Path) -> StatisticsMetadata | None:
    if values.get("fidfast") is None:
        return None
    try:
        metadata = json.loads(str(np.asarray(values["fidfast"]).item()))
    except ValueError as error:
        raise StatisticsError(f"{path}: fidfast: expected JSON, got something else ({error})") from error
    if not isinstance(metadata, dict):
        raise StatisticsError(f"{path}: fidfast: expected a JSON object, got {type(metadata).__name__}")
    return parse_metadata(metadata, size, f"{path}: fidfast")
