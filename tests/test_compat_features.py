"""The thin façades: piq, ignite and pytorch-image-generation-metrics, without the originals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_compat_edm import one_network  # noqa: F401  a fixture
from test_metric import D, make_images, moments
from torch import Tensor, nn
from torch.utils.data import DataLoader

import fidfast
from fidfast.compat import ignite, piq
from fidfast.compat import pytorch_image_generation_metrics as pig
from fidfast.compat.pytorch_image_generation_metrics import fid_ref
from fidfast.compat.pytorch_image_generation_metrics.utils import calc_fid_ref

A, B = make_images(40, 1), make_images(50, 2)


def exact(a: Tensor, b: Tensor) -> float:
    moments_of = [part for rows in (a.double(), b.double()) for part in (rows.mean(0), rows.T.cov())]
    return float(fidfast.frechet_distance(*moments_of))


def test_piqs_fid_of_features() -> None:
    value = piq.FID()(moments(A), moments(B).double())
    assert value.shape == () and value.dtype == torch.float64
    assert float(value) == pytest.approx(exact(moments(A), moments(B)), rel=1e-6)
    assert float(piq.FID()(moments(A), moments(A))) == pytest.approx(0, abs=1e-9)
    for bad, message in (
        ((moments(A)[0], moments(B)), r"x_features: expected a tensor \(N, D\), got \(8,\)"),
        ((moments(A), moments(B).numpy()), r"y_features: expected a tensor \(N, D\), got ndarray"),
        ((moments(A), moments(B)[:, :3]), "the feature_dim differs"),
        ((moments(A)[:1], moments(B)), "x_features: a covariance needs at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            piq.FID()(*bad)


def test_piqs_features_of_a_loader() -> None:
    class Maps(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            assert not self.training and x.dtype == torch.float32
            return [x.mean((2, 3), keepdim=True)]

    loader = [{"images": part / 255} for part in A.split(9)]
    found = piq.FID().compute_feats(loader, Maps(), device="cpu")
    assert torch.allclose(found, (A / 255).mean((2, 3)))
    for bad, network, error, message in (
        ([{"pictures": A}], Maps(), ValueError, "loader: expected dicts with a key 'images', got the keys"),
        ([[A]], Maps(), ValueError, "loader: expected dicts with a key 'images', got list"),
        ([], Maps(), ValueError, "loader: expected at least one batch, got none"),
        (loader, moments, TypeError, "feature_extractor: expected a torch.nn.Module, got function"),
        (loader, nn.Flatten(), ValueError, "feature_extractor: expected a list of one tensor, got Tensor"),
    ):
        with pytest.raises(error, match=message):
            piq.FID().compute_feats(bad, network, device="cpu")


def test_piqs_default_network_takes_floats_as_they_are(weights_path: Path) -> None:
    images = make_images(3, 4, 20).float() / 255 + 0.001
    images = images.clamp(0, 1)
    found = piq.FID().compute_feats([{"images": images}], device="cpu")
    exactly = fidfast.compute_features(
        images, preset="pytorch-fid", value_range=(0, 1), quantize=None, device="cpu", progress=False
    )["2048"]
    rounded = fidfast.FeatureExtractor(2048, device="cpu")(images, value_range=(0, 1))
    assert torch.equal(found, exactly) and not torch.equal(found, rounded)
    for bad, got in ((images * 2, "0.00"), (make_images(2), "torch.uint8")):
        with pytest.raises(ValueError, match=f"images: expected float images in .*got {got}"):
            piq.FID().compute_feats([{"images": bad}], device="cpu")


def test_ignites_fid_of_features_and_of_images() -> None:
    class Moments(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return moments(x)

    expected = exact(moments(A), moments(B[:40]))
    of_features, of_images = ignite.FID(num_features=D), ignite.FID(D, Moments())
    for a, b in zip(A.split(7), B[:40].split(7), strict=True):
        of_features.update((moments(a), moments(b)))
        of_images.update((a, b))
    assert of_features.compute() == pytest.approx(expected, rel=1e-6)
    assert of_images.compute() == pytest.approx(expected, rel=1e-6)
    assert of_images._num_examples == 40 and of_images._train_total.dtype == torch.float64
    moments_of = [part for rows in (moments(A).double(), moments(B).double()) for part in (rows.mean(0), rows.T.cov())]
    in_ignites_order = (moments_of[0], moments_of[2], moments_of[1], moments_of[3])
    assert ignite.fid_score(*in_ignites_order) == pytest.approx(exact(moments(A), moments(B)), rel=1e-9)
    of_images.reset()
    with pytest.raises(ValueError, match="FID: a covariance needs at least 2 images, got 0"):
        of_images.compute()
    for update, message in (
        ((moments(A), moments(B)), "Number of Training Features and Testing Features should be equal"),
        ((moments(A)[:, :3], moments(B)), "num_features returned by feature_extractor should be 8, got: 3"),
        ((moments(A)[0], moments(B)), "must be a tensor of dim 2, got: 1"),
        ((moments(A)[:0], moments(B)), "Batch size should be greater than one, got: 0"),
    ):
        with pytest.raises(ValueError, match=message):
            of_features.update(update)
    assert of_features._num_examples == 40
    for arguments, error, message in (
        ({"feature_extractor": Moments()}, ValueError, "num_features must be provided"),
        ({"num_features": 0}, ValueError, "num_features must be greater to zero, got: 0"),
        ({"num_features": 8, "feature_extractor": moments}, TypeError, "must be of type torch.nn.Module"),
    ):
        with pytest.raises(error, match=message):
            ignite.FID(**arguments)


def test_ignites_default_is_the_fid_network(weights_path: Path) -> None:
    with pytest.warns(
        fidfast.FidfastWarning, match="torchvision's ImageNet classifier, gives distances that are no FID"
    ):
        metric = ignite.FID()
    a, b = make_images(3, 5, 20), make_images(3, 6, 20)
    metric.update((a, b.float() / 255))
    expected = fidfast.compute_fid(b, a, device="cpu", progress=False)
    assert metric.compute() == pytest.approx(float(expected), rel=1e-5)


def write(folder: Path, images: Tensor, suffix: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index:03}.{suffix}")


@pytest.mark.usefixtures("one_network")
def test_pigs_fid_of_tensors_loaders_and_folders(tmp_path: Path) -> None:
    real, made = make_images(3, 7, 24), make_images(5, 8, 24)
    write(tmp_path / "real" / "below", real)
    write(tmp_path / "made", made[:3])
    write(tmp_path / "made" / "more", made[3:])
    write(tmp_path / "made", made[:2], "bmp")  # not read
    mu, sigma = calc_fid_ref(str(tmp_path / "real"), str(tmp_path / "refs" / "real.npz"), num_workers=0, verbose=False)
    with np.load(tmp_path / "refs" / "real.npz") as stored:
        assert np.array_equal(stored["mu"], mu) and np.array_equal(stored["sigma"], sigma)
    np.savez_compressed(tmp_path / "theirs.npz", mu=mu, sigma=sigma)
    expected = float(fidfast.compute_fid(real, made, device="cpu", progress=False))
    floats = made.float() / 255
    for images in (floats, DataLoader(floats, batch_size=4)):
        assert pig.get_fid(images, str(tmp_path / "theirs.npz"), device="cpu") == pytest.approx(expected, rel=1e-5)
    folder = pig.get_fid_from_directory(str(tmp_path / "made"), str(tmp_path / "refs" / "real.npz"), use_torch=True)
    assert folder == pytest.approx(expected, rel=1e-6)
    dataset = pig.ImageDataset(str(tmp_path / "made"), exts=["png"], num_images=4)
    assert len(dataset) == 4 and torch.equal(dataset[0], floats[0])
    assert dataset[0].is_contiguous()  # as ToTensor's
    for call, error, message in (
        (lambda: pig.get_fid(floats, str(tmp_path / "none.npz")), ValueError, "expected a statistics file"),
        (lambda: pig.get_fid(floats * 3, str(tmp_path / "theirs.npz")), ValueError, "expected values in"),
        (lambda: pig.get_fid(floats, str(tmp_path / "theirs.npz"), dims=3), TypeError, "expected the keywords"),
        (
            lambda: pig.get_fid_from_directory(str(tmp_path / "made"), "x", ["gif"]),
            ValueError,
            "path: expected images in",
        ),
    ):
        with pytest.raises(error, match=message):
            call()


@pytest.mark.usefixtures("one_network")
def test_pigs_command_and_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "real", make_images(4, 7, 24))
    arguments = ["--path", str(tmp_path / "real"), "--output", str(tmp_path / "real.npz"), "--num_workers", "0"]
    assert fid_ref.main([*arguments, "--img_size", "10"]) == 0
    small = [
        np.array(Image.fromarray(image.permute(1, 2, 0).numpy()).resize((10, 10), Image.Resampling.BILINEAR))
        for image in make_images(4, 7, 24)
    ]
    expected = fidfast.compute_statistics(np.stack(small), device="cpu", progress=False)
    with np.load(tmp_path / "real.npz") as stored:
        assert np.allclose(stored["mu"], expected.mu.numpy(), rtol=1e-6)
    assert fid_ref.main(["--path", str(tmp_path / "nothing"), "--output", str(tmp_path / "x.npz")]) == 1
    assert f"fid_ref: error: path: expected images in {tmp_path / 'nothing'} with" in capsys.readouterr().err
    (tmp_path / "file").touch()
    with pytest.raises(OSError):  # before the images are looked for
        calc_fid_ref(str(tmp_path / "nothing"), str(tmp_path / "file" / "x.npz"))


def test_pigs_inception_score(monkeypatch: pytest.MonkeyPatch) -> None:
    from fidfast.compat.pytorch_image_generation_metrics import utils

    logits = torch.randn(41, 12, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(utils, "_features", lambda images, taps, options: {"logits_unbiased": logits})
    p = logits.double().softmax(1)
    parts = [p[i * 41 // 4 : (i + 1) * 41 // 4] for i in range(4)]
    scores = torch.stack([(q * (q / q.mean(0)).log()).sum(1).mean().exp() for q in parts])
    for use_torch in (False, True):
        found = pig.get_inception_score(torch.zeros(41, 3, 8, 8), splits=4, use_torch=use_torch)
        assert found == pytest.approx((float(scores.mean()), float(scores.std(unbiased=use_torch))), rel=1e-9)
