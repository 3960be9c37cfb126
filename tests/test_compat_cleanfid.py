"""fidfast.compat.cleanfid: the calls, prints and files of clean-fid. Beside the original: test_compat_peers.py."""

from __future__ import annotations

import http.client
import io
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_folders import write_images
from PIL import Image
from quick_network import QuickExtractor
from tolerances import TOLERANCES

import fidfast
from fidfast.compat.cleanfid import features, fid
from fidfast.compat.cleanfid.resize import FolderResizer, build_resizer, make_resizer
from fidfast.compat.cleanfid.wrappers import CleanFID

CPU = torch.device("cpu")
QUIET = {"device": CPU, "num_workers": 0, "verbose": False}
FEATURES = TOLERANCES["resize/original"].atol


@pytest.fixture(autouse=True)
def a_quick_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "weights_path" not in request.fixturenames:
        monkeypatch.setattr(features, "FeatureExtractor", QuickExtractor)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("cleanfid")
    return str(write_images(root / "real", 5, seed=1)), str(
        write_images(root / "generated" / "below", 4, seed=2).parent
    )


@pytest.fixture
def stats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for statistics, and no network."""

    def no_network(*_: Any, **__: Any) -> Any:
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr(features, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    return tmp_path / "cache" / "cleanfid"


def images_of(folder: str) -> list[torch.Tensor]:
    files = sorted(Path(folder).rglob("*.png"))
    return [torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files]


def fid_of(folders: tuple[str, str], mode: str, **options: Any) -> float:
    """From fidfast itself, with the same preset."""
    files = [sorted(Path(folder).rglob("*.png")) for folder in folders]
    return float(fidfast.compute_fid(*files, preset=features.PRESETS[mode], progress=False, **options))


@pytest.mark.parametrize("mode", features.PRESETS)
def test_a_mode_is_a_preset(mode: str, folders: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    value = fid.compute_fid(*folders, mode=mode, device=CPU, num_workers=0, use_dataparallel=False)
    own = QuickExtractor(taps=("2048",), preset=features.PRESETS[mode])
    assert value == pytest.approx(fid_of(folders, mode, feature_extractor=own), rel=1e-9)
    found = [f"Found {count} images in the folder {folder}" for count, folder in zip((5, 4), folders, strict=True)]
    assert capsys.readouterr().out.splitlines() == ["compute FID between two folders", *found]


def test_with_the_real_network(folders: tuple[str, str], weights_path: Path) -> None:
    value = fid.compute_fid(*folders, **QUIET)
    assert value == pytest.approx(fid_of(folders, "clean", device="cpu"), rel=1e-9)


@pytest.mark.parametrize("mode", features.PRESETS)
def test_the_extractor_takes_what_the_resizer_gives(mode: str, folders: tuple[str, str]) -> None:
    model = fid.build_feature_extractor(mode, CPU)
    whole = fid.get_folder_features(folders[0], model, mode=mode, **QUIET)
    resize = build_resizer(mode)
    resized = np.stack([resize(image.permute(1, 2, 0).numpy()) for image in images_of(folders[0])])
    one_by_one = fid.get_batch_features(torch.from_numpy(resized).permute(0, 3, 1, 2), model, CPU)
    assert np.abs(one_by_one - whole).max() <= FEATURES
    # a custom function takes the way of single images, and must change nothing but what it does
    custom = fid.get_folder_features(folders[0], model, mode=mode, custom_image_tranform=lambda x: x, **QUIET)
    assert np.abs(custom - whole).max() <= FEATURES
    turned = fid.get_folder_features(folders[0], model, mode=mode, custom_image_tranform=np.flipud, **QUIET)
    assert np.abs(turned - whole).max() > 100 * FEATURES


def test_the_extractor_says_what_it_wants() -> None:
    with pytest.raises(ValueError, match="x: expected images of 299 x 299 pixels in mode clean"):
        fid.build_feature_extractor("clean", CPU)(torch.zeros(1, 3, 64, 64))
    for build in (fid.build_feature_extractor, build_resizer):
        with pytest.raises(ValueError, match="mode: expected one of clean, legacy_pytorch, legacy_tensorflow"):
            build("tensorflow")
    with pytest.raises(ValueError, match="name: expected 'torchscript_inception' or"):
        features.feature_extractor("inception")
    modes = [features.feature_extractor(resize_inside=inside).mode for inside in (False, True)]
    assert [*modes, features.feature_extractor("pytorch_inception").mode] == [
        "clean", "legacy_tensorflow", "legacy_pytorch"]  # fmt: skip


def test_an_own_extractor_and_resizer(folders: tuple[str, str]) -> None:
    def resize(image: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(image).resize((2, 1)))

    def model(batch: torch.Tensor) -> torch.Tensor:  # (N, 3, 1, 2) in [0, 255]
        return batch.double().flatten(1)

    value = fid.compute_fid(*folders, custom_feat_extractor=model, custom_fn_resize=resize, **QUIET)
    rows = [np.stack([resize(image.permute(1, 2, 0).numpy()) for image in images_of(folder)]) for folder in folders]
    rows = [row.transpose(0, 3, 1, 2).reshape(len(row), -1).astype(np.float64) for row in rows]
    assert value == pytest.approx(fid.fid_from_feats(*rows), rel=1e-9)
    moments = [moment for row in rows for moment in (row.mean(axis=0), np.cov(row, rowvar=False))]
    assert value == pytest.approx(fid.frechet_distance(*moments), rel=1e-6)


def test_a_zip_and_a_part_of_it(folders: tuple[str, str], tmp_path: Path) -> None:
    archive = tmp_path / "real.zip"
    files = sorted(Path(folders[0]).iterdir())
    with zipfile.ZipFile(archive, "w") as target:
        for file in reversed(files):
            target.write(file, f"images/{file.name}")
        target.writestr("readme.txt", "no image")
    model = fid.build_feature_extractor("clean", CPU)
    whole = fid.get_folder_features(folders[0], model, **QUIET)
    assert np.array_equal(fid.get_folder_features(str(archive), model, **QUIET), whole)
    assert np.array_equal(fid.get_folder_features(str(archive), model, num=2, **QUIET), whole[:2])
    custom = fid.get_folder_features(str(archive), model, num=2, custom_image_tranform=lambda x: x, **QUIET)
    assert np.abs(custom - whole[:2]).max() <= FEATURES
    chosen = [fid.get_folder_features(str(archive), model, num=3, shuffle=True, seed=7, **QUIET) for _ in range(2)]
    assert np.array_equal(*chosen)
    assert {row.tobytes() for row in chosen[0]} < {row.tobytes() for row in whole}
    with pytest.raises(fidfast.ImagesError, match=f"expected images in {tmp_path}.*got none"):
        (tmp_path / "empty").mkdir()
        fid.get_folder_features(str(tmp_path / "empty"), model, **QUIET)


def test_custom_statistics_whatever_the_case_of_their_name(
    stats: Path, folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert not fid.test_stats_exists("MySet", "clean")
    fid.make_custom_stats("MySet", folders[0], **QUIET)
    names = [stats / f"myset_clean_custom_na{ending}.npz" for ending in ("", "_kid")]
    assert capsys.readouterr().out.splitlines() == [
        f"saving custom FID stats to {names[0]}",
        f"saving custom KID stats to {names[1]}",
    ]
    assert all(fid.test_stats_exists(name, "clean", metric=metric) for name in ("myset", "MYSET") for metric in
               ("FID", "KID"))  # fmt: skip
    with pytest.raises(FileExistsError, match="MySet already exists. Use remove_custom_stats"):
        fid.make_custom_stats("MySet", folders[1], **QUIET)
    named = {"dataset_name": "MySet", "dataset_split": "custom"}
    against = fid.compute_fid(folders[1], **named, **QUIET)
    assert against == pytest.approx(fid.compute_fid(folders[1], folders[0], **QUIET), rel=1e-6)
    np.random.seed(3)
    kid = fid.compute_kid(folders[1], **named, **QUIET)
    np.random.seed(3)
    assert kid == pytest.approx(fid.compute_kid(folders[0], folders[1], **QUIET), rel=1e-9)
    with np.load(names[0]) as archive, np.load(names[1]) as kept:
        assert archive["mu"].shape == (2048,) and archive["sigma"].shape == (2048, 2048)
        assert kept["feats"].shape == (5, 2048)
    fid.remove_custom_stats("mySET")
    assert not any(name.exists() for name in names)
    with pytest.raises(FileNotFoundError, match="The stats file mySET does not exist"):
        fid.remove_custom_stats("mySET")


def test_statistics_of_datasets(stats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(fidfast.StatisticsError, match=r"FFHQ: there are no statistics ffhq_clean_train_1024.npz in .*"
                       r"no network here.*make_custom_stats\('FFHQ', FOLDER\)"):  # fmt: skip
        fid.get_reference_statistics("FFHQ", 1024, split="train")
    assert not list(stats.parent.glob("**/*.npz*"))
    mu, sigma = np.arange(2048.0), np.diag(np.arange(1.0, 2049.0))
    content = io.BytesIO()
    np.savez(content, mu=mu, sigma=sigma)
    asked: list[str] = []

    def serve(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(content.getvalue())

    monkeypatch.setattr(urllib.request, "urlopen", serve)
    for _ in range(2):
        got = fid.get_reference_statistics("FFHQ", 1024, split="train")
        assert np.array_equal(got[0], mu) and np.array_equal(got[1], sigma)
    assert asked == ["https://www.cs.cmu.edu/~clean-fid/stats/ffhq_clean_train_1024.npz"]


def make_generator() -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda z: (z.view(-1, 3, 4, 4).sigmoid() * 255).repeat_interleave(8, 2).repeat_interleave(8, 3)


@pytest.mark.parametrize("mode", features.PRESETS)
def test_a_generator(mode: str, folders: tuple[str, str]) -> None:
    options = {"mode": mode, "z_dim": 48, "num_gen": 2, "batch_size": 3, "device": CPU, "verbose": False}
    model = fid.build_feature_extractor(mode, CPU)
    torch.manual_seed(5)
    rows, latents = fid.get_model_features(make_generator(), model, return_z=True, **options)
    assert rows.shape == (2, 2048) and latents.shape == (3, 48)
    torch.manual_seed(5)
    value = fid.compute_fid(gen=make_generator(), fdir2=folders[0], num_workers=0, **options)
    reference = fid.get_folder_features(folders[0], model, mode=mode, **QUIET)
    assert value == pytest.approx(fid.fid_from_feats(rows, reference), rel=1e-9)
    torch.manual_seed(5)
    slow = fid.get_model_features(make_generator(), model, custom_image_tranform=lambda x: x, **options)
    assert np.abs(slow - rows).max() <= FEATURES


def test_kernel_distance_draws_as_clean_fid() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.standard_normal((30, 6)), rng.standard_normal((24, 6)) + 0.2
    np.random.seed(9)
    total = 0.0
    for _ in range(4):  # Bińkowski et al. 2018, unbiased; the second set is drawn first
        x, y = (feats[np.random.choice(len(feats), 20, replace=False)] for feats in (second, first))
        xx, yy, xy = ((a @ b.T / 6 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        total += (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (20 * 19) - 2 * xy.mean()
    np.random.seed(9)
    assert fid.kernel_distance(first, second, num_subsets=4, max_subset_size=20) == pytest.approx(total / 4, rel=1e-9)


def test_images_that_are_added(folders: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    metric = CleanFID(device=CPU)
    with pytest.raises(ValueError, match="real: expected at least 2 images before calculate_fid, got none"):
        metric.calculate_fid()
    files = sorted(Path(folders[0]).iterdir())
    metric.add_real_images(Image.open(files[0]))
    metric.add_real_images(np.array(Image.open(files[1])))
    metric.add_real_images(images_of(folders[0])[2])
    metric.add_real_images(torch.stack(images_of(folders[0])[3:]))
    metric.add_gen_images(torch.stack(images_of(folders[1])).float())
    value = metric.calculate_fid()
    assert capsys.readouterr().out == "# real images = 5\n# generated images = 4\n"
    assert value == pytest.approx(fid.compute_fid(*folders, **QUIET), rel=1e-4)
    metric.reset_gen_features()
    assert metric.gen_features == [] and len(metric.real_features) == 4
    with pytest.raises(ValueError, match="x: expected a Pillow image, an array or a tensor, got str"):
        metric.add_real_images("a.png")


def test_what_cannot_be_done_is_said(folders: tuple[str, str], stats: Path) -> None:
    with pytest.raises(ValueError, match="invalid combination of directories and models entered"):
        fid.compute_fid(fdir2=folders[0], **QUIET)
    for call in (fid.compute_fid, lambda *a, **k: fid.make_custom_stats("x", a[0], **k)):
        with pytest.raises(ValueError, match="model_name: expected 'inception_v3', got 'clip_vit_b_32': .*no CLIP"):
            call(*folders[:1], model_name="clip_vit_b_32", **QUIET)
    with pytest.raises(ValueError, match="metric: expected 'FID' or 'KID'"):
        fid.test_stats_exists("x", "clean", metric="IS")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there the default device is the GPU")
def test_the_default_device_is_the_cpu_where_there_is_no_gpu() -> None:
    assert features.InceptionFeatures("clean").extractor.device == CPU
    assert features.InceptionFeatures("clean", torch.device("cuda")).extractor.device.type == "cuda"


def test_resizers(tmp_path: Path) -> None:
    image = np.arange(20 * 30 * 3).reshape(20, 30, 3).astype(np.uint8)
    assert make_resizer("PIL", True, "lanczos", (8, 6))(image).shape == (6, 8, 3)
    floats = make_resizer("PIL", False, "bicubic", (8, 6))(image)
    assert floats.dtype == np.float32 and floats.min() >= 0 and floats.max() <= 255
    by_torch = make_resizer("PyTorch", True, "bilinear", (6, 8))(image)
    assert by_torch.dtype == np.uint8 and by_torch.shape == (6, 8, 3)
    with pytest.raises(NotImplementedError, match="library: expected 'PIL' or 'PyTorch', got 'OpenCV'"):
        make_resizer("OpenCV", False, "bicubic", (8, 6))
    with pytest.raises(ValueError, match="filter: expected one of bicubic, .*got 'area'"):
        make_resizer("PIL", False, "area", (8, 6))
    Image.fromarray(image).save(tmp_path / "a.b.png")
    for ending in (".png", ".npy"):
        resizer = FolderResizer([tmp_path / "a.b.png"], str(tmp_path), make_resizer("PIL", True, "box", (8, 6)), ending)
        assert len(resizer) == 1 and resizer[0] == 0
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.array(Image.open(tmp_path / "a.png")))


def test_arrays_that_folder_resizer_writes(folders: tuple[str, str], tmp_path: Path) -> None:
    """clean-fid reads its own .npy files, which hold floats."""
    files = sorted(Path(folders[0]).iterdir())
    resizer = FolderResizer(files, str(tmp_path), build_resizer("clean"), ".npy")
    assert [resizer[i] for i in range(len(files))] == [0] * len(files)
    assert np.load(tmp_path / "000.npy").dtype == np.float32
    model = fid.build_feature_extractor("clean", CPU)
    found, whole = (fid.get_folder_features(str(folder), model, **QUIET) for folder in (tmp_path, folders[0]))
    assert np.abs(found - whole).max() <= FEATURES
    np.save(tmp_path / "000.npy", np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"000.npy: expected an array \(H, W, 3\), got float64 \(4, 4\)"):
        fid.get_folder_features(str(tmp_path), model, **QUIET)


def test_a_folder_of_any_name(folders: tuple[str, str], tmp_path: Path) -> None:
    odd = tmp_path / "real [1]*?é\udcff"
    odd.symlink_to(folders[0])
    model = fid.build_feature_extractor("clean", CPU)
    found, whole = (fid.get_folder_features(str(folder), model, **QUIET) for folder in (odd, folders[0]))
    assert np.array_equal(found, whole)


def test_a_damaged_zip(folders: tuple[str, str], tmp_path: Path) -> None:
    archive = tmp_path / "real.zip"
    with zipfile.ZipFile(archive, "w") as target:
        target.write(sorted(Path(folders[0]).iterdir())[0], "good.png")
        target.writestr("inside/torn.png", "no image")
    model = fid.build_feature_extractor("clean", CPU)
    for options in ({}, {"custom_image_tranform": np.flipud}):
        with pytest.raises(ValueError, match="real.zip/inside/torn.png: not an image that Pillow can read"):
            fid.get_folder_features(str(archive), model, **options, **QUIET)
    archive.write_bytes(archive.read_bytes()[:50])
    with pytest.raises(fidfast.ImagesError, match="real.zip: expected a zip file, but it cannot be read"):
        fid.get_folder_features(str(archive), model, **QUIET)


@pytest.mark.parametrize("mode", ["clean", "legacy_pytorch"])
def test_a_generator_that_leaves_the_range_is_clipped_after_the_resize(mode: str) -> None:
    images = (torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(1)) - 0.25) * 700
    resize = build_resizer(mode)
    clipped = torch.from_numpy(np.stack([resize(image.permute(1, 2, 0).numpy()) for image in images]))
    model = fid.build_feature_extractor(mode, CPU)
    expected = model(clipped.permute(0, 3, 1, 2))
    options = {"mode": mode, "z_dim": 1, "num_gen": 2, "batch_size": 2, "device": CPU, "verbose": False}
    assert np.array_equal(fid.get_model_features(lambda z: images, model, **options), expected)
    metric = CleanFID(mode, device=CPU)
    metric.add_gen_images(images)
    assert np.array_equal(metric.gen_features[0], expected)
    with pytest.raises(ValueError, match=r"G: expected 2 images of z \(2, 1\), got 1"):
        fid.get_model_features(lambda z: images[:1], model, **options)


def test_statistics_of_ones_own_network(stats: Path, folders: tuple[str, str]) -> None:
    """Such as CLIP's, made by clean-fid, whose model_name is part of their file's name."""

    def model(batch: torch.Tensor) -> torch.Tensor:  # (N, 3, 299, 299) -> (N, 3)
        return batch.double().mean(dim=(2, 3))

    stats.mkdir(parents=True)
    rows = fid.get_folder_features(folders[0], model, **QUIET)
    mu, sigma = rows.mean(axis=0), np.cov(rows, rowvar=False)
    named = {"dataset_name": "mine", "dataset_split": "custom", "model_name": "clip_vit_b_32"}
    np.savez(stats / "mine_clean_clip_vit_b_32_custom_na.npz", mu=mu, sigma=sigma)
    found = fid.compute_fid(folders[1], custom_feat_extractor=model, **named, **QUIET)
    assert found == pytest.approx(fid.compute_fid(*folders, custom_feat_extractor=model, **QUIET), rel=1e-9)
    np.savez(stats / "mine_clean_custom_na.npz", mu=mu, sigma=sigma)
    with pytest.raises(fidfast.StatisticsError, match="mine: expected statistics of 2048 features, got 3"):
        fid.compute_fid(folders[1], dataset_name="mine", dataset_split="custom", **QUIET)


def test_statistics_that_cannot_be_had(stats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def serve(answer: Any) -> None:
        class Response(io.BytesIO):
            def read(self, *_: Any) -> bytes:
                if isinstance(answer, Exception):
                    raise answer
                return answer

        monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: asked.append(url) or Response())

    for answer in (http.client.IncompleteRead(b"PK"), b"<html>please log in</html>"):
        serve(answer)
        with pytest.raises(fidfast.StatisticsError, match=r"my sét: there are no statistics .*make_custom_stats"):
            fid.get_reference_statistics("my sét", 64)
        assert not list(stats.parent.glob("**/*.npz*"))
    assert asked[0].isascii() and " " not in asked[0]
    stats.mkdir(parents=True, exist_ok=True)
    for content in (b"PK torn", io.BytesIO()):
        if isinstance(content, io.BytesIO):
            np.savez(content, features=np.zeros((3, 4)))
            content = content.getvalue()
        (stats / "x_clean_test_64_kid.npz").write_bytes(content)
        with pytest.raises(fidfast.StatisticsError, match="x_clean_test_64_kid.npz: expected an .npz with the key"):
            fid.get_reference_statistics("x", 64, metric="KID")


def test_custom_statistics_are_made_and_removed_together(
    stats: Path, folders: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fid, "write_statistics", interrupted)
        fid.make_custom_stats("mine", folders[0], **QUIET)
    assert not fid.test_stats_exists("mine", "clean")
    fid.make_custom_stats("mine", folders[0], **QUIET)
    theirs = tmp_path / "cleanfid" / "stats"  # those of an installed clean-fid have the same name
    theirs.mkdir(parents=True)
    (tmp_path / "cleanfid" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copy(stats / "mine_clean_custom_na.npz", theirs)
    fid.remove_custom_stats("mine")
    assert not fid.test_stats_exists("mine", "clean")
    stats.rmdir()
    stats.write_text("a file where the folder should be")
    with pytest.raises(OSError):
        fid.make_custom_stats("mine", "no folder", **QUIET)  # before the images are looked for


def test_what_a_resizer_gives_is_the_callers() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    for library, quantize in (("PIL", True), ("PIL", False), ("PyTorch", True), ("PyTorch", False)):
        assert make_resizer(library, quantize, "bilinear", (2, 2))(image).flags.writeable
    assert fid.FolderResizer is FolderResizer
