"""fidfast.compat.adm: the five lines of ADM's evaluator, by fixtures of its formats (it needs TensorFlow itself)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fidfast
from fidfast.compat import adm
from fidfast.metrics.prdc import precision_recall
from fidfast.weights import FinalLayerError, open_weights

NAMES = ["Inception Score", "FID", "sFID", "Precision", "Recall"]


def images(seed: int, count: int) -> np.ndarray:  # (N, 32, 32, 3) uint8
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, weights_path: Path) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("adm")
    np.savez(root / "reference.npz", images(1, 7))
    np.savez(root / "sample.npz", images(2, 6))
    return root / "reference.npz", root / "sample.npz"


@pytest.fixture(scope="module")
def expected(files: tuple[Path, Path]) -> dict[str, float]:
    """From the taps and the plain formulas."""
    extractor = fidfast.FeatureExtractor(taps=("2048", "spatial"), preset="tensorflow", device="cpu")
    found = [extractor.taps(torch.from_numpy(np.load(file)["arr_0"]).permute(0, 3, 1, 2)) for file in files]
    distances = []
    for tap in ("2048", "spatial"):
        sides = [side[tap].double().numpy() for side in found]
        moments = [moment for rows in sides for moment in (rows.mean(axis=0), np.cov(rows, rowvar=False))]
        distances.append(fidfast.frechet_distance(*moments))
    pr = precision_recall(found[0]["2048"], found[1]["2048"], neighbours=3)
    return dict(zip(NAMES[1:], [*distances, pr.precision, pr.recall], strict=True))


def run(capsys: pytest.CaptureFixture[str], *paths: Path) -> dict[str, str]:
    adm.main([str(path) for path in paths])
    lines = [line.split(": ", 1) for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == NAMES
    return {name: value for name, value in lines}


def without_final_layer(**_: Any) -> Any:
    raise FinalLayerError("no final layer")


def test_the_five_lines(
    files: tuple[Path, Path],
    expected: dict[str, float],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adm, "open_weights", without_final_layer)
    printed = run(capsys, *files)
    assert printed.pop("Inception Score") == "unavailable (weights have no final layer)"
    for name, value in printed.items():
        assert float(value) == pytest.approx(expected[name], rel=1e-5), name


def test_the_inception_score_with_a_final_layer(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, state = open_weights()
    weight = torch.randn(1008, 2048)
    monkeypatch.setattr(adm, "open_weights", lambda final_layer: (path, {**state, "fc.weight": weight}))
    printed = run(capsys, *files)
    extractor = fidfast.FeatureExtractor(preset="tensorflow", device="cpu")
    logits = extractor(torch.from_numpy(np.load(files[1])["arr_0"]).permute(0, 3, 1, 2)).double() @ weight.T.double()
    p = logits.softmax(dim=1)
    score = (p * (p.log() - p.mean(dim=0).log())).sum(dim=1).mean().exp()
    assert float(printed["Inception Score"]) == pytest.approx(float(score), rel=1e-4)
    # chunks in order, not shuffled, the last one shorter: 4 of the first images and 2
    features = extractor(torch.from_numpy(np.load(files[1])["arr_0"]).permute(0, 3, 1, 2)).numpy()
    parts = [p[:4], p[4:]]
    scores = [float((part * (part.log() - part.mean(dim=0).log())).sum(dim=1).mean().exp()) for part in parts]
    assert adm.Evaluator().compute_inception_score(features, split_size=4) == pytest.approx(np.mean(scores), rel=1e-4)


def test_stored_statistics_of_the_reference_are_used_and_not_the_samples(
    files: tuple[Path, Path],
    tmp_path: Path,
    expected: dict[str, float],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adm, "open_weights", without_final_layer)
    stored = {"mu": np.zeros(2048), "sigma": np.eye(2048), "mu_s": np.zeros(2023), "sigma_s": np.eye(2023)}
    np.savez(tmp_path / "reference.npz", arr_0=images(1, 7), **stored)
    np.savez(tmp_path / "sample.npz", arr_0=images(2, 6), mu=stored["mu"], sigma=stored["sigma"])  # stale, no mu_s
    printed = run(capsys, tmp_path / "reference.npz", tmp_path / "sample.npz")
    assert float(printed["Precision"]) == pytest.approx(expected["Precision"])
    sides = [fidfast.compute_statistics(images(2, 6), preset="tensorflow", device="cpu", progress=False)]
    moments = (sides[0].mu.numpy(), sides[0].sigma.numpy(), stored["mu"], stored["sigma"])
    assert float(printed["FID"]) == pytest.approx(fidfast.frechet_distance(*moments), rel=1e-6)
    assert abs(float(printed["FID"]) - expected["FID"]) > 1
    assert abs(float(printed["sFID"]) - expected["sFID"]) > 1
    printed = run(capsys, files[0], tmp_path / "sample.npz")
    assert float(printed["FID"]) == pytest.approx(expected["FID"], rel=1e-5)


def test_the_class(files: tuple[Path, Path], tmp_path: Path) -> None:
    evaluator = adm.Evaluator(None, batch_size=2)
    evaluator.warmup()
    activations = evaluator.read_activations(files[1])
    assert [part.shape for part in activations] == [(6, 2048), (6, 2023)]
    batches = [images(2, 6)[:4].astype(np.float32), images(2, 6)[4:].astype(np.float32)]
    for ours, theirs in zip(evaluator.compute_activations(batches), activations, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
    pool, spatial = evaluator.read_statistics(files[1], activations)
    assert pool.mu.shape == (2048,) and spatial.sigma.shape == (2023, 2023)
    again = adm.FIDStatistics(pool.mu, pool.sigma)
    assert again.frechet_distance(pool) == pytest.approx(0, abs=1e-6)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(fidfast.ImagesError, match="arr_0"):
        evaluator.read_activations(tmp_path / "other.npz")
