"""fidfast.compat.pytorch_fid: the calls, prints and files of pytorch-fid. Beside the original: test_compat_peers.py."""

from __future__ import annotations

import copy
import functools
import pickle
import runpy
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_folders import write_images
from PIL import Image
from tolerances import TOLERANCES

import fidfast
from fidfast.compat.pytorch_fid import fid_score, inception
from fidfast.compat.pytorch_fid.inception import InceptionV3

CPU = torch.device("cpu")
load_once = functools.cache(fidfast.FeatureExtractor)
WARNING = "Warning: batch size is bigger than the data size. Setting batch size to data size\n"


@pytest.fixture(autouse=True)
def networks_load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "FeatureExtractor", load_once)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, weights_path: Path) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("pytorch-fid")
    return str(write_images(root / "real", 9, seed=1)), str(write_images(root / "generated", 8, seed=2))


@pytest.fixture(scope="module")
def network(weights_path: Path) -> InceptionV3:
    return InceptionV3()


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["pytorch-fid", *arguments])
    runpy.run_module("fidfast.compat.pytorch_fid", run_name="__main__")


def test_the_fid_of_two_folders(folders: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    value = fid_score.calculate_fid_given_paths(folders, 50, CPU, 64)
    assert isinstance(value, np.float64)
    assert value == float(fidfast.compute_fid(*folders, feature_dim=64, device="cpu", progress=False))
    assert value > 1e-3
    assert capsys.readouterr().out == 2 * WARNING
    assert fid_score.calculate_fid_given_paths(folders, 3, "cpu", 64, num_workers=0) == value
    assert capsys.readouterr().out == ""


def test_the_command(
    folders: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--device", "cpu", "--dims", "64", "--batch-size", "4")
    run_command(monkeypatch, *folders, *options)
    printed = capsys.readouterr().out
    assert printed == f"FID:  {float(printed.split()[-1])}\n"
    target = str(tmp_path / "real.npz")
    run_command(monkeypatch, folders[0], target, "--save-stats", *options)
    assert capsys.readouterr().out == f"Saving statistics for {folders[0]}\n"
    with np.load(target) as archive:
        assert archive["mu"].shape == (64,) and archive["sigma"].shape == (64, 64)
    run_command(monkeypatch, target, folders[1], *options)
    again = capsys.readouterr().out
    assert float(again.split()[-1]) == pytest.approx(float(printed.split()[-1]), rel=1e-9)
    with pytest.raises(RuntimeError, match="Existing output file"):
        run_command(monkeypatch, folders[0], target, "--save-stats", *options)
    for paths in ((folders[0], "nowhere"), ("nowhere", target)):
        with pytest.raises(RuntimeError, match="Invalid path: nowhere"):
            run_command(monkeypatch, *paths, *options)


def test_a_plain_statistics_file_is_taken_in_silence(folders: tuple[str, str], tmp_path: Path) -> None:
    expected = fid_score.calculate_fid_given_paths(folders, 5, CPU, 64)
    statistics = fidfast.compute_statistics(folders[0], feature_dim=64, device="cpu", progress=False)
    path = tmp_path / "plain.npz"
    np.savez_compressed(path, mu=statistics.mu.numpy(), sigma=statistics.sigma.numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = fid_score.calculate_fid_given_paths([path, folders[1]], 5, CPU, 64)
    assert value == pytest.approx(expected, rel=1e-6)
    mu, sigma = fid_score.compute_statistics_of_path(str(path), None, 5, 64, CPU)
    assert np.array_equal(mu, statistics.mu) and np.array_equal(sigma, statistics.sigma)
    with pytest.raises(ValueError, match="expected statistics of 2048 features, got 64"):
        fid_score.calculate_fid_given_paths([path, folders[1]], 5, CPU, 2048)


def test_statistics_of_another_preprocessing_are_refused(folders: tuple[str, str], tmp_path: Path) -> None:
    statistics = fidfast.compute_statistics(
        folders[0], preset="tensorflow", feature_dim=64, device="cpu", progress=False
    )
    path = statistics.save(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="expected statistics of preset 'pytorch-fid', got those of 'tensorflow'"):
        fid_score.calculate_fid_given_paths([path, folders[1]], 5, CPU, 64)
    own = fidfast.FeatureStatistics(64, weights="my.Network sha256 0")
    own.update(torch.rand(5, 64))
    with pytest.raises(ValueError, match="expected statistics of preset 'pytorch-fid', got those of 'my.Network"):
        fid_score.calculate_fid_given_paths([own.save(tmp_path / "own.npz"), folders[1]], 5, CPU, 64)


def test_the_same_files_as_pytorch_fid(folders: tuple[str, str], tmp_path: Path, network: InceptionV3) -> None:
    for suffix in fid_score.IMAGE_EXTENSIONS:
        Image.new("RGB", (8, 8)).save(tmp_path / f"a.{suffix}")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.PNG")
    write_images(tmp_path / "below", 1, seed=0)
    assert len(fid_score._files(tmp_path)) == len(fid_score.IMAGE_EXTENSIONS) == 9
    dataset = fid_score.ImagePathDataset(fid_score._files(tmp_path), transforms=np.array)
    assert len(dataset) == 9 and dataset[0].shape == (8, 8, 3)
    with pytest.raises(fidfast.ImagesError, match="expected images directly in this folder.*found none"):
        fid_score.compute_statistics_of_path(tmp_path.parent, network, 50, 2048, CPU)


def test_activations_in_order_and_repeated_files_twice(folders: tuple[str, str]) -> None:
    network = InceptionV3([0])
    files = sorted(Path(folders[0]).iterdir())
    chosen = [files[3], files[0], str(files[3])]
    got = fid_score.get_activations(chosen, network, 2, 64)
    assert got.dtype == np.float64 and got.shape == (3, 64)
    assert np.array_equal(got[0], got[2]) and not np.array_equal(got[0], got[1])
    images = [torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in (files[3], files[0])]
    assert np.array_equal(got[:2], fidfast.FeatureExtractor(64, device="cpu")(images).numpy())
    mu, sigma = fid_score.calculate_activation_statistics(chosen, network, 2, 64)
    assert np.allclose(mu, got.mean(axis=0), rtol=1e-12, atol=0)
    assert np.allclose(sigma, np.cov(got, rowvar=False), rtol=1e-9, atol=1e-12)


class MeanColour:
    """A model of someone else's: three features, the mean of each channel."""

    evaluated = False

    def eval(self) -> MeanColour:
        self.evaluated = True
        return self

    def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
        assert images.dtype == torch.float32 and float(images.max()) <= 1
        return [images.mean(dim=(2, 3), keepdim=True)]


def test_any_model_that_returns_maps(tmp_path: Path) -> None:
    for index, value in enumerate((0, 128, 255)):
        Image.new("RGB", (4, 4), (value,) * 3).save(tmp_path / f"{index}.png")
    model = MeanColour()
    mu, sigma = fid_score.compute_statistics_of_path(str(tmp_path), model, 3, 3, CPU, 0)
    assert model.evaluated
    assert np.allclose(mu, 0.5, atol=1e-3) and np.allclose(sigma, 0.25, atol=1e-3)
    with pytest.raises(ValueError, match="dims: expected 3, as the model's features have, got 64"):
        fid_score.get_activations(sorted(tmp_path.iterdir()), MeanColour(), 3, 64)


def test_the_distance() -> None:
    rng = np.random.default_rng(0)
    mu1, mu2 = rng.standard_normal((2, 5))
    sigma1, sigma2 = (np.cov(rng.standard_normal((5, 20))) for _ in range(2))
    expected = fidfast.frechet_distance(mu1, sigma1, mu2, sigma2)
    assert fid_score.calculate_frechet_distance(mu1, sigma1, mu2, sigma2, eps=1) == expected
    assert fid_score.calculate_frechet_distance(1.0, 4.0, 3.0, 9.0) == pytest.approx(4 + 1)
    with pytest.raises(ValueError, match="mu2: expected shape"):
        fid_score.calculate_frechet_distance(mu1, sigma1, mu2[:4], sigma2[:4, :4])


def test_maps_of_all_blocks_and_their_gradient(weights_path: Path) -> None:
    model = InceptionV3([3, 0, 2, 1])
    images = torch.rand(2, 3, 64, 80, requires_grad=True)
    maps = model(images)
    assert [tuple(one.shape[1:]) for one in maps] == [(64, 73, 73), (192, 35, 35), (768, 17, 17), (2048, 1, 1)]
    maps[3].sum().backward()
    assert images.grad is not None and float(images.grad.abs().sum()) > 0
    assert not any(parameter.requires_grad for parameter in model.parameters())
    scale = {64: 2.0, 192: 5.0, 768: 2.0, 2048: 2.0}  # of the largest feature, about
    for block, (dims, size) in enumerate(scale.items()):
        extractor = fidfast.FeatureExtractor(dims, device="cpu")
        x, _ = extractor.preprocess(list(images.detach()), value_range=(0, 1), quantize=None)
        difference = (maps[block].detach().mean(dim=(2, 3)) - extractor.network(x)).abs().max()
        assert float(difference) <= TOLERANCES["network/winograd"].atol * size


def count_fast(monkeypatch: pytest.MonkeyPatch, model: InceptionV3) -> list[Any]:
    """A list that grows with every pass of fidfast's own network."""
    calls: list[Any] = []
    extractor = model.extractor(2048, "cpu")
    assert extractor is not None
    network = extractor.network
    monkeypatch.setattr(extractor, "network", lambda x: calls.append(x) or network(x))
    return calls


def test_the_fast_path_is_taken_only_where_it_is_the_same(monkeypatch: pytest.MonkeyPatch, weights_path: Path) -> None:
    model = InceptionV3().to("cpu")
    calls = count_fast(monkeypatch, model)
    images = torch.rand(1, 3, 32, 32)
    fast = model(images)[0]
    assert len(calls) == 1 and fast.shape == (1, 2048, 1, 1)
    wanted = images.clone().requires_grad_()
    assert torch.allclose(model(wanted)[0], fast, rtol=0, atol=2 * TOLERANCES["network/winograd"].atol)
    with torch.no_grad():
        assert torch.equal(model(wanted)[0], fast)
    assert len(calls) == 2
    model(images * 3)  # far outside: the network of pytorch-fid says nothing, nor does this one
    model(images.double().float().requires_grad_())
    assert len(calls) == 2
    with torch.no_grad():
        model.blocks[0][0].conv.weight.mul_(0.5)
    assert not torch.allclose(model(images)[0], fast, atol=1e-2)
    assert len(calls) == 2


def test_it_copies_pickles_and_stays_in_eval_mode(network: InceptionV3) -> None:
    images = torch.rand(1, 3, 40, 40)
    expected = network(images)[0]
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(images)[0], expected)
    outer = torch.nn.Sequential(copy.deepcopy(network)).train()
    assert not any(module.training for module in outer[0].modules())
    trained = InceptionV3([0], requires_grad=True).train()
    assert trained.blocks[0][0].bn.training and trained.blocks[0][0].conv.weight.requires_grad
    keys = set(network.state_dict())
    assert {"blocks.0.0.conv.weight", "blocks.0.0.bn.running_var", "blocks.3.2.branch3x3dbl_3b.bn.bias"} <= keys


def test_what_it_has_not_is_refused(weights_path: Path) -> None:
    with pytest.raises(ValueError, match="use_fid_inception: expected True"):
        InceptionV3(use_fid_inception=False)
    for blocks in ((4,), (-1, 3), ()):
        with pytest.raises(ValueError, match="output_blocks: expected some of 0, 1, 2, 3"):
            InceptionV3(blocks)
    assert InceptionV3.BLOCK_INDEX_BY_DIM[768] == 2 and InceptionV3.DEFAULT_BLOCK_INDEX == 3


def test_the_whole_network_with_and_without_its_final_layer(
    monkeypatch: pytest.MonkeyPatch, weights_path: Path
) -> None:
    path, state = inception.open_weights()
    state = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    x = torch.rand(1, 3, 299, 299) * 2 - 1
    monkeypatch.setattr(inception, "open_weights", lambda: (path, state))
    with pytest.raises(fidfast.WeightsError, match="no final layer"):
        inception.fid_inception_v3()(x)
    fc = {"fc.weight": torch.eye(1008, 2048), "fc.bias": torch.ones(1008)}
    monkeypatch.setattr(inception, "open_weights", lambda: (path, {**state, **fc}))
    with torch.no_grad():
        logits = inception.fid_inception_v3()(x)
    features = fidfast.FeatureExtractor(device="cpu").network(x)
    assert torch.allclose(logits, features[:, :1008] + 1, rtol=0, atol=2 * TOLERANCES["network/winograd"].atol)


def test_blocks_alone_have_random_weights() -> None:
    block = inception.FIDInceptionA(192, pool_features=32)
    assert block(torch.rand(1, 192, 5, 5)).shape == (1, 256, 5, 5)
    assert inception.FIDInceptionC(768, 128)(torch.rand(1, 768, 3, 3)).shape == (1, 768, 3, 3)
    for kind in (inception.FIDInceptionE_1, inception.FIDInceptionE_2):
        assert kind(64)(torch.rand(2, 64, 3, 3)).shape == (2, 2048, 3, 3)
    assert float(block.branch1x1.conv.weight.detach().std()) > 0 and block.training


def test_a_folder_of_mixed_sizes(folders: tuple[str, str], tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(folders[1], mixed)
    Image.new("RGB", (17, 90), (9, 99, 199)).save(mixed / "other.png")
    assert fid_score.calculate_fid_given_paths([folders[0], mixed], 4, CPU, 64) > 0


def test_each_module_of_the_command_runs(folders: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """``python -m`` of fid_score too, the original's file before it was a package."""
    monkeypatch.setattr(sys, "argv", ["fid_score.py", folders[0], "nowhere"])
    monkeypatch.delitem(sys.modules, "fidfast.compat.pytorch_fid.fid_score")  # or runpy warns that it is loaded
    with pytest.raises(RuntimeError, match="Invalid path: nowhere"):
        runpy.run_module("fidfast.compat.pytorch_fid.fid_score", run_name="__main__")


def test_two_statistics_files_of_any_network(tmp_path: Path) -> None:
    """As there: dims is of the layer that images go to, and here are none."""
    moments = [(np.full(5, value), np.eye(5)) for value in (0.0, 1.0)]
    paths = [str(tmp_path / f"{index}.npz") for index in range(2)]
    for path, (mu, sigma) in zip(paths, moments, strict=True):
        np.savez(path, mu=mu, sigma=sigma)
    assert fid_score.calculate_fid_given_paths(paths, 50, CPU, 2048) == pytest.approx(5)


def test_what_is_wrong_is_said_before_the_work(folders: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(fidfast.StatisticsError, match="missing.npz: the folder .*below does not exist"):
        fid_score.save_fid_stats([folders[0], str(tmp_path / "below" / "missing")], 50, "no device", 64)
    seen = []

    class Counted(MeanColour):
        def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
            seen.append(len(images))
            return super().__call__(images)

    with pytest.raises(ValueError, match="dims: expected 3, as the model's features have, got 64"):
        fid_score.get_activations(sorted(Path(folders[0]).iterdir()), Counted(), 2, 64, CPU, 0)
    assert seen == [2]
