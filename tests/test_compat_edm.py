"""fidfast.compat.edm: which images, the commands of EDM and EDM2, and StyleGAN's pickles."""

from __future__ import annotations

import http.client
import io
import os
import pickle
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_metric import make_images

import fidfast
from fidfast import evaluation
from fidfast.compat.edm import calculate_metrics, fid
from fidfast.compat.edm.dataset import ImageFolderDataset, chosen
from fidfast.compat.edm.metric_utils import FeatureStats


def write(folder: Path, images: torch.Tensor) -> None:
    for index, image in enumerate(images):
        path = folder / f"{index // 2:05}" / f"img{index:08}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


_networks: dict[tuple[Any, ...], Any] = {}


@pytest.fixture
def one_network(weights_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls with the same options share the network, whose making would be most of the time of these tests."""
    make = evaluation.resolve_extractor

    def shared(feature_extractor: Any = None, **options: Any) -> Any:
        if feature_extractor is not None:
            return make(feature_extractor, **options)
        key = tuple(map(str, options.values()))
        if key not in _networks:
            _networks[key] = make(None, **options)
        return _networks[key]

    monkeypatch.setattr(evaluation, "resolve_extractor", shared)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    write(tmp_path / "real", make_images(4, 1, 32))
    write(tmp_path / "made", make_images(3, 2, 32))
    (tmp_path / "real" / "dataset.json").write_text("{}")
    with zipfile.ZipFile(tmp_path / "real.zip", "w") as archive:
        for file in sorted((tmp_path / "real").rglob("*.*")):
            archive.write(file, file.relative_to(tmp_path / "real"))
    return tmp_path / "real", tmp_path / "made"


def test_a_folder_and_a_zip_hold_the_same_images_in_the_same_order(folders: tuple[Path, Path]) -> None:
    first, second = (ImageFolderDataset(str(path)) for path in (folders[0], f"{folders[0]}.zip"))
    assert first.names == second.names == sorted(first.names) and len(first) == 4
    assert isinstance(first.source, list) and second.source is second
    for dataset in (first, pickle.loads(pickle.dumps(second)), second):
        assert torch.equal(torch.stack([dataset[i] for i in range(4)]), make_images(4, 1, 32))
    assert pickle.loads(pickle.dumps(second))._zip is None
    part = ImageFolderDataset(str(folders[0]), max_size=3, random_seed=5)
    assert part.names == [first.names[i] for i in chosen(4, 3, 5)]
    for bad, message in (
        ("nowhere", "Path must point to a directory or zip, got nowhere"),
        (str(folders[0].parent / "empty"), "No image files found"),
    ):
        (folders[0].parent / "empty").mkdir(exist_ok=True)
        with pytest.raises(OSError, match=message):
            ImageFolderDataset(bad)


def test_the_subset_is_the_one_that_edm_draws() -> None:
    places = np.arange(100)
    np.random.RandomState(7).shuffle(places)
    assert chosen(100, 12, 7) == sorted(places[:12]) == chosen(100, 12, 7 + 2**31)
    assert chosen(100, 100, 7) == chosen(100, None, 7) == list(range(100))


def test_gray_and_palette_images_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(make_images(1)[0, 0].numpy()).save(tmp_path / "gray.png")
    Image.fromarray(make_images(1)[0].permute(1, 2, 0).numpy()).quantize(8).save(tmp_path / "palette.gif")
    images = [ImageFolderDataset(str(tmp_path))[i] for i in range(2)]
    assert [tuple(image.shape) for image in images] == [(3, 12, 12)] * 2
    assert (
        torch.equal(images[0], make_images(1)[0, :1].expand(3, -1, -1))
        and len(images[1].flatten(1).unique(dim=1).T) == 8
    )


def test_edms_commands(folders: tuple[Path, Path], one_network: None, capsys: pytest.CaptureFixture[str]) -> None:
    real, made = folders
    reference = real.parent / "refs" / "real.npz"
    assert fid.main(["ref", f"--data={real}.zip", f"--dest={reference}", "--device=cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Done."
    expected = fidfast.compute_statistics(make_images(4, 1, 32), preset="tensorflow", device="cpu", progress=False)
    with np.load(reference) as stored:
        assert np.allclose(stored["mu"], expected.mu.numpy(), rtol=1e-12)
        np.savez(real.parent / "theirs.npz", mu=stored["mu"], sigma=stored["sigma"])
    value = float(
        fidfast.compute_fid(expected, make_images(3, 2, 32), preset="tensorflow", device="cpu", progress=False)
    )
    for file in (reference, real.parent / "theirs.npz"):
        arguments = ["calc", f"--images={made}", f"--ref={file}", "--num=3", "--batch=3", "--device=cpu"]
        assert fid.main(arguments) == 0
        captured = capsys.readouterr()
        assert float(captured.out.splitlines()[-1]) == pytest.approx(value, rel=1e-5)
        assert "taken as" not in captured.err
    mu, sigma = fid.calculate_inception_stats(str(real), num_workers=0, device=torch.device("cpu"))
    assert np.allclose(mu, expected.mu.numpy(), rtol=1e-12) and sigma.shape == (2048, 2048)
    other = fid.calculate_fid_from_inception_stats(mu, sigma, mu + 0.5, sigma)
    assert other == pytest.approx(2048 * 0.25, rel=1e-6)
    for arguments, message in (
        (
            ["calc", f"--images={made}", f"--ref={reference}", "--device=cpu"],
            "Found 3 images, but expected at least 50000",
        ),
        (["calc", f"--images={made}", f"--ref={real}/none.npz"], "expected a statistics file"),
        (["ref", f"--data={made}/00000/none", "--dest=x.npz"], "Path must point to a directory or zip"),
    ):
        assert fid.main(arguments) == 1
        assert message in capsys.readouterr().err
    expected.metadata = expected.metadata.__class__(2048, preset="clean-fid")
    expected.save(reference)
    assert fid.main(["calc", f"--images={made}", f"--ref={reference}", "--num=3"]) == 1
    assert "expected statistics of preset 'tensorflow', got those of 'clean-fid'" in capsys.readouterr().err


def test_edm2s_commands_and_pickles(
    folders: tuple[Path, Path], one_network: None, capsys: pytest.CaptureFixture[str]
) -> None:
    real, made = folders
    file = real.parent / "new" / "real.pkl"
    assert calculate_metrics.main(["ref", f"--data={real}", f"--dest={file}", "--device=cpu", "--workers=0"]) == 0
    with file.open("rb") as handle:
        stored = pickle.load(handle)
    assert stored["num_images"] == 4 and stored["fid"]["sigma"].dtype == np.float64
    arguments = ["calc", f"--images={made}", f"--ref={file}", "--num=3", "--device=cpu", "--workers=0"]
    assert calculate_metrics.main(arguments) == 1
    assert "this is a pickle, which can run any code" in capsys.readouterr().err
    assert calculate_metrics.main([*arguments, "--allow-pickle"]) == 0
    lines = capsys.readouterr().out.splitlines()
    statistics = fidfast.compute_statistics(make_images(4, 1, 32), preset="tensorflow", device="cpu", progress=False)
    value = float(
        fidfast.compute_fid(statistics, make_images(3, 2, 32), preset="tensorflow", device="cpu", progress=False)
    )
    assert lines[-2:] == ["Calculating fid...", f"fid = {value:g}"]
    assert any("fd_dinov2 needs DINOv2" in line and "skipping" in line for line in lines)
    with pytest.raises(SystemExit) as refused:
        calculate_metrics.main([*arguments, "--metrics=fid,fd_dinov2"])
    assert refused.value.code == 2 and "fd_dinov2 needs DINOv2" in capsys.readouterr().err
    assert calculate_metrics.calculate_metrics_from_stats(stored, stored, ["fid", "fd_dinov2"]) == {
        "fid": pytest.approx(0, abs=1e-6)
    }
    assert "No statistics computed for fd_dinov2 -- skipping." in capsys.readouterr().out


def test_both_ranks_of_torchrun_take_their_share(folders: tuple[Path, Path], one_network: None) -> None:
    real, made = folders
    reference = real.parent / "ref.npz"
    statistics = fidfast.compute_statistics(make_images(4, 1, 32), preset="tensorflow", device="cpu", progress=False)
    statistics.save(reference)
    value = float(
        fidfast.compute_fid(statistics, make_images(3, 2, 32), preset="tensorflow", device="cpu", progress=False)
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run = subprocess.run(
        [
            *launcher,
            "-m",
            "--",  # or torchrun takes --num for the beginning of an option of its own
            "fidfast.compat.edm.fid",
            "calc",
            f"--images={made}",
            f"--ref={reference}",
            "--num=3",
            "--device=cpu",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.splitlines()[-1] == f"{value:g}" and run.stdout.count("Calculating FID") == 1


def test_stylegans_feature_stats_divide_by_n(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32) + 2
    stats = FeatureStats(capture_mean_cov=True, max_items=25)
    for part in np.split(rows, [7, 20]):
        stats.append(part)
    assert stats.num_items == 25 and stats.is_full()
    mean, cov = stats.get_mean_cov()
    exact = rows[:25].astype(np.float64)
    assert np.allclose(mean, exact.mean(0), rtol=1e-12) and np.allclose(
        cov, np.cov(exact, rowvar=False, ddof=0), atol=1e-12
    )
    stats.save(tmp_path / "stats.pkl")
    with pytest.raises(fidfast.StatisticsError, match="stats.pkl: this is a pickle"):
        FeatureStats.load(tmp_path / "stats.pkl")
    again = FeatureStats.load(tmp_path / "stats.pkl", allow_pickle=True)
    unbiased = np.cov(exact, rowvar=False)
    for loaded in (
        again.statistics(),
        fidfast.FeatureStatistics.load(tmp_path / "stats.pkl", allow_pickle=True),
        stats.statistics(),
    ):
        assert loaded.num_samples == 25
        assert np.allclose(loaded.mu.numpy(), mean, rtol=1e-12) and np.allclose(
            loaded.sigma.numpy(), unbiased, atol=1e-12
        )
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"num_items": 3}))
    with pytest.raises(fidfast.StatisticsError, match="expected StyleGAN's FeatureStats, got none of all_features"):
        FeatureStats.load(tmp_path / "other.pkl", allow_pickle=True)


def test_stylegans_feature_stats_keep_all(tmp_path: Path) -> None:
    rows = torch.randn(3, 4)
    stats = FeatureStats(capture_all=True)
    stats.append_torch(rows)
    assert torch.equal(stats.get_all_torch(), rows)
    assert torch.equal(stats.statistics().features, rows)
    for wrong, message in (
        (lambda: stats.append(rows[:, :2]), "x: expected 4 features as before, got 2"),
        (lambda: stats.append(rows[0]), r"x: expected features \(N, D\), got shape \(4,\)"),
        (stats.get_mean_cov, "get_mean_cov: expected sums captured with capture_mean_cov=True"),
        (FeatureStats().get_all, "get_all: expected features captured with capture_all=True"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()


def test_an_unreadable_member_of_a_zip_is_named(
    folders: tuple[Path, Path], one_network: None, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = f"{folders[0]}.zip"
    with zipfile.ZipFile(archive, "a") as target:
        target.writestr("00002/torn.png", "no image")
    arguments = ["ref", f"--data={archive}", f"--dest={folders[0].parent / 'x.npz'}", "--device=cpu"]
    assert fid.main(arguments) == 1
    assert "real.zip/00002/torn.png: not an image that Pillow can read" in capsys.readouterr().err
    Path(archive).write_bytes(Path(archive).read_bytes()[:60])
    assert fid.main(arguments) == 1
    assert "real.zip: expected a zip file, but it cannot be read" in capsys.readouterr().err
    assert not (folders[0].parent / "x.npz").exists()


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (fid, calculate_metrics):
        (folders[0].parent / "x.npz").mkdir(exist_ok=True)
        assert command.main(["ref", "--data=nowhere", f"--dest={folders[0].parent / 'x.npz'}"]) == 1
        assert "--dest: expected a file, but" in capsys.readouterr().err


def test_a_torn_download(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Torn(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise http.client.IncompleteRead(b"")

    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Torn())
    assert fid.main(["calc", "--images=nowhere", "--ref=https://example.org/ref.npz"]) == 1
    assert "https://example.org/ref.npz cannot be read: IncompleteRead" in capsys.readouterr().err


class Unpicklable:
    """Fails in the middle of a pickle, as an interruption would."""

    def __reduce__(self) -> Any:
        raise KeyboardInterrupt


def test_pickles_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "stats.pkl"
    path.write_bytes(b"the old file")
    torn = FeatureStats()
    torn.raw_mean = Unpicklable()  # type: ignore[assignment]
    for write in (lambda: calculate_metrics.save_stats({"fid": Unpicklable()}, str(path)), lambda: torn.save(path)):
        with pytest.raises(KeyboardInterrupt):
            write()
        assert path.read_bytes() == b"the old file" and list(tmp_path.iterdir()) == [path]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="pipe is there, and no regular file"):
        FeatureStats().save(pipe)
    assert pipe.is_fifo()


def test_a_pickle_without_sums_or_torn_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stats.pkl"
    stats = FeatureStats(capture_all=True)  # as StyleGAN's for KID and precision: its sums stay 0
    stats.append(torch.randn(5, 4))
    stats.save(path)
    with pytest.raises(fidfast.StatisticsError, match="expected sums captured with capture_mean_cov=True"):
        fidfast.FeatureStatistics.load(path, allow_pickle=True)
    assert FeatureStats.load(path, allow_pickle=True).statistics().num_samples == 5
    for content, message in ((path.read_bytes()[:30], "truncated or damaged"), (pickle.dumps([1]), "got none of")):
        path.write_bytes(content)
        with pytest.raises(fidfast.StatisticsError, match=f"stats.pkl: .*{message}"):
            FeatureStats.load(path, allow_pickle=True)
