"""Statistics files: ours, every other tool's, and the hostile ones."""

from __future__ import annotations

import errno
import json
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fidfast import reference, statistics_io
from fidfast.statistics import FeatureStatistics, StatisticsError, is_statistics_file

D = 64
GENERATOR = torch.Generator().manual_seed(0)
FEATURES = torch.randn(300, D, generator=GENERATOR)
MU, SIGMA = reference.covariance(FEATURES)


def _statistics(count: int = 300) -> FeatureStatistics:
    statistics = FeatureStatistics(D, preset="clean-fid", precision="fp32", weights="abc")
    statistics.update(FEATURES[:count])
    return statistics


def _pickled(path: Path, value: Any) -> Path:
    path.write_bytes(pickle.dumps(value))
    return path


@pytest.mark.parametrize("count", [2, 63, 64, 65, 300])
def test_our_file_comes_back_bit_for_bit(count: int, tmp_path: Path) -> None:
    statistics = _statistics(count)
    path = statistics.save(tmp_path / "x.npz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = FeatureStatistics.load(path, preset="clean-fid", feature_dim=D)
    assert torch.equal(loaded.mu, statistics.mu)
    assert torch.equal(loaded.sigma, statistics.sigma)
    assert loaded.metadata == statistics.metadata
    assert loaded.num_samples == count
    assert loaded.source == str(path)
    assert (loaded.features is None) == (count > D)
    if count <= D:
        assert torch.equal(loaded.features, FEATURES[:count])
    assert loaded.describe()["preset"] == "clean-fid"


def test_other_tools_find_what_they_look_for(tmp_path: Path) -> None:
    path = _statistics(10).save(tmp_path / "x.npz")
    with np.load(path, allow_pickle=False) as archive:
        mu, sigma = archive["mu"][:], archive["sigma"][:]  # pytorch-fid, clean-fid, EDM, ADM
        assert set(archive.files) == {"mu", "sigma", "num_samples", "fidfast", "features"}
        assert json.loads(str(archive["fidfast"]))["preset"] == "clean-fid"
        assert archive["num_samples"] == 10
    assert mu.dtype == sigma.dtype == np.float64
    assert mu.shape == (D,)
    assert sigma.shape == (D, D)


@pytest.mark.peers
def test_pytorch_fid_reads_ours(tmp_path: Path) -> None:
    fid_score = pytest.importorskip("pytorch_fid.fid_score", reason="pytorch-fid is not installed here")
    path = _statistics().save(tmp_path / "x.npz")
    mu, sigma = fid_score.compute_statistics_of_path(str(path), None, 50, D, "cpu")
    np.testing.assert_array_equal(mu, _statistics().mu)
    np.testing.assert_array_equal(sigma, _statistics().sigma)


def test_equal_statistics_make_equal_files(tmp_path: Path) -> None:
    one, two = (_statistics().save(tmp_path / name).read_bytes() for name in ("a.npz", "b.npz"))
    assert one == two


def _npz(**arrays: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez_compressed(folder / "x.npz", **arrays)
        return folder / "x.npz"

    return write


def _pkl(value: Any) -> Callable[[Path], Path]:
    return lambda folder: _pickled(folder / "x.pkl", value)


ROWS = FEATURES.double().numpy()
STYLEGAN = {
    "capture_all": False, "capture_mean_cov": True, "max_items": None, "num_items": 300, "num_features": D,
    "all_features": None, "raw_mean": ROWS.sum(0), "raw_cov": ROWS.T @ ROWS,
}  # fmt: skip
EDM2 = {
    "num_images": 300,
    "fid": {"mu": MU, "sigma": SIGMA},
    "fd_dinov2": {"mu": np.zeros(3), "sigma": np.eye(3)},
}
IMAGES = np.zeros((2, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("write", "count"),
    [
        (_npz(mu=MU, sigma=SIGMA), None),
        (_npz(mu=MU, sigma=SIGMA, mu_s=np.zeros(7), sigma_s=np.eye(7), arr_0=IMAGES), None),
        (_npz(m2=MU, s2=SIGMA), None),
        (_npz(mu=MU, sigma=SIGMA, avg_mu=np.ones(D), avg_sigma=np.ones((D, D))), None),
        (_npz(mean=MU, cov=SIGMA), None),
        (_pkl({"mean": MU, "cov": SIGMA, "size": 300, "name": "inception"}), 300),
        (_pkl(STYLEGAN), 300),
        (_pkl(EDM2), 300),
        (_pkl({"mu": torch.from_numpy(MU), "sigma": torch.from_numpy(SIGMA)}), None),
    ],
    ids=[
        "pytorch-fid",
        "ADM",
        "denoising-diffusion",
        "FD-loss",
        "mean-cov",
        "mmgeneration",
        "StyleGAN",
        "EDM2",
        "torch",
    ],
)
def test_reads_every_tool(write: Callable[[Path], Path], count: int | None, tmp_path: Path) -> None:
    path = write(tmp_path)
    assert is_statistics_file(path)
    loaded = FeatureStatistics.load(path, allow_pickle=path.suffix == ".pkl")
    np.testing.assert_allclose(loaded.mu.numpy(), MU, atol=1e-14)
    np.testing.assert_allclose(loaded.sigma.numpy(), SIGMA, atol=1e-13)
    assert loaded.num_samples == count
    assert loaded.metadata.preset is None
    with pytest.warns(UserWarning, match=r"does not say how it was made; it is taken as preset 'pytorch-fid'"):
        taken = FeatureStatistics.load(path, preset="pytorch-fid", allow_pickle=path.suffix == ".pkl")
    assert taken.metadata.preset == "pytorch-fid"


@pytest.mark.parametrize("name", ["x.pkl", "x.npz"])
def test_a_pickle_is_opened_only_on_request(name: str, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    path = _pickled(tmp_path / name, {"mu": Bomb()})
    with pytest.raises(StatisticsError, match=r"this is a pickle.*pass allow_pickle=True"):
        FeatureStatistics.load(path)
    np.savez(tmp_path / "objects.npz", mu=np.array([Bomb()], dtype=object), sigma=SIGMA)
    with pytest.raises(StatisticsError, match=r"objects\.npz: mu cannot be read"):
        FeatureStatistics.load(tmp_path / "objects.npz", allow_pickle=True)
    assert not (tmp_path / "exploded").exists()


NAN = SIGMA.copy()
NAN[3, 4] = np.nan


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"feats": ROWS}, r"expected the keys of one of \(mu, sigma\).*got feats"),
        ({"mu": MU}, r"expected the keys of one of .*got mu"),
        ({"mu": MU, "sigma": NAN}, r"x\.npz: sigma: expected finite numbers, got 1 .*first nan at \(3, 4\)"),
        ({"mu": MU * np.inf, "sigma": SIGMA}, r"x\.npz: mu: expected finite"),
        ({"mu": MU, "sigma": np.triu(SIGMA)}, r"x\.npz: sigma: expected a symmetric matrix"),
        ({"mu": MU[:5], "sigma": SIGMA}, r"x\.npz: sigma: expected shape \(5, 5\) .*got \(64, 64\)"),
        ({"mu": MU[None], "sigma": SIGMA}, r"x\.npz: mu: expected shape \(D,\), got \(1, 64\)"),
        ({"mu": np.array(0.5), "sigma": SIGMA}, r"x\.npz: mu: expected shape"),
        ({"mu": np.empty(0), "sigma": np.empty((0, 0))}, r"x\.npz: mu: expected shape"),
        ({"m2": MU, "s2": np.diag(SIGMA)}, r"x\.npz: s2: expected shape"),
        ({"mu": MU, "sigma": SIGMA * 1j}, r"x\.npz: sigma: expected real numbers"),
        ({"mu": np.array(["a"] * D), "sigma": SIGMA}, r"x\.npz: mu: expected real numbers"),
        ({"mu": MU, "sigma": SIGMA, "num_samples": np.array(1)}, r"num_samples: .* at least 2 samples, got 1"),
        ({"mu": MU, "sigma": SIGMA, "num_samples": np.array(2.5)}, r"num_samples must be a number of images"),
        ({"mu": MU, "sigma": SIGMA, "num_samples": np.array([3, 4])}, r"num_samples must be a number of images"),
        ({"mu": MU, "sigma": SIGMA, "fidfast": np.array("{")}, r"fidfast: expected JSON"),
        ({"mu": MU, "sigma": SIGMA, "fidfast": np.array("[1]")}, r"fidfast: expected a JSON object, got list"),
        ({"mu": MU, "sigma": SIGMA, "fidfast": np.array('{"feature_dim": 9}')}, r"feature_dim: expected 64, got 9"),
        ({"mu": MU, "sigma": SIGMA, "fidfast": np.array('{"preset": 9}')}, r"preset: expected a string, got 9"),
        ({"mu": MU, "sigma": SIGMA, "fidfast": np.array('{"ddof": 0}')}, r"ddof: expected 1"),
        (
            {"mu": MU, "sigma": SIGMA, "fidfast": np.array("{}"), "features": ROWS, "num_samples": np.array(300)},
            r"features: expected float32 of shape \(300, 64\), got float64",
        ),
        (
            {"mu": MU + 1, "sigma": SIGMA, "fidfast": np.array("{}"), "features": FEATURES.numpy(),
             "num_samples": np.array(300)},
            r"features: their mean is not mu",
        ),
    ],
)  # fmt: skip
def test_hostile_arrays(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    with pytest.raises(StatisticsError, match=message) as caught:
        FeatureStatistics.load(_npz(**arrays)(tmp_path))
    assert str(tmp_path / "x.npz") in str(caught.value)


def test_hostile_files(tmp_path: Path) -> None:
    whole = _statistics().save(tmp_path / "whole.npz").read_bytes()
    for keep in (3, 40, 100, 2000, len(whole) // 2, len(whole) - 1):
        path = tmp_path / "cut.npz"
        path.write_bytes(whole[:keep])
        with pytest.raises(StatisticsError, match=r"cut\.npz"):
            FeatureStatistics.load(path)
    assert is_statistics_file(path)  # so that the message is about statistics, not about images
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(StatisticsError, match=r"cut\.npz: sigma cannot be read"):
        FeatureStatistics.load(path)
    for name, content, message in (
        ("empty.npz", b"", "got an empty one"),
        ("text.npz", b"mu sigma", "expected a statistics file"),
        ("list.pkl", pickle.dumps([1]), "expected a pickled dict of statistics, got list"),
        ("cut.pkl", pickle.dumps(EDM2)[:500], "truncated or damaged"),
        ("foreign.pkl", b"cno_such_module\nThing\n.", "truncated or damaged"),
        ("other.pkl", pickle.dumps({"a": 1}), "expected the keys of one of"),
        ("none.pkl", pickle.dumps({**STYLEGAN, "num_items": 1}), "at least 2"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(StatisticsError, match=message) as caught:
            FeatureStatistics.load(tmp_path / name, allow_pickle=True)
        assert name in str(caught.value)
    with pytest.raises(StatisticsError, match="a folder"):
        FeatureStatistics.load(tmp_path)
    with pytest.raises(StatisticsError, match="nothing of that name"):
        FeatureStatistics.load(tmp_path / "missing.npz")


def test_what_is_a_statistics_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", IMAGES)
    np.savez(tmp_path / "images_and_mean.npz", IMAGES, mean=np.zeros(3))
    np.savez(tmp_path / "other.npz", feats=ROWS)
    (tmp_path / "text.txt").write_text("mu")
    (tmp_path / "broken.npz").write_bytes(b"PK")
    for path in tmp_path.iterdir():
        assert not is_statistics_file(path), path
    assert not is_statistics_file(tmp_path)
    assert not is_statistics_file(str(tmp_path / "missing.npz"))


def test_a_file_of_other_features_is_refused(tmp_path: Path) -> None:
    path = _statistics().save(tmp_path / "x.npz")
    with pytest.raises(StatisticsError, match=r"x\.npz: expected preset 'tensorflow', got statistics of 'clean-fid'"):
        FeatureStatistics.load(path, preset="tensorflow")
    with pytest.raises(StatisticsError, match=r"x\.npz: expected statistics of 2048 features, got 64"):
        FeatureStatistics.load(path, feature_dim=2048)


def test_float32_covariance_of_few_images_is_read_and_clipped_with_a_warning(tmp_path: Path) -> None:
    few = np.cov(ROWS[:20], rowvar=False).astype(np.float32)
    few[0, 1] += 1e-7
    loaded = FeatureStatistics.load(_npz(mu=MU.astype(np.float32), sigma=few)(tmp_path))
    assert torch.equal(loaded.sigma, loaded.sigma.T)
    with pytest.warns(UserWarning, match=r"x\.npz: expected a positive semidefinite matrix.*sum to -"):
        loaded.factor()


def test_a_file_is_replaced_and_never_written_over(tmp_path: Path) -> None:
    """Whoever has the old file open, or reads at this moment, has all of it."""
    path, other_name = tmp_path / "a.npz", tmp_path / "b.npz"
    _statistics(100).save(path)
    os.link(path, other_name)
    before = other_name.read_bytes()
    _statistics(300).save(path)
    assert other_name.read_bytes() == before and FeatureStatistics.load(path).num_samples == 300
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.npz", "b.npz"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("exists", [False, True])
def test_an_interrupted_save_leaves_nothing(
    error: BaseException, exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.npz"
    if exists:
        _statistics(10).save(path)
    before = path.read_bytes() if exists else None
    written = np.lib.format.write_array

    def fail_at_sigma(file: Any, array: np.ndarray, **options: Any) -> None:
        if array.ndim == 2:
            file.write(b"half of it")
            raise error
        written(file, array, **options)

    monkeypatch.setattr(statistics_io.np.lib.format, "write_array", fail_at_sigma)
    with pytest.raises(StatisticsError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        _statistics().save(path)
    if isinstance(error, OSError):
        assert "x.npz: the statistics could not be written" in str(caught.value)
        assert "No space left" in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == (["x.npz"] if exists else [])
    assert (path.read_bytes() if exists else None) == before


def test_save_checks_the_place_and_follows_links(tmp_path: Path) -> None:
    with pytest.raises(StatisticsError, match=r"ends in \.npz"):
        _statistics().save(tmp_path / "x.pt")
    with pytest.raises(StatisticsError, match="does not exist"):
        _statistics().save(tmp_path / "missing" / "x.npz")
    (tmp_path / "link.npz").symlink_to(tmp_path / "target.npz")
    _statistics().save(tmp_path / "link.npz")
    assert (tmp_path / "link.npz").is_symlink()
    assert FeatureStatistics.load(tmp_path / "target.npz").num_samples == 300
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "target.npz").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("count", [20, 40])
def test_a_loaded_file_goes_on(count: int, tmp_path: Path) -> None:
    loaded = FeatureStatistics.load(_statistics(count).save(tmp_path / "x.npz"))
    loaded.update(FEATURES[count:])
    np.testing.assert_allclose(loaded.sigma.numpy(), SIGMA, atol=1e-14)
    big = FeatureStatistics.load(_statistics(200).save(tmp_path / "y.npz"))
    big.update(FEATURES[200:])
    np.testing.assert_allclose(big.sigma.numpy(), SIGMA, atol=1e-14)
    assert big.num_samples == 300


@pytest.mark.parametrize("count", [float("nan"), float("inf")])
def test_a_count_that_is_no_number_is_named(tmp_path, count):
    np.savez(tmp_path / "x.npz", mu=np.zeros(3), sigma=np.eye(3), num_samples=count)
    with pytest.raises(StatisticsError, match="x.npz: num_samples must be a number of images"):
        FeatureStatistics.load(tmp_path / "x.npz")
