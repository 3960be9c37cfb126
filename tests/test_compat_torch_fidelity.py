"""fidfast.compat.torch_fidelity without the original: inputs, metrics, registries, cache, command, what is refused."""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_inception import random_state
from test_metric import make_images, moments
from tolerances import TOLERANCES
from torch import Tensor, nn

import fidfast
import fidfast.compat
from fidfast.compat import torch_fidelity
from fidfast.compat.torch_fidelity import feature_extractor_inceptionv3 as network
from fidfast.compat.torch_fidelity import fidelity, metric_fid, metric_isc, metric_kid, metric_prc, registry, utils
from fidfast.compat.torch_fidelity.datasets import ImagesPathDataset, ResizeAndCrop, TransformPILtoRGBTensor
from fidfast.compat.torch_fidelity.defaults import DEFAULTS
from fidfast.compat.torch_fidelity.helpers import text_to_dtype
from fidfast.compat.torch_fidelity.interpolate_compat_tensorflow import (
    interpolate_bilinear_2d_like_tensorflow1x as interpolate,
)
from fidfast.compat.torch_fidelity.utils import glob_samples_paths, sample_random
from fidfast.metrics.inception_score import inception_score
from fidfast.metrics.kid import kernel_distance
from fidfast.metrics.prdc import precision_recall

A, B = make_images(60, 1), make_images(50, 2)


class Moments(torch_fidelity.FeatureExtractorBase):
    """Two layers of channel statistics; accepts what every extractor is given."""

    runs = 0

    def __init__(self, name: str, features_list: list[str], **kwargs: object) -> None:
        super().__init__(name, features_list)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        assert x.dtype == torch.uint8 and not self.training
        type(self).runs += len(x)
        found = {"eight": moments(x), "three": moments(x)[:, :3].double()}
        return tuple(found[name] for name in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return "eight", "three"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "three" if metric == "kid" else "eight"

    @staticmethod
    def can_be_compiled() -> bool:
        return False


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    registries = [value for name, value in vars(registry).items() if name.endswith("_REGISTRY")]
    before = [dict(one) for one in registries]
    torch_fidelity.register_feature_extractor("moments", Moments)
    yield
    for one, content in zip(registries, before, strict=True):
        one.clear()
        one.update(content)


def calculate(**kwargs: object) -> dict[str, float]:
    options = {"cuda": False, "verbose": False, "save_cpu_ram": True, "feature_extractor": "moments"}
    options |= {"input1": Images(A), "input2": Images(B)}
    return torch_fidelity.calculate_metrics(**{**options, **kwargs})


class Images(torch.utils.data.Dataset):
    def __init__(self, images: Tensor, labelled: bool = False) -> None:
        self.images, self.labelled = images, labelled

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> object:
        return (self.images[index], 7) if self.labelled else self.images[index]


def fid_of(a: Tensor, b: Tensor) -> float:
    sides = [fidfast.compute_statistics(x, feature_extractor=moments, progress=False) for x in (b, a)]
    return float(fidfast.compute_fid(*sides, progress=False))


@pytest.fixture
def random_weights(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Random weights in the place of the real ones, with a final layer."""
    from fidfast import features

    state = {**random_state(), "fc.weight": torch.randn(1008, 2048) / 50, "fc.bias": torch.randn(1008)}
    for module in (network, features):
        monkeypatch.setattr(module, "open_weights", lambda weights=None, **options: (Path("random"), state))
    return state


def test_all_four_metrics_their_keys_and_order() -> None:
    options = {"kid_subsets": 5, "kid_subset_size": 20, "isc_splits": 3, "rng_seed": 4, "prc_neighborhood": 2}
    found = calculate(isc=True, fid=True, kid=True, prc=True, **options)
    score = inception_score(moments(A), splits=3, seed=4)
    distance = kernel_distance(moments(A)[:, :3], moments(B)[:, :3], subsets=5, subset_size=20, seed=4)
    found_prc = precision_recall(moments(B), moments(A), neighbours=2)
    assert list(found) == [
        "inception_score_mean",
        "inception_score_std",
        "frechet_inception_distance",
        "kernel_inception_distance_mean",
        "kernel_inception_distance_std",
        "precision",
        "recall",
        "f_score",
    ]
    f_score = 2 * found_prc.precision * found_prc.recall / (found_prc.precision + found_prc.recall)
    expected = [score.mean, score.std, fid_of(A, B), distance.mean, distance.std, *found_prc[:2], f_score]
    assert list(found.values()) == pytest.approx(expected, rel=TOLERANCES["ranks/fid"].rtol)
    assert all(type(value) is float for value in found.values())
    plain = calculate(isc=True, samples_shuffle=False, isc_splits=3)
    assert plain["inception_score_mean"] == inception_score(moments(A), splits=3, shuffle=False).mean
    rbf = calculate(kid=True, kid_subsets=5, kid_subset_size=20, kid_kernel="rbf", kid_kernel_rbf_sigma=2.0)
    assert rbf["kernel_inception_distance_mean"] == pytest.approx(
        kernel_distance(moments(A)[:, :3], moments(B)[:, :3], subsets=5, subset_size=20, kernel="rbf", sigma=2.0).mean
    )


def test_every_kind_of_input_gives_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    (folder / "below").mkdir(parents=True)
    for index, image in enumerate(A):
        name = f"{index:03}.PNG" if index < 50 else f"below/{index:03}.png"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / name, format="PNG")
    (folder / "notes.txt").write_text("no image")
    torch_fidelity.register_dataset("mine", lambda root, download: Images(A))
    expected = fid_of(A, B)
    for first in (Images(A), Images(A, labelled=True), "mine"):
        found = calculate(input1=first, fid=True, datasets_root=str(tmp_path), cache=False)
        assert found == {"frechet_inception_distance": pytest.approx(expected, rel=1e-9)}
    deep = calculate(input1=str(folder), fid=True, samples_find_deep=True)
    assert deep["frechet_inception_distance"] == pytest.approx(expected, rel=1e-9)
    assert len(utils.prepare_input_from_id(1, input1=str(folder), verbose=False)) == 50  # a Dataset, as there
    flat = calculate(input1=str(folder), fid=True)
    assert flat["frechet_inception_distance"] == pytest.approx(fid_of(A[:50], B), rel=1e-9)
    names = [Path(path).name for path in glob_samples_paths(str(folder), True, "png, jpg", verbose=False)]
    assert names == sorted(names) and len(names) == 60


def test_resize_and_crop(tmp_path: Path) -> None:
    image = Image.fromarray(make_images(1, 3, 40)[0, :, :, :25].permute(1, 2, 0).numpy())  # 25 wide, 40 high
    image.save(tmp_path / "one.png")
    assert torch.equal(TransformPILtoRGBTensor()(image), ImagesPathDataset([str(tmp_path / "one.png")])[0])
    made = ImagesPathDataset([str(tmp_path / "one.png")], ResizeAndCrop(10))[0]
    small = image.resize((10, 16), Image.Resampling.BILINEAR).crop((0, 3, 10, 13))
    assert made.shape == (3, 10, 10) and np.array_equal(made.permute(1, 2, 0).numpy(), np.array(small))
    image.resize((11, 30)).save(tmp_path / "two.png")
    found = calculate(input1=str(tmp_path), isc=True, isc_splits=1, samples_resize_and_crop=10)
    assert found["inception_score_mean"] >= 1


class Generator(nn.Module):
    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:  # (N, 4), (N,) → (N, 3, 6, 6) uint8
        images = (z[:, :3, None, None].expand(-1, -1, 6, 6) * 40 + 128).clamp(0, 255)
        if labels is not None:
            assert labels.dtype == torch.int64
            images = images + labels[:, None, None, None]
        return images.to(torch.uint8)


@pytest.mark.parametrize("classes", [0, 5])
def test_a_generator_draws_the_originals_noise(classes: int) -> None:
    model = torch_fidelity.GenerativeModelModuleWrapper(Generator(), 4, "normal", classes)
    options = {"input1_model_num_samples": 23, "batch_size": 10, "rng_seed": 9}
    found = calculate(input1=model, fid=True, **options)
    rng, parts = np.random.RandomState(9), []
    for size in (10, 10, 3):
        z = torch.from_numpy(rng.randn(size, 4)).float()
        labels = [torch.from_numpy(rng.randint(low=0, high=classes, size=(size,), dtype=np.int64))] if classes else []
        parts.append(Generator()(z, *labels))
    assert found["frechet_inception_distance"] == pytest.approx(fid_of(torch.cat(parts), B), rel=1e-9)
    with pytest.raises(ValueError, match="input1_model_num_samples: expected a positive whole number.*got None"):
        calculate(input1=model, fid=True)


def test_a_generator_that_makes_something_else(random_weights: dict[str, Tensor]) -> None:
    class Floats(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z[:, :3, None, None]

    wrapped = torch_fidelity.GenerativeModelModuleWrapper(Floats(), 4, "unit", 0)
    with pytest.raises(
        ValueError, match=r"input1: expected the generator to make torch.uint8 \(5, 3, H, W\), got torch.fl"
    ):
        calculate(input1=wrapped, fid=True, input1_model_num_samples=5, feature_extractor="inception-v3-compat")
    for bad, message in (
        ({"z_size": 0}, "z_size: expected a positive whole number, got 0"),
        ({"z_type": "pink"}, "z_type: expected one of normal, unit, uniform_0_1, got 'pink'"),
        ({"num_classes": -1}, "num_classes: expected a whole number of at least 0, got -1"),
        ({"module": 3}, "module: expected a torch.nn.Module, got int"),
    ):
        with pytest.raises(ValueError, match=message):
            torch_fidelity.GenerativeModelModuleWrapper(
                **{"module": Floats(), "z_size": 4, "z_type": "normal", "num_classes": 0, **bad}
            )


def test_a_torchscript_generator(tmp_path: Path) -> None:
    class Plain(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return (z[:, :3, None, None].expand(-1, -1, 6, 6) * 40 + 128).clamp(0, 255).to(torch.uint8)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        torch.jit.script(Plain()).save(str(tmp_path / "generator.pth"))
        options = {"input1_model_z_size": 4, "input1_model_num_samples": 20}
        found = calculate(input1=str(tmp_path / "generator.pth"), fid=True, **options)
    images = Generator()(torch.from_numpy(np.random.RandomState(2020).randn(20, 4)).float())
    assert found["frechet_inception_distance"] == pytest.approx(fid_of(images, B), rel=1e-9)


class Flat(torch_fidelity.FeatureExtractorBase):
    """A network of the user's own, of whatever the inputs hold."""

    def __init__(self, name: str, features_list: list[str], **kwargs: object) -> None:
        super().__init__(name, features_list)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x[:, ..., :3, :2].flatten(1).double() / 10,)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("flat",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "flat"


@pytest.mark.parametrize("labelled", [False, True])
def test_a_registered_network_gets_what_the_inputs_hold(labelled: bool) -> None:
    """Gray images stay gray and floats floats, as in the original: only the network can say what it takes."""
    torch_fidelity.register_feature_extractor("flat", Flat)
    for a, b in ((A[:, :1], B[:, :1]), (A[:, 0], B[:, 0]), (A / 3, B / 3), (A, B)):
        found = calculate(
            feature_extractor="flat", input1=Images(a, labelled), input2=Images(b, labelled), fid=True, batch_size=7
        )
        sides = []
        for images in (b, a):
            sides.append(fidfast.FeatureStatistics(images[0, ..., :3, :2].numel()))
            sides[-1].update(Flat("flat", ["flat"])(images)[0])
        expected = float(fidfast.compute_fid(*sides, progress=False))
        assert found["frechet_inception_distance"] == pytest.approx(expected, rel=1e-6)

    class Noise(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z[:, None, :3, None].expand(-1, 1, 3, 2)  # gray floats

    wrapped = torch_fidelity.GenerativeModelModuleWrapper(Noise(), 4, "normal", 0)
    options = {"input1_model_num_samples": 20, "batch_size": 9, "feature_extractor": "flat"}
    assert calculate(input1=wrapped, input2=Images(A[:, :1]), fid=True, **options)["frechet_inception_distance"] > 0

    class Numbers(Flat):
        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (x.float().mean((1, 2, 3)),)

    torch_fidelity.register_feature_extractor("numbers", Numbers)
    with pytest.raises(ValueError, match=r"numbers: expected features \(N, D\) under 'flat', got \(60,\)"):
        calculate(feature_extractor="numbers", fid=True)


def test_the_functions_below_calculate_metrics() -> None:
    """Which training code calls with statistics of its own: reference/peers.md knows of MAR's and JiT's."""
    options = {"cuda": False, "verbose": False, "save_cpu_ram": True, "feature_extractor": "moments"}
    options |= {"input1": Images(A), "input2": Images(B), "kid_subsets": 3, "kid_subset_size": 20, "isc_splits": 3}
    expected = calculate(isc=True, fid=True, kid=True, prc=True, **options)
    alone = {
        **metric_isc.calculate_isc(1, **options),
        **metric_fid.calculate_fid(**options),
        **metric_kid.calculate_kid(**options),
        **metric_prc.calculate_prc(**options),
    }
    assert list(alone) == list(expected) and alone == pytest.approx(expected, rel=1e-9)
    extractor = utils.create_feature_extractor("moments", ["eight", "three"], **options)
    features = [utils.extract_featuresdict_from_input_id_cached(i, extractor, **options) for i in (1, 2)]
    assert metric_isc.isc_featuresdict_to_metric(features[0], "eight", **options) == metric_isc.calculate_isc(
        1, **options
    )
    stats = [metric_fid.fid_featuresdict_to_statistics_cached(one, None, extractor, "eight") for one in features]
    assert metric_fid.fid_statistics_to_metric(*stats, False) == pytest.approx(metric_fid.calculate_fid(**options))
    of_dataset = utils.get_featuresdict_from_dataset(Images(A), extractor, 9, False, True, False)
    wrapped = torch_fidelity.GenerativeModelModuleWrapper(Generator(), 4, "normal", 0)
    made = utils.get_featuresdict_from_generative_model(wrapped, extractor, 7, 4, False, 1, False)
    for name in ("eight", "three"):
        assert torch.equal(of_dataset[name], features[0][name]) and len(made[name]) == 7
    assert [text_to_dtype(name, "float32") for name in ("float64", None)] == [torch.float64, torch.float32]


@pytest.mark.parametrize("align_corners", [False, True])
def test_tensorflows_resize(align_corners: bool) -> None:
    images = make_images(2, 5, 40)[:, :, :, :31].double()
    for size in ((299, 299), (17, 50), (1, 1)):
        found = interpolate(images, size, align_corners=align_corners)
        assert found.shape == (2, 3, *size)
        if size == (299, 299) and not align_corners:
            exact = network.resize(images.to(torch.uint8), "tensorflow")
            assert (found - exact).abs().max() <= 255 * TOLERANCES["resize/float64"].atol
    assert interpolate(images, scale_factor=(0.5, 2.0), align_corners=align_corners).shape == (2, 3, 20, 62)
    for bad, message in (
        ({"size": (3, 3)}, "align_corners: expected True or False, got None"),
        ({"align_corners": True}, "expected size or scale_factor"),
        ({"align_corners": True, "size": (3,)}, r"size: expected \(height, width\), got \(3,\)"),
        ({"align_corners": True, "size": (3, 3), "method": "best"}, "method: expected 'slow' or 'fast', got 'best'"),
        ({"align_corners": True, "size": (3, 3), "input": images.byte()}, "input: expected floating point"),
    ):
        with pytest.raises(ValueError, match=message):
            interpolate(**{"input": images, **bad})


def test_noise_and_interpolation() -> None:
    rng = np.random.RandomState(1)
    assert torch.equal(
        sample_random(rng, (2, 3), "normal"), torch.from_numpy(np.random.RandomState(1).randn(2, 3)).float()
    )
    assert torch.allclose(sample_random(rng, (4, 3), "unit").norm(dim=1), torch.ones(4))
    a, b = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [0.0, 4.0]])
    half = registry.INTERPOLATION_REGISTRY["slerp_any"](a, b, 0.5)
    assert torch.allclose(half, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, 3.0]]))  # a quarter circle; one direction
    assert torch.equal(registry.INTERPOLATION_REGISTRY["lerp"](a, b, 0.25), a + (b - a) / 4)
    assert torch.allclose(registry.INTERPOLATION_REGISTRY["slerp_unit"](a, b, 0.5).norm(dim=1), torch.ones(2))
    torch_fidelity.register_noise_source("zeros", lambda rng, shape: torch.zeros(shape))
    assert not sample_random(rng, (2, 2), "zeros").any()


def test_a_statistics_file_in_the_place_of_input2(tmp_path: Path) -> None:
    features = moments(B).double().numpy()
    np.savez(tmp_path / "ref.npz", mu=features.mean(0), sigma=np.cov(features, rowvar=False))
    for more in ({}, {"isc": True}):  # LTH14's fork forgets the file where only FID is asked for
        found = calculate(input2=None, fid=True, fid_statistics_file=str(tmp_path / "ref.npz"), **more)
        assert found["frechet_inception_distance"] == pytest.approx(fid_of(A, B), rel=1e-6)
    with pytest.raises(ValueError, match="input2: expected images for fid, kid, got None"):
        calculate(input2=None, fid=True, kid=True, fid_statistics_file=str(tmp_path / "ref.npz"))
    with pytest.raises(fidfast.StatisticsError, match="expected a statistics file"):
        calculate(input2=None, fid=True, fid_statistics_file=str(tmp_path / "nothing.npz"))


def test_the_cache_depends_on_what_the_features_depend_on(tmp_path: Path) -> None:
    options = {"cache_root": str(tmp_path), "input1_cache_name": "a", "isc": True, "isc_splits": 2, "input2": None}
    first = calculate(**options)
    Moments.runs = 0
    assert calculate(**options) == first and Moments.runs == 0
    files = [file.name for file in tmp_path.iterdir()]
    assert len(files) == 1 and files[0].startswith("a-moments-features-eight-") and files[0].endswith(".npz")
    calculate(**options, cache=False)
    assert Moments.runs >= len(A)
    Moments.runs = 0
    calculate(**options, samples_resize_and_crop=5)
    assert Moments.runs >= len(A) and len(list(tmp_path.iterdir())) == 2
    (tmp_path / files[0]).write_bytes((tmp_path / files[0]).read_bytes()[:300])
    with pytest.raises(ValueError, match=f"{files[0]}: expected cached features, got a damaged file.*; delete it"):
        calculate(**options)
    Moments.runs = 0
    with pytest.raises(ValueError, match="cache_name: expected a name without path delimiters, got 'b/a-moments'"):
        calculate(**{**options, "input1_cache_name": "b/a"})
    assert Moments.runs == 0  # said before the work


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"ppl": True}, "ppl: fidfast does not compute Perceptual Path Length.*call torch_fidelity itself"),
        ({"mind": True}, "mind: fidfast does not compute MIND"),
        ({}, "expected at least one metric: isc, fid, kid, prc, got none"),
        ({"fid": True, "input1": None}, "input1: expected images for every metric, got None"),
        ({"fid": True, "prc": True, "input2": None}, "input2: expected images for fid, prc, got None"),
        (
            {"fid": True, "input1": "nowhere"},
            "input1: expected a folder of images, one of the registered names cifar10",
        ),
        ({"fid": True, "input1": A}, "input1: expected a folder of images.*got Tensor"),
        ({"fid": True, "input1": Images(A[:0])}, "input1: expected images, got an empty Images"),
        ({"fid": True, "input1": "g.onnx"}, "input1: ONNX generators are not supported"),
        ({"kid": True}, "kid_subset_size: expected at most 60, the number of samples in input1, got 1000"),
        ({"kid": True, "kid_kernel": "flat"}, "kid_kernel: expected one of poly, rbf, got 'flat'"),
        (
            {"fid": True, "feature_extractor": "dinov2-vit-b-14"},
            "feature_extractor: expected one of inception-v3-compat",
        ),
        ({"fid": True, "feature_layer_fid": "nine"}, r"features_list: moments provides eight, three, got \['nine'\]"),
        ({"fid": True, "cuda": True}, "cuda: expected False, torch has no CUDA device here"),
    ],
)
def test_what_is_refused(kwargs: dict[str, object], message: str) -> None:
    if kwargs.get("cuda") and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ValueError, match=message):
        calculate(**kwargs)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="input1: expected images in .* with an extension of png,jpg,jpeg, at its top"):
        calculate(input1=str(tmp_path), fid=True)


def test_names_of_before_and_unknown_names_warn() -> None:
    with pytest.warns(FutureWarning, match="kid_degree is deprecated since 0.4.0, use kid_kernel_poly_degree"):
        old = calculate(kid=True, kid_subsets=2, kid_subset_size=9, kid_degree=2)
    assert old == calculate(kid=True, kid_subsets=2, kid_subset_size=9, kid_kernel_poly_degree=2)
    with pytest.warns(fidfast.FidfastWarning, match="calculate_metrics takes no gpu, jsn: ignored"):
        calculate(fid=True, gpu="0", jsn=True)


@pytest.mark.parametrize(
    ("register", "good"),
    [
        (torch_fidelity.register_dataset, lambda root, download: None),
        (torch_fidelity.register_feature_extractor, Moments),
        (torch_fidelity.register_sample_similarity, torch_fidelity.SampleSimilarityBase),
        (torch_fidelity.register_noise_source, lambda rng, shape: None),
        (torch_fidelity.register_interpolation, lambda a, b, t: None),
    ],
)
def test_registries_refuse_what_does_not_fit(register, good) -> None:
    register("fits", good)
    for name, value, message in (
        ("fits", good, "is already registered"),
        (" blank", good, "without blanks around it"),
        ("a/b", good, "without path delimiters"),
        (3, good, "expected a string as its name, got int"),
        ("other", 3, "expected a (callable|subclass)"),
    ):
        with pytest.raises(ValueError, match=message):
            register(name, value)


def test_install_gives_it_by_the_originals_name() -> None:
    fidfast.compat.install("torch_fidelity")
    try:
        assert importlib.import_module("torch_fidelity").calculate_metrics is torch_fidelity.calculate_metrics
        assert importlib.import_module("torch_fidelity.registry") is registry
    finally:
        fidfast.compat.uninstall()


def test_torchvisions_datasets_say_what_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchvision", None)
    with pytest.raises(ModuleNotFoundError, match="registered input CIFAR10 is torchvision's, which is not installed"):
        calculate(input2="cifar10-train", fid=True, datasets_root=str(tmp_path))


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    torch_fidelity.register_dataset("a", lambda root, download: Images(A))
    torch_fidelity.register_dataset("b", lambda root, download: Images(B))
    common = ["--input1", "a", "--input2", "b", "--cpu", "--silent", "--save-cpu-ram"]
    common += ["--feature-extractor", "moments", "--datasets-root", str(tmp_path), "--no-cache"]
    assert (
        fidelity.main(
            [*common, "--fid", "-k", "--kid-subsets", "3", "--kid-subset-size=7", "--kid-kernel-poly-gamma=.5"]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    expected = calculate(fid=True, kid=True, kid_subsets=3, kid_subset_size=7, kid_kernel_poly_gamma=0.5)
    assert lines == [f"{name}: {value:.7g}" for name, value in expected.items()]
    assert fidelity.main([*common, "-f", "--json", "--an-old-option", "3"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"frechet_inception_distance": pytest.approx(fid_of(A, B), rel=1e-9)}
    assert "unknown options are ignored: --an-old-option 3" in captured.err
    for arguments, message in (
        ([*common], "error: expected a metric"),
        ([*common, "--ppl"], "error: ppl: fidfast does not compute"),
        (["--fid", "--cpu", "--silent"], "error: input1: expected images for every metric, got None"),
    ):
        assert fidelity.main(arguments) == 1
        captured = capsys.readouterr()
        assert message in captured.err and not captured.out


def test_the_command_has_an_option_for_every_keyword() -> None:
    given = vars(fidelity.make_parser().parse_args(["--cpu"]))
    assert {name: given[name] for name in DEFAULTS if name != "cuda"} == {
        name: value for name, value in DEFAULTS.items() if name != "cuda"
    }
    turned = fidelity.make_parser().parse_args(
        ["--no-cache", "--silent", "--no-samples-shuffle", "--fid_statistics_file", "f"]
    )
    assert (turned.cache, turned.verbose, turned.samples_shuffle, turned.fid_statistics_file) == (
        False,
        False,
        False,
        "f",
    )
