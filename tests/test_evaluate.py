"""compute_fid and compute_statistics: the pass over images, whatever the source, the batch size or the failure."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fidfast
from fidfast import FidfastWarning


def make_images(count: int, seed: int = 0, size: int = 40) -> np.ndarray:
    """(N, H, W, 3) uint8: smooth random colours, so that features differ from image to image."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)) for image in coarse]
    )


def save_folder(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:04d}.png")
    return folder


def moments(images: torch.Tensor) -> torch.Tensor:
    """A trivial extractor: (N, 3, H, W) uint8 → (N, 8) channel means, deviations and two corners."""
    x = images.to(torch.float32) / 255
    return torch.cat([x.mean((2, 3)), x.std((2, 3)), x[:, :2, 0, 0]], dim=1)


def trivial_fid(real, generated, **options) -> fidfast.FIDResult:
    return fidfast.compute_fid(real, generated, feature_extractor=moments, progress=False, **options)


# -- sources agree ----------------------------------------------------------------------------------------------------


def test_every_kind_of_source_gives_the_same_number(tmp_path):
    real, generated = make_images(12, seed=1), make_images(15, seed=2)
    expected = trivial_fid(real, generated)
    folder = save_folder(tmp_path / "real", real)
    np.savez(tmp_path / "real.npz", arr_0=real)
    as_tensor = torch.from_numpy(real).permute(0, 3, 1, 2)
    sources = {
        "folder": folder,
        "folder as text": str(folder),
        "npz": tmp_path / "real.npz",
        "tensor": as_tensor,
        "paths": sorted(folder.iterdir()),
        "generator": (image for image in real),
        "batches": iter([as_tensor[:5], as_tensor[5:]]),
        "loader": torch.utils.data.DataLoader(torch.utils.data.TensorDataset(as_tensor), batch_size=5),
    }
    for name, source in sources.items():
        result = trivial_fid(source, generated)
        assert float(result) == float(expected), name
        assert (result.num_real, result.num_generated) == (12, 15), name
    assert expected > 0


def test_statistics_in_the_place_of_images(tmp_path):
    real, generated = make_images(12, seed=1), make_images(15, seed=2)
    expected = trivial_fid(real, generated)
    statistics = fidfast.compute_statistics(real, feature_extractor=moments, progress=False)
    statistics.save(tmp_path / "real.npz")
    for source in (statistics, tmp_path / "real.npz", str(tmp_path / "real.npz")):
        assert float(trivial_fid(source, generated)) == pytest.approx(float(expected), rel=1e-9)
    both = fidfast.compute_fid(
        tmp_path / "real.npz", tmp_path / "real.npz", preset="pytorch-fid", feature_extractor=moments
    )
    assert abs(both.raw) <= 1e-9


def test_two_statistics_need_neither_weights_nor_network(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        x = rng.normal(size=(500, 64))
        np.savez(tmp_path / f"{name}.npz", mu=x.mean(0), sigma=np.cov(x, rowvar=False))
    monkeypatch.setenv("FIDFAST_WEIGHTS", str(tmp_path / "there-is-no-such-file"))
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        result = fidfast.compute_fid(tmp_path / "a.npz", tmp_path / "b.npz", feature_dim=64)
    assert 0 < result < 10


# -- independence of the batch size and the workers -------------------------------------------------------------------


@pytest.mark.weights
def test_features_do_not_depend_on_batch_size_or_workers(tmp_path, weights_path):
    folder = save_folder(tmp_path / "images", make_images(21, size=64))
    first: fidfast.FeatureStatistics | None = None
    for batch_size, num_workers in ((64, 0), (1, 0), (7, 0), (7, 1), (7, 2), (5, 3)):
        statistics = fidfast.compute_statistics(
            folder, feature_dim=192, batch_size=batch_size, num_workers=num_workers, progress=False
        )
        first = first or statistics
        assert torch.equal(statistics.features, first.features), (batch_size, num_workers)
        assert torch.equal(statistics.mu, first.mu) and torch.equal(statistics.sigma, first.sigma)


def test_mixed_sizes_with_the_network(tmp_path, weights_path):
    images = [
        torch.from_numpy(make_images(1, seed=size, size=size)[0]).permute(2, 0, 1) for size in (8, 40, 299, 301, 64)
    ]
    statistics = fidfast.compute_statistics(images, feature_dim=64, progress=False)
    alone = torch.cat([fidfast.FeatureExtractor(64)([image]) for image in images])
    assert torch.equal(statistics.features, alone)


# -- sets that rounding or rank could break ---------------------------------------------------------------------------


@pytest.mark.weights
@pytest.mark.parametrize("repeats", [1, 2, 10])
def test_a_set_against_itself_is_zero(weights_path, repeats):
    images = torch.from_numpy(make_images(20, size=32)).permute(0, 3, 1, 2)
    result = fidfast.compute_fid(images, images.repeat(repeats, 1, 1, 1), feature_dim=64, progress=False)
    if repeats == 1:
        assert abs(result.raw) <= 1e-6
    both = fidfast.compute_fid(
        images.repeat(repeats, 1, 1, 1), images.repeat(repeats, 1, 1, 1), feature_dim=64, progress=False
    )
    assert 0 <= both <= 1e-6 and abs(both.raw) <= 1e-6
    assert both.duplicates["generated"]["largest_multiplicity"] == repeats
    assert both.duplicates["shared"] == 20 * repeats


def test_constant_images_give_a_finite_number(weights_path):
    black, gray = (torch.full((4, 3, 32, 32), value, dtype=torch.uint8) for value in (0, 128))
    assert fidfast.compute_fid(black, black, feature_dim=64, progress=False) == pytest.approx(0, abs=1e-9)
    assert 0 < fidfast.compute_fid(black, gray, feature_dim=64, progress=False) < 1e4


def test_duplicates_are_counted_and_told():
    images = make_images(10)
    repeated = np.concatenate([images, images[:4]])
    with pytest.warns(FidfastWarning, match="only 10 of 14 images are different"):
        result = trivial_fid(images, repeated)
    assert result.duplicates["real"] == {"num_images": 10, "num_unique": 10, "largest_multiplicity": 1}
    assert result.duplicates["generated"] == {"num_images": 14, "num_unique": 10, "largest_multiplicity": 2}
    assert result.duplicates["shared"] == 14
    assert any("10 of 14" in note for note in result.notes)


# -- the result -------------------------------------------------------------------------------------------------------


def test_result_says_how_it_was_made(weights_path):
    images = torch.from_numpy(make_images(9)).permute(0, 3, 1, 2)
    result = fidfast.compute_fid(
        images, images.flip(3), preset="tensorflow", feature_dim=64, device="cpu", progress=False
    )
    assert (result.preset, result.feature_dim, result.precision, result.device) == ("tensorflow", 64, "fp32", "cpu")
    assert (result.num_real, result.num_generated) == (9, 9)
    assert set(result.seconds) == {"setup", "decode", "preprocess", "network", "statistics", "distance", "total"}
    assert result.seconds["network"] > 0 and result.seconds["preprocess"] > 0
    parts = sum(value for stage, value in result.seconds.items() if stage != "total")
    assert parts <= result.seconds["total"] * 1.01
    assert result.kernels["resize_normalize"].startswith("cpu")
    assert len(result.weights) == 64
    assert pickle.loads(pickle.dumps(result)).to_dict() == result.to_dict()


def test_global_state_is_left_as_it_was(weights_path):
    images = torch.from_numpy(make_images(4)).permute(0, 3, 1, 2)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    before = (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = fidfast.compute_fid(images, images.flip(2), feature_dim=64, progress=False)
    assert torch.equal(torch.rand(3), expected)
    assert (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()) == before
    assert float(under_autocast) == float(fidfast.compute_fid(images, images.flip(2), feature_dim=64, progress=False))


def test_progress_goes_to_standard_error_with_rate_and_total(capfd):
    fidfast.compute_fid(make_images(6), make_images(6, 1), feature_extractor=moments, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "real" in err and "generated" in err and "6/6" in err and "images/s" in err
    trivial_fid(make_images(6), make_images(6, 1))
    assert capfd.readouterr().err == ""


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "clean"}, "preset.*clean-fid"),
        ({"feature_dim": 100}, "feature_dim.*64.*100"),
        ({"batch_size": 0}, "batch_size.*at least 1.*0"),
        ({"on_error": "ignore"}, "on_error.*'raise'.*'ignore'"),
        ({"precision": "fp8"}, "precision.*fp32.*fp8"),
        ({"device": "gpu"}, "device"),
        ({"num_workers": -1}, "num_workers.*-1"),
    ],
)
def test_bad_arguments_name_themselves(options, message):
    images = make_images(3)
    with pytest.raises((ValueError, TypeError, RuntimeError), match=f"(?is){message}"):
        fidfast.compute_fid(images, images, progress=False, **options)


def test_one_image_is_too_few(tmp_path):
    folder = save_folder(tmp_path / "one", make_images(1))
    for source in (folder, make_images(1), iter(make_images(1))):
        with pytest.raises(fidfast.ImagesError, match="generated: .*at least 2 images, got 1"):
            trivial_fid(make_images(3), source)


def test_both_sides_are_opened_before_any_work(tmp_path):
    seen = []

    def extractor(images):
        seen.append(len(images))
        return moments(images)

    with pytest.raises(fidfast.ImagesError, match="no-such-folder"):
        fidfast.compute_fid(make_images(3), tmp_path / "no-such-folder", feature_extractor=extractor, progress=False)
    assert seen == []


def test_two_empty_folders(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with pytest.raises(fidfast.ImagesError, match="no images"):
        trivial_fid(tmp_path / "a", tmp_path / "b")


def test_statistics_of_another_preset_are_refused_before_any_work(tmp_path, weights_path):
    images = torch.from_numpy(make_images(4)).permute(0, 3, 1, 2)
    fidfast.compute_statistics(images, feature_dim=64, preset="tensorflow", progress=False).save(tmp_path / "tf.npz")
    with pytest.raises(
        fidfast.StatisticsError, match="(?s)preset.*tensorflow.*pytorch-fid|preset.*pytorch-fid.*tensorflow"
    ):
        fidfast.compute_fid(tmp_path / "tf.npz", images, feature_dim=64, progress=False)
    with pytest.raises(fidfast.StatisticsError, match="64.*192|192.*64"):
        fidfast.compute_fid(tmp_path / "tf.npz", images, feature_dim=192, preset="tensorflow", progress=False)


def test_unreadable_images_raise_or_are_skipped_and_counted(tmp_path):
    folder = save_folder(tmp_path / "images", make_images(8))
    whole = (folder / "0003.png").read_bytes()
    (folder / "0003.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(fidfast.ImagesError, match="0003.png"):
        trivial_fid(folder, make_images(5))
    with pytest.warns(FidfastWarning, match="1 unreadable"):
        result = trivial_fid(folder, make_images(5), on_error="skip")
    assert result.num_real == 7
    assert len(result.skipped) == 1 and "0003.png" in result.skipped[0][0]


def test_float_images_must_say_their_range():
    floats = torch.from_numpy(make_images(4)).permute(0, 3, 1, 2) / 255
    with pytest.raises((ValueError, TypeError), match="value_range"):
        trivial_fid(floats, floats)


def test_float_images_give_the_number_of_their_rounded_bytes(weights_path):
    images = torch.from_numpy(make_images(6)).permute(0, 3, 1, 2)
    options = {"feature_dim": 64, "progress": False}
    expected = fidfast.compute_fid(images, images.flip(3), **options)
    floats = images / 255
    result = fidfast.compute_fid(floats, floats.flip(3), value_range=(0, 1), **options)
    assert float(result) == float(expected)


@pytest.mark.parametrize(
    "extractor", [lambda x: moments(x).repeat_interleave(2, 0), lambda x: moments(x).mean(0, keepdim=True)]
)
def test_an_extractor_must_return_one_row_an_image(extractor):
    with pytest.raises(ValueError, match="one row of features for each"):
        fidfast.compute_fid(make_images(10), make_images(10), feature_extractor=extractor, progress=False)


def test_float_images_for_an_extractor_are_checked():
    floats = torch.from_numpy(make_images(4)).permute(0, 3, 1, 2) / 255
    holes = floats.clone()
    holes[2, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        trivial_fid(floats, holes, value_range=(0, 1))
    with pytest.raises(ValueError, match="to 255"):
        trivial_fid(floats, floats * 255 / floats.max(), value_range=(0, 1))


def test_a_column_of_rgb_is_not_three_gray_images():
    columns = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 1), dtype=np.uint8)
    tensors = torch.from_numpy(columns)
    assert float(trivial_fid(columns, tensors)) == pytest.approx(0, abs=1e-9)


def test_features_that_are_not_finite_name_the_image():
    def extractor(images):
        features = moments(images)
        features[2, 1] = float("nan")
        return features

    with pytest.raises(ValueError, match="2"):
        fidfast.compute_fid(make_images(5), make_images(5), feature_extractor=extractor, progress=False)


# -- memory -----------------------------------------------------------------------------------------------------------

MEMORY_PROGRAM = textwrap.dedent(
    """
    import resource, sys
    import torch
    import fidfast

    torch.set_num_threads(1)

    def images(count):
        generator = torch.Generator().manual_seed(0)
        for _ in range(count):
            yield torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=generator)

    def extractor(images):
        return images.flatten(1)[:, :16].float()

    def run(count):
        fidfast.compute_statistics(images(count), feature_extractor=extractor, progress=False)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    first = run(2_000)
    print(run(20_000) - first)
    """
)


def test_memory_does_not_grow_with_the_number_of_images():
    done = subprocess.run([sys.executable, "-c", MEMORY_PROGRAM], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 64 * 18_000 + 256 * 1024, f"grew by {done.stdout} bytes"  # 64 bytes an image + allocator


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_runs_in_a_forked_child(weights_path):
    """A training script that forked after the first FID must not hang in our thread pool."""
    program = textwrap.dedent(
        """
        import os, torch, fidfast
        torch.set_num_threads(2)
        x = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
        fidfast.preprocess(x)
        pid = os.fork()
        if pid == 0:
            fidfast.preprocess(x)
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "7", done.stderr


def _mean_features(images: torch.Tensor) -> torch.Tensor:
    return images.float().mean((2, 3))


def test_a_generator_may_fill_one_buffer_again_and_again():
    images = torch.randint(0, 256, (10, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def generate():
        buffer = torch.empty(4, 3, 8, 8, dtype=torch.uint8)
        for start in range(0, 10, 4):
            part = images[start : start + 4]
            buffer[: len(part)] = part
            yield buffer[: len(part)]

    options = {"feature_extractor": _mean_features, "progress": False}
    assert fidfast.compute_fid(images, generate(), **options) == fidfast.compute_fid(images, images, **options) == 0


def test_value_range_is_for_the_side_with_floats():
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    result = fidfast.compute_fid(images, images.float() / 255, value_range=(0, 1), feature_dim=64, progress=False)
    assert result == pytest.approx(0, abs=1e-9)


def test_an_unusable_float_image_is_named_by_side_and_place():
    images = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    broken = images.clone()
    broken[11, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"generated: images\[11\].*NaN"):
        fidfast.compute_fid(images, broken, value_range=(0, 1), feature_dim=64, progress=False)


def test_statistics_say_how_many_images_were_skipped(tmp_path):
    for i in range(3):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "bad.png").write_text("no image")
    with pytest.warns(fidfast.FidfastWarning, match="1 unreadable image was skipped, first .*bad.png"):
        fidfast.compute_statistics(tmp_path, on_error="skip", feature_extractor=_mean_features, progress=False)


def test_without_a_standard_error(monkeypatch):
    images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    monkeypatch.setattr("sys.stderr", None)
    assert fidfast.compute_fid(images, images, feature_extractor=_mean_features) == 0


def test_own_features_of_another_size_than_the_real_side():
    images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    real = fidfast.compute_statistics(images, feature_extractor=lambda x: _mean_features(x)[:, :2], progress=False)
    with pytest.raises(fidfast.StatisticsError, match="generated: the feature_dim differs: expected 2 .* got 3"):
        fidfast.compute_fid(real, images, feature_extractor=_mean_features, progress=False)
