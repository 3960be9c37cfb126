"""The demo: disjoint crops, rising distortions, the judgement, the report; the whole run with a small extractor."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fidfast import demo, page, panels, photographs
from fidfast.demo import not_rising, run_demo
from fidfast.features import FeatureExtractor
from fidfast.panels import Measurement, ReportError, format_table
from fidfast.photographs import (
    CROP,
    DISTORTIONS,
    PHOTOGRAPHS,
    DemoError,
    choose_crops,
    cut,
    distorted_crops,
    load_photos,
)
from fidfast.result import FIDResult

pytest.importorskip("matplotlib")


def photo(height: int = 300, width: int = 460, seed: int = 0) -> np.ndarray:
    """Smooth coloured structure at many scales, so that every distortion has something to spoil."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3))
    for size in (3, 9, 27, 81):
        coarse = Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
        image += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    return (image / 4).astype(np.uint8)


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(photo(seed=index)).save(folder / f"{index}.png")
    return folder


def small_features(images: torch.Tensor) -> torch.Tensor:  # (N, 3, H, W) uint8 -> (N, 5) float32
    """Mean, contrast, fine and coarse detail: what the four distortions change."""
    x = images.float()
    fine = (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3))
    coarse = (x[..., 4:] - x[..., :-4]).abs().mean((1, 2, 3))
    block = (x[..., 8::8] - x[..., 7:-8:8]).abs().mean((1, 2, 3))
    return torch.stack([x.mean((1, 2, 3)), x.std((1, 2, 3)), fine, coarse, block], dim=1)


def result(value: float) -> FIDResult:
    return FIDResult(
        value,
        raw=value,
        num_real=8,
        num_generated=8,
        preset="pytorch-fid",
        feature_dim=2048,
        precision="fp32",
        device="cpu",
        route="low rank",
        error_bound=None,
        duplicates={},
        kernels={"resize_normalize": "cpu avx2"},
        seconds={},
        notes=(),
        skipped=(),
        weights="0123456789abcdef0123456789abcdef",
    )


def series(*values: tuple[str, str, float]) -> list[Measurement]:
    return [Measurement(name, strength, result(value), 1.25) for name, strength, value in values]


def test_the_two_sets_share_no_pixel_and_no_crop_stands_twice() -> None:
    images = [photo(), photo(431, 640, seed=1)]
    first, second = choose_crops(images, 60, seed=0)
    assert len(set(first)) == len(set(second)) == 60
    for index, image in enumerate(images):
        covered = np.zeros((2, *image.shape[:2]), dtype=bool)
        for side, crops in enumerate((first, second)):
            for crop in (crop for crop in crops if crop.photo == index):
                assert cut(images, crop).shape == (CROP, CROP, 3)
                covered[side, crop.y : crop.y + CROP, crop.x : crop.x + CROP] = True
        assert covered[0].any() and covered[1].any()
        assert not (covered[0] & covered[1]).any()


def test_the_seed_chooses_the_crops() -> None:
    images = [photo()]
    assert choose_crops(images, 9, seed=3) == choose_crops(images, 9, seed=3)
    assert choose_crops(images, 9, seed=3) != choose_crops(images, 9, seed=4)


def test_blank_and_small_photographs_are_refused() -> None:
    with pytest.raises(DemoError, match="at least 144 x 288 pixels"):
        choose_crops([photo(200, 200)], 4, seed=0)
    with pytest.raises(DemoError, match=r"expected 4 different crops.*got 0"):
        choose_crops([np.full((400, 400, 3), 90, dtype=np.uint8)], 4, seed=0)


@pytest.mark.parametrize("distortion", DISTORTIONS, ids=lambda distortion: distortion.name)
def test_a_distortion_changes_more_at_every_strength(distortion: photographs.Distortion) -> None:
    images = [photo()]
    crops, _ = choose_crops(images, 4, seed=0)
    change = 0.0
    for strength in distortion.strengths:
        distorted = list(distorted_crops(images, crops, distortion, strength, seed=0))
        assert all(image.dtype == np.uint8 and image.shape == (CROP, CROP, 3) for image in distorted)
        pairs = zip(distorted, crops, strict=True)
        error = np.mean([(image - cut(images, crop).astype(float)) ** 2 for image, crop in pairs])
        assert error > 1.3 * change
        change = error


def test_the_judgement_both_ways() -> None:
    rising = series(("none", "", 5.0), ("blur", "1", 6.0), ("blur", "2", 7.0), ("noise", "1", 5.5), ("noise", "2", 9.0))
    assert not_rising(rising) == []
    below = series(("none", "", 5.0), ("blur", "1", 6.0), ("noise", "1", 4.0))
    assert not_rising(below) == ["FID must rise with noise, but is 4.00 at 1 and 5.00 at no distortion"]
    falling = series(("none", "", 5.0), ("blur", "1", 6.0), ("blur", "2", 5.5))
    assert not_rising(falling) == ["FID must rise with blur, but is 5.50 at 2 and 6.00 at 1"]
    assert len(not_rising(series(("none", "", 5.0), ("blur", "1", 5.0)))) == 1  # equal is not rising
    assert len(not_rising(series(("none", "", 5.0), ("blur", "1", float("nan"))))) == 1


def test_the_table_is_aligned_and_names_a_series_once() -> None:
    lines = format_table(series(("none", "", 5.0), ("blur", "1 px", 61.5), ("blur", "2 px", 107.25))).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2].split() == ["none", "5.00", "1.2"]
    assert lines[3].split() == ["blur", "1", "px", "61.50", "1.2"]
    assert lines[4].split() == ["2", "px", "107.25", "1.2"]


def test_the_whole_run(photo_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "demo-output"
    rows = run_demo(output, num_images=24, photos=photo_folder, feature_extractor=small_features, seed=1)
    assert not_rising(rows) == []
    assert len(rows) == 1 + sum(len(distortion.strengths) for distortion in DISTORTIONS)
    assert {row.fid.num_generated for row in rows} == {24}
    assert sorted(path.name for path in output.iterdir()) == ["demo.png", "report.html", "results.json"]

    results = json.loads((output / "results.json").read_text())
    assert results["rising"] is True and results["seed"] == 1
    assert [row["fid"] for row in results["rows"]] == [float(row.fid) for row in rows]

    picture = Image.open(output / "demo.png")
    assert picture.size[0] >= 1600 and picture.getpixel((2, 2))[:3] == (255, 255, 255)

    text = (output / "report.html").read_text()
    assert "FID rises with the strength of every distortion" in text
    assert all(f"{float(row.fid):.2f}" in text for row in rows)
    assert "3 photographs in" in text and torch.__version__ in text
    assert text.count("<svg role=") == len(DISTORTIONS) and text.count("<polyline") == len(DISTORTIONS)
    embedded = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([\w+/=]+)", text)]
    assert [image.size for image in embedded] == [(CROP, CROP)] * len(DISTORTIONS) * 4  # one below each point
    assert not re.findall(r'(?:src|href|srcset)="(?!data:)', text)  # it needs no other file

    captured = capfd.readouterr()
    assert captured.out == ""
    assert "336/336" in captured.err


def test_a_run_that_does_not_rise_is_reported(photo_folder: Path, tmp_path: Path) -> None:
    def constant(images: torch.Tensor) -> torch.Tensor:
        return images.float().mean((2, 3)) * 0 + torch.arange(len(images))[:, None]

    rows = run_demo(tmp_path, num_images=8, photos=photo_folder, feature_extractor=constant, progress=False)
    assert len(not_rising(rows)) == 12
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["rising"] is False and len(results["problems"]) == 12
    text = (tmp_path / "report.html").read_text()
    assert text.count('class="bad"') == 12 and "FID rises with the strength of every" not in text


@pytest.mark.weights
def test_real_weights(weights_path: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "DISTORTIONS", DISTORTIONS[:1])
    extractor = FeatureExtractor(64, weights=weights_path)
    rows = run_demo(tmp_path, num_images=8, photos=photo_folder, feature_extractor=extractor, progress=False)
    assert not_rising(rows) == []
    text = (tmp_path / "report.html").read_text()
    assert "FID Inception-v3, 64 features" in text and "pytorch-fid" in text


def test_without_matplotlib_it_stops_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panels.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ReportError, match=re.escape('pip install "fidfast[report]"')):
        run_demo(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_reader_may_read_the_report_and_no_half_file_stays(tmp_path: Path) -> None:
    page.write_atomically(tmp_path / "report.html", b"first")
    page.write_atomically(tmp_path / "report.html", b"second")
    assert (tmp_path / "report.html").read_bytes() == b"second"
    assert (tmp_path / "report.html").stat().st_mode & 0o777 == 0o644
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        page.write_atomically(tmp_path / "taken", b"content")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "taken"]


def test_text_in_the_page_is_escaped() -> None:
    text = page.html_page("a < b", page.html_text("<script>"), page.html_facts({"x & y": "<i>", "gone": None}))
    assert "<script>" not in text and "<i>" not in text and "gone" not in text
    assert "&lt;script&gt;" in text and "x &amp; y" in text


def test_one_image_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_images: a covariance needs at least 2 images, got 1"):
        run_demo(tmp_path, num_images=1)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without scikit-image, and nothing in our cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(photographs.importlib.util, "find_spec", lambda name: None)
    return tmp_path / "fidfast"


def wheel(path: Path, names: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(photo()).save(buffer, format="PNG")
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(f"skimage/data/{name}", buffer.getvalue())


def test_photographs_come_with_pip_once(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def download(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        wheel(Path(command[command.index("--dest") + 1]) / "scikit_image-0.26.0-cp311-any.whl", PHOTOGRAPHS)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(photographs.subprocess, "run", download)
    for _ in range(2):
        images, names = load_photos()
        assert [image.shape for image in images] == [(300, 460, 3)] * len(PHOTOGRAPHS)
        assert names == list(PHOTOGRAPHS)
    assert len(commands) == 1
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"] and "--no-deps" in commands[0]
    assert os.listdir(empty_cache) == ["scikit_image-0.26.0-cp311-any.whl"]  # no folder is left behind


def test_offline_it_says_what_to_do(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: No matching distribution found")
    monkeypatch.setattr(photographs.subprocess, "run", lambda *command, **options: failed)
    with pytest.raises(DemoError) as caught:
        load_photos()
    message = str(caught.value)
    assert "No matching distribution found" in message
    assert "'pip download --no-deps scikit-image==0.26.0'" in message and str(empty_cache) in message
    assert "--photos FOLDER" in message
    assert os.listdir(empty_cache) == []


def test_a_wheel_without_the_photographs_is_named(empty_cache: Path) -> None:
    path = empty_cache / "scikit_image-0.26.0-cp311-any.whl"
    wheel(path, PHOTOGRAPHS[:2])
    with pytest.raises(DemoError, match=re.escape(str(path))):
        load_photos()
    path.write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(DemoError, match="delete it"):
        load_photos()


def test_own_photographs_are_made_small_enough(tmp_path: Path) -> None:
    Image.fromarray(photo(700, 2100)).save(tmp_path / "wide.PNG")
    (image,), _ = load_photos(tmp_path)
    assert image.shape == (341, 1024, 3)


@pytest.mark.parametrize(("second", "status"), [(7.0, 0), (5.5, 1)])
def test_the_command_says_whether_it_rises(
    second: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fidfast.cli import main

    rows = series(("none", "", 5.0), ("blur", "1", 6.0), ("blur", "2", second))
    monkeypatch.setattr(demo, "run_demo", lambda output, **options: rows)
    assert main(["demo", "--output", str(tmp_path)]) == status
    captured = capsys.readouterr()
    assert captured.out == format_table(rows) + "\n"
    assert ("FID must rise with blur" in captured.err) == (status == 1)
    assert str(tmp_path / "report.html") in captured.err
