"""fidfast.compat.adm: the five lines of ADM's evaluator, by fixtures of its formats (it needs TensorFlow itself)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quick_network import QuickExtractor

import fidfast
from fidfast.compat import adm
from fidfast.metrics.prdc import precision_recall
from fidfast.weights import FinalLayerError

NAMES = ["Inception Score", "FID", "sFID", "Precision", "Recall"]
PRESET = {"taps": ("2048", "spatial"), "preset": "tensorflow"}


@pytest.fixture(autouse=True)
def a_quick_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "weights_path" not in request.fixturenames:
        monkeypatch.setattr(adm, "FeatureExtractor", QuickExtractor)


def images(seed: int, count: int) -> np.ndarray:  # (N, 32, 32, 3) uint8
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("adm")
    np.savez(root / "reference.npz", images(1, 7))
    np.savez(root / "sample.npz", images(2, 6))
    return root / "reference.npz", root / "sample.npz"


def taps_of(extractor: fidfast.FeatureExtractor, *files: Path) -> list[dict[str, np.ndarray]]:
    """Features of each file, (N, D) float64."""
    batches = [torch.from_numpy(np.load(file)["arr_0"]).permute(0, 3, 1, 2) for file in files]
    return [{name: rows.double().numpy() for name, rows in extractor.taps(batch).items()} for batch in batches]


@pytest.fixture
def taps(files: tuple[Path, Path]) -> list[dict[str, np.ndarray]]:
    return taps_of(QuickExtractor(**PRESET), *files)


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """From rows, of any rank: tr (Σ1 Σ2)^½ is the sum of singular values of the centred rows' product."""
    a, b = ((rows - rows.mean(axis=0)) / np.sqrt(len(rows) - 1) for rows in (x, y))
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * root)


def run(capsys: pytest.CaptureFixture[str], *paths: Path) -> dict[str, str]:
    adm.main([str(path) for path in paths])
    lines = [line.split(": ", 1) for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == NAMES
    return {name: value for name, value in lines}


def without_final_layer(**_: Any) -> Any:
    raise FinalLayerError("no final layer")


def test_the_five_lines(
    files: tuple[Path, Path], weights_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real network."""
    monkeypatch.setattr(adm, "open_weights", without_final_layer)
    taps = taps_of(fidfast.FeatureExtractor(**PRESET), *files)
    printed = run(capsys, *files)
    assert printed["Inception Score"] == "unavailable (weights have no final layer)"
    assert float(printed["FID"]) == pytest.approx(frechet(taps[0]["2048"], taps[1]["2048"]), rel=1e-6)
    assert float(printed["sFID"]) == pytest.approx(frechet(taps[0]["spatial"], taps[1]["spatial"]), rel=1e-6)
    found = precision_recall(taps[0]["2048"], taps[1]["2048"], neighbours=3)
    assert [float(printed[name]) for name in NAMES[3:]] == [found.precision, found.recall]


def test_the_inception_score_with_a_final_layer(
    taps: list[dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.randn(1008, 2048)
    monkeypatch.setattr(adm, "open_weights", lambda final_layer: (Path("weights.pth"), {"fc.weight": weight}))
    pool = taps[1]["2048"]
    p = torch.from_numpy(pool @ weight.double().numpy().T).softmax(dim=1)
    # chunks in order and not shuffled, the last one shorter
    for size, parts in ((5000, [p]), (4, [p[:4], p[4:]])):
        scores = [float((part * (part.log() - part.mean(dim=0).log())).sum(dim=1).mean().exp()) for part in parts]
        found = adm.Evaluator().compute_inception_score(pool.astype(np.float32), split_size=size)
        assert found == pytest.approx(np.mean(scores), rel=1e-4)


def test_stored_statistics_of_the_reference_are_used_and_not_the_samples(
    taps: list[dict[str, np.ndarray]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adm, "open_weights", without_final_layer)
    pool, spatial = ({"mu": np.zeros(size), "sigma": np.eye(size)} for size in (2048, 2023))
    np.savez(tmp_path / "reference.npz", arr_0=images(1, 7), **pool, mu_s=spatial["mu"], sigma_s=spatial["sigma"])
    np.savez(tmp_path / "sample.npz", arr_0=images(2, 6), mu=pool["mu"] + 9, sigma=pool["sigma"])  # stale, no mu_s
    printed = run(capsys, tmp_path / "reference.npz", tmp_path / "sample.npz")
    for name, tap in (("FID", "2048"), ("sFID", "spatial")):
        rows = taps[1][tap]
        centred = (rows - rows.mean(axis=0)) / np.sqrt(len(rows) - 1)
        root = np.linalg.svd(centred, compute_uv=False).sum()  # against a covariance of 1
        expected = (rows.mean(axis=0) ** 2).sum() + (centred**2).sum() + rows.shape[1] - 2 * root
        assert float(printed[name]) == pytest.approx(expected, rel=1e-6)


def test_the_class(files: tuple[Path, Path], taps: list[dict[str, np.ndarray]], tmp_path: Path) -> None:
    evaluator = adm.Evaluator(None, batch_size=2)
    evaluator.warmup()
    activations = evaluator.read_activations(files[1])
    assert np.array_equal(activations[0], taps[1]["2048"]) and np.array_equal(activations[1], taps[1]["spatial"])
    batches = [images(2, 6)[:4].astype(np.float32), images(2, 6)[4:].astype(np.float32)]
    for ours, theirs in zip(evaluator.compute_activations(batches), activations, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
    pool, spatial = evaluator.read_statistics(files[1], activations)
    assert np.allclose(pool.mu, taps[1]["2048"].mean(axis=0), rtol=1e-12) and spatial.sigma.shape == (2023, 2023)
    assert pool.frechet_distance(evaluator.compute_statistics(activations[0])) == pytest.approx(0, abs=1e-9)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(fidfast.ImagesError, match="arr_0"):
        evaluator.read_activations(tmp_path / "other.npz")


def test_float_images_are_in_255ths_as_there(
    files: tuple[Path, Path], taps: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    np.savez(tmp_path / "floats.npz", images(2, 6).astype(np.float32))
    activations = adm.Evaluator(batch_size=4).read_activations(tmp_path / "floats.npz")
    for tap, found in zip(PRESET["taps"], activations, strict=True):
        assert np.abs(found - taps[1][tap]).max() <= 1e-4 * np.abs(taps[1][tap]).max()
    torn = (tmp_path / "floats.npz").read_bytes()
    (tmp_path / "floats.npz").write_bytes(torn.replace(torn[4000:4008], b"\0" * 8))
    with pytest.raises(fidfast.ImagesError, match="floats.npz: the file is damaged"):
        adm.Evaluator().read_activations(tmp_path / "floats.npz")


def test_a_bad_file_is_refused_before_the_work_and_by_name(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adm.Evaluator, "_activations", lambda *_: pytest.fail("the work has begun"))
    np.savez(tmp_path / "samples.npz", samples=images(2, 6))
    np.savez(tmp_path / "few.npz", images(2, 3))
    for name, message in (
        ("samples.npz", "key arr_0"),
        ("none.npz", "none.npz.*No such file"),
        ("few.npz", "few.npz: precision and recall need at least 4 images, got 3"),
    ):
        with pytest.raises(fidfast.ImagesError, match=message):
            adm.main([str(files[0]), str(tmp_path / name)])
    np.savez(tmp_path / "reference.npz", mu=np.full(2048, np.nan), sigma=np.eye(2048))
    with pytest.raises(fidfast.StatisticsError, match="reference.npz: mu: expected finite numbers"):
        adm.Evaluator().read_statistics(tmp_path / "reference.npz", (np.zeros((0, 2048)), np.zeros((0, 2023))))
