"""The evaluator of guided-diffusion (ADM, Dhariwal and Nichol 2021, arXiv:2105.05233) without TensorFlow.

``python -m fidfast.compat.adm REF.npz SAMPLE.npz`` prints its five lines: Inception Score, FID, sFID, Precision and
Recall. Both files hold images as arr_0, uint8 (N, H, W, 3). The stored statistics of the reference (mu, sigma, mu_s,
sigma_s) are used; those of the sample are computed from its images, since a stored mean may be of other images. The
Inception Score needs weights with the final layer, and is unavailable otherwise.
"""

from __future__ import annotations

import argparse
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from fidfast import FeatureExtractor, FeatureStatistics, ImagesError, StatisticsError, compute_features
from fidfast.decode import Unreadable
from fidfast.files import ArrayStream
from fidfast.frechet import statistics_distance
from fidfast.metrics.inception_score import inception_score
from fidfast.metrics.prdc import precision_recall
from fidfast.weights import FinalLayerError, open_weights

_Path = str | os.PathLike[str]
_TAPS = ("2048", "spatial")  # pool_3, and the first 7 channels of mixed_6/conv


class FIDStatistics:
    """Mean (D,) and covariance (D, D)."""

    def __init__(self, mu: np.ndarray, sigma: np.ndarray) -> None:
        self._set(FeatureStatistics.from_moments(np.asarray(mu), np.asarray(sigma)))

    @classmethod
    def of(cls, features: np.ndarray) -> FIDStatistics:  # (N, D)
        statistics = FeatureStatistics(features.shape[1])
        statistics.update(features)
        made = cls.__new__(cls)
        made._set(statistics)
        return made

    def frechet_distance(self, other: FIDStatistics, eps: float = 1e-6) -> float:
        """The Fréchet distance; eps is accepted and never needed."""
        return statistics_distance(self._statistics, other._statistics).value

    def _set(self, statistics: FeatureStatistics) -> None:
        self._statistics = statistics

    @property
    def mu(self) -> np.ndarray:
        return self._statistics.mu.cpu().numpy()

    @property
    def sigma(self) -> np.ndarray:
        return self._statistics.sigma.cpu().numpy()


class Evaluator:
    """ADM's class: activations are (pool (N, 2048), spatial (N, 2023)) float32. No session, no softmax batches."""

    def __init__(
        self, session: Any = None, batch_size: int = 64, softmax_batch_size: int = 512, *, device: Any = None
    ) -> None:
        self.batch_size = batch_size
        self._device = device
        self._extractor: FeatureExtractor | None = None

    def warmup(self) -> None:
        """Load the network."""
        if self._extractor is None:
            self._extractor = FeatureExtractor(taps=_TAPS, preset="tensorflow", device=self._device)

    def read_activations(self, npz_path: _Path) -> tuple[np.ndarray, np.ndarray]:
        """Of the images (arr_0) in an .npz file, (N, H, W, 3) in [0, 255], uint8 or float."""
        stream = ArrayStream(os.fspath(npz_path), self.batch_size)
        return self._activations(npz_path if stream.dtype == np.uint8 else _scaled(stream))

    def compute_activations(self, batches: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Of batches (n, H, W, 3) in [0, 255]."""
        return self._activations(_scaled(batches))

    def read_statistics(
        self, npz_path: _Path, activations: tuple[np.ndarray, np.ndarray]
    ) -> tuple[FIDStatistics, FIDStatistics]:
        """For FID and for sFID: what the file stores, and of the activations what it does not."""
        try:
            with np.load(npz_path) as archive:
                stored = [
                    FIDStatistics(archive[mu], archive[sigma]) if {mu, sigma} <= set(archive.files) else None
                    for mu, sigma in (("mu", "sigma"), ("mu_s", "sigma_s"))
                ]
        except (StatisticsError, ValueError, zipfile.BadZipFile) as error:
            raise StatisticsError(f"{npz_path}: {error}") from error
        pool, spatial = (
            FIDStatistics.of(features) if found is None else found
            for found, features in zip(stored, activations, strict=True)
        )
        return pool, spatial

    def compute_statistics(self, activations: np.ndarray) -> FIDStatistics:
        return FIDStatistics.of(activations)

    def compute_inception_score(self, activations: np.ndarray, split_size: int = 5000) -> float:
        """Of pool activations (N, 2048); FinalLayerError where the weights give no logits."""
        _, state = open_weights(final_layer=True)
        logits = torch.from_numpy(activations) @ state["fc.weight"].T  # (N, 1008), without the bias, as there
        sizes = [min(split_size, len(logits) - start) for start in range(0, len(logits), split_size)]
        return float(inception_score(logits, splits=sizes, shuffle=False).mean)

    def compute_prec_recall(self, activations_ref: np.ndarray, activations_sample: np.ndarray) -> tuple[float, float]:
        """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), 3 neighbours."""
        found = precision_recall(activations_ref, activations_sample, neighbours=3)
        return float(found.precision), float(found.recall)

    def _activations(self, images: Any) -> tuple[np.ndarray, np.ndarray]:
        self.warmup()
        found = compute_features(
            images, batch_size=self.batch_size, feature_extractor=self._extractor, value_range=(0, 1), quantize=None
        )
        pool, spatial = (found[tap].cpu().numpy() for tap in _TAPS)
        return pool, spatial


def _scaled(images: Iterable[Any]) -> Iterator[Any]:
    """Images, or batches of them, in [0, 255]: floats as [0, 1]."""
    for one in images:
        if isinstance(one, Unreadable):
            raise ImagesError(f"{one.path}: {one.reason}")
        yield one if str(one.dtype) in ("uint8", "torch.uint8") else one / 255


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ADM's evaluator.py."""
    parser = argparse.ArgumentParser(prog="python -m fidfast.compat.adm")
    parser.add_argument("ref_batch", help="path to reference batch npz file")
    parser.add_argument("sample_batch", help="path to sample batch npz file")
    options = parser.parse_args(argv)
    evaluator = Evaluator()
    for path in (options.ref_batch, options.sample_batch):
        count = ArrayStream(path, evaluator.batch_size).shape[0]  # what is wrong with either is said before the work
        if count < 4:
            raise ImagesError(f"{path}: precision and recall need at least 4 images, got {count}")
    reference = evaluator.read_activations(options.ref_batch)
    reference_statistics = evaluator.read_statistics(options.ref_batch, reference)
    sample = evaluator.read_activations(options.sample_batch)
    pool, spatial = (evaluator.compute_statistics(features) for features in sample)
    try:
        print("Inception Score:", evaluator.compute_inception_score(sample[0]))
    except FinalLayerError:
        print("Inception Score: unavailable (weights have no final layer)")
    print("FID:", pool.frechet_distance(reference_statistics[0]))
    print("sFID:", spatial.frechet_distance(reference_statistics[1]))
    precision, recall = evaluator.compute_prec_recall(reference[0], sample[0])
    print("Precision:", precision)
    print("Recall:", recall)


if __name__ == "__main__":
    main()
