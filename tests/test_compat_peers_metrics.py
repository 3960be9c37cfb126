"""The façades beside the tools that they stand for: signatures, names, and the same numbers from the same images."""

from __future__ import annotations

import importlib
import importlib.util
import io
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from signatures import assert_same_signature
from test_compat_torch_fidelity import Images
from test_compat_torch_fidelity_networks import vgg_state
from test_compat_torchmetrics import Moments
from test_metric import D, make_images, moments
from test_peers import ROOT, assert_same_fid, image_sets, peer_weights  # noqa: F401  a fixture
from tolerances import TOLERANCES
from torch import Tensor, nn

import fidfast.compat
from fidfast.compat import ignite as our_ignite
from fidfast.compat import piq as our_piq
from fidfast.compat import pytorch_image_generation_metrics as our_pig
from fidfast.compat import torch_fidelity as ours
from fidfast.compat import torchmetrics as our_metrics
from fidfast.compat.torch_fidelity import fidelity, metric_isc, metric_kid

pytestmark = pytest.mark.peers
SAME = TOLERANCES["compat/float32"].atol
REAL, FAKE = make_images(60, 1), make_images(50, 2)
METRICS = {
    "fid": "FrechetInceptionDistance",
    "kid": "KernelInceptionDistance",
    "inception": "InceptionScore",
    "mifid": "MemorizationInformedFrechetInceptionDistance",
}


def tool(name: str) -> ModuleType:
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        pytest.skip(f"{name.partition('.')[0]} is not installed here: see benchmarks/README.md")
    return importlib.import_module(name)


@pytest.fixture
def home(peer_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Where the tools find their weights."""
    monkeypatch.setenv("TORCH_HOME", str(peer_weights))


# ---------------------------------------------------------------------------------------------------------------------
# torchmetrics
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", METRICS)
def test_torchmetrics_interface(module: str) -> None:
    theirs = getattr(tool(f"torchmetrics.image.{module}"), METRICS[module])
    mine = getattr(our_metrics, METRICS[module])
    for method in ("__init__", "update", "compute", "reset", "plot", "set_dtype"):
        assert_same_signature(getattr(mine, method), getattr(theirs, method))
    assert issubclass(mine, tool("torchmetrics").Metric)
    constants = ("higher_is_better", "is_differentiable", "full_state_update", "plot_lower_bound", "plot_upper_bound")
    for constant in (*constants, "feature_network"):
        assert getattr(mine, constant) == getattr(theirs, constant)
    made = [cls(Moments()) for cls in (mine, theirs)]
    for function in ("maximum_mean_discrepancy", "poly_kernel", "poly_mmd") if module == "kid" else ():
        assert_same_signature(*(getattr(importlib.import_module(cls.__module__), function) for cls in (mine, theirs)))
    states = [{name: (type(v), getattr(v, "dtype", 0)) for name, v in one.metric_state.items()} for one in made]
    assert states[0] == states[1]


@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("fid", {}),
        ("kid", {"subsets": 4, "subset_size": 21, "degree": 2, "gamma": 0.05, "coef": 2.0}),
        ("kid", {"subsets": 4, "subset_size": 50}),
        ("inception", {"splits": 7}),
        ("mifid", {"cosine_distance_eps": 0.9}),
        ("mifid", {}),
    ],
)
def test_torchmetrics_numbers_from_the_same_features(module: str, options: dict[str, Any]) -> None:
    values = []
    for home_of in (
        getattr(our_metrics, METRICS[module]),
        getattr(tool(f"torchmetrics.image.{module}"), METRICS[module]),
    ):
        metric = home_of(Moments(), **options)
        for images, real in ((REAL, True), (FAKE, False)):
            for part in images.split(13):
                metric.update(part, **({} if module == "inception" else {"real": real}))
        torch.manual_seed(11)
        value = metric.compute()
        values.append([float(one) for one in (value if isinstance(value, tuple) else [value])])
    assert values[0] == pytest.approx(values[1], rel=1e-4, abs=SAME)


@pytest.mark.parametrize(("antialias", "normalize"), [(True, False), (False, True)])
def test_torchmetrics_fid_of_images(antialias: bool, normalize: bool, home: None) -> None:
    theirs = tool("torchmetrics.image.fid").FrechetInceptionDistance
    values = []
    real, fake = make_images(80, 3, 48), make_images(80, 4, 31) // 2 + 60
    if normalize:
        real, fake = real.float() / 255, fake.float() / 255 * 0.999
    for cls in (our_metrics.FrechetInceptionDistance, theirs):
        metric = cls(64, antialias=antialias, normalize=normalize)
        for images, side in ((real, True), (fake, False)):
            for part in images.split(40):
                metric.update(part, real=side)
        values.append(float(metric.compute()))
    assert_same_fid(*values, f"antialias={antialias}, normalize={normalize}")


def test_torchmetrics_own_examples(home: None) -> None:
    """What its documentation says of FID, MiFID and KID, on the tensors that it drew itself."""
    for module, options, documented in (
        ("fid", {"feature": 64}, [12.6388]),
        ("mifid", {"feature": 64}, [3003.3691]),
        ("kid", {"subset_size": 50}, [0.0312, 0.0025]),
    ):
        torch.manual_seed(42)
        getattr(tool(f"torchmetrics.image.{module}"), METRICS[module])(**options)  # its weights' random beginnings
        images = [
            torch.randint(low, high, (100, 3, 299, 299), dtype=torch.uint8) for low, high in ((0, 200), (100, 255))
        ]
        metric = getattr(our_metrics, METRICS[module])(**options)
        for side, part in zip((True, False), images, strict=True):
            metric.update(part, real=side)
        value = metric.compute()
        found = [float(one) for one in (value if isinstance(value, tuple) else [value])]
        assert found == pytest.approx(documented, rel=1e-4, abs=5.1e-5), module


def test_torchmetrics_collections_and_shared_networks() -> None:
    torchmetrics = tool("torchmetrics")
    kinds = (our_metrics.FrechetInceptionDistance, our_metrics.KernelInceptionDistance)
    collection = torchmetrics.MetricCollection({"a": kinds[0](Moments()), "b": kinds[1](Moments(), subset_size=40)})
    collection.update(REAL, real=True)
    collection.update(FAKE, real=False)
    values = collection.compute()
    assert set(values) == {"a", "b"}
    alone = kinds[0](Moments())
    alone.update(REAL, real=True)
    alone.update(FAKE, real=False)
    assert float(values["a"]) == pytest.approx(float(alone.compute()), rel=1e-6)

    kids = {name: kinds[1](Moments(), reset_real_features=False, subsets=2, subset_size=20) for name in "xy"}
    group = torchmetrics.MetricCollection(kids)
    for images, side in ((REAL, True), (FAKE, False)):
        group.update(images, real=side)
    assert len(group.compute_groups) == 1
    group(FAKE[:30], real=False)  # forward: of each metric for itself
    for metric in group.values():
        assert [len(part) for part in metric.real_features] == [60]
        assert [len(part) for part in metric.fake_features] == [50, 30]

    class Counting(Moments):
        runs = 0

        def forward(self, x: Tensor) -> Tensor:
            Counting.runs += 1
            return super().forward(x)

    shared = torchmetrics.wrappers.FeatureShare([kinds[0](Counting()), kinds[1](Counting(), subset_size=40)])
    shared.update(REAL, real=True)
    assert Counting.runs == 1


@pytest.fixture
def restored() -> Iterator[None]:
    yield
    fidfast.compat.uninstall()


def test_install_torchmetrics(restored: None) -> None:
    tool("torchmetrics")
    fidfast.compat.install("torchmetrics")
    for module, name in METRICS.items():
        theirs = importlib.import_module(f"torchmetrics.image.{module}")
        assert getattr(theirs, name) is getattr(our_metrics, name)
    from torchmetrics.image import FrechetInceptionDistance

    assert FrechetInceptionDistance is our_metrics.FrechetInceptionDistance
    assert issubclass(FrechetInceptionDistance, sys.modules["torchmetrics"].Metric)
    fidfast.compat.uninstall()
    from torchmetrics.image import FrechetInceptionDistance

    assert FrechetInceptionDistance is not our_metrics.FrechetInceptionDistance


# ---------------------------------------------------------------------------------------------------------------------
# torch-fidelity
# ---------------------------------------------------------------------------------------------------------------------


def test_torch_fidelity_interface() -> None:
    theirs = tool("torch_fidelity")
    defaults = tool("torch_fidelity.defaults").DEFAULTS
    assert {name: ours.defaults.DEFAULTS[name] for name in defaults} == defaults
    for name in ours.__all__:
        if name.startswith("KEY_METRIC"):
            assert getattr(ours, name) == getattr(theirs, name)
        elif name.startswith("register") or name == "calculate_metrics":
            assert_same_signature(getattr(ours, name), getattr(theirs, name))
        elif not name.startswith("FeatureExtractorV"):
            assert_same_signature(getattr(ours, name).__init__, getattr(theirs, name).__init__)
    registry = tool("torch_fidelity.registry")
    for name in ("DATASETS", "NOISE_SOURCE", "INTERPOLATION"):
        assert list(getattr(ours.registry, f"{name}_REGISTRY")) == list(getattr(registry, f"{name}_REGISTRY"))


def test_torch_fidelity_command_has_their_options(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, text = tool("torch_fidelity.fidelity"), io.StringIO()
    monkeypatch.setattr(sys, "argv", ["fidelity", "--help"])
    with redirect_stdout(text), pytest.raises(SystemExit):
        theirs.main()
    options = set(re.findall(r"(?<![\w-])(--?[a-z](?:[\w-]*\w)?)(?!-)\b", text.getvalue().partition("options:")[2]))
    mine = {option for action in fidelity.make_parser()._actions for option in action.option_strings}
    assert len(options) > 60 and options - {"-model"} <= mine, sorted(options - mine)


class Generator(nn.Module):
    def forward(self, z: Tensor, *labels: Tensor) -> Tensor:
        return (z[:, :3, None, None].expand(-1, -1, 40, 40) * 40 + 128).clamp(0, 255).to(torch.uint8)


@pytest.fixture
def calculate(home: None) -> Any:
    theirs = tool("torch_fidelity").calculate_metrics

    def both(**kwargs: Any) -> list[dict[str, float]]:
        options = {"cuda": False, "verbose": False, "cache": False, "feature_extractor": "inception-v3-compat"}
        return [function(**{**options, **kwargs}) for function in (ours.calculate_metrics, theirs)]

    return both


def test_torch_fidelity_numbers(calculate: Any, tmp_path: Path) -> None:
    real, made = image_sets("photographs", 72, 64)
    layers = {f"feature_layer_{metric}": "64" for metric in ("isc", "fid", "kid", "prc")}
    options = {"kid_subset_size": 30, "kid_subsets": 8, "isc_splits": 3}
    mine, theirs = calculate(input1=made, input2=real, isc=True, fid=True, kid=True, prc=True, **layers, **options)
    assert list(mine) == list(theirs)
    assert_same_fid(mine["frechet_inception_distance"], theirs["frechet_inception_distance"], "torch-fidelity")
    assert list(mine.values()) == pytest.approx(list(theirs.values()), rel=1e-4, abs=1e-4)
    features = torch.randn(2, 50, 7, generator=torch.Generator().manual_seed(2))
    for more in ({"kid_kernel": "rbf", "kid_kernel_rbf_sigma": 3.0}, {"kid_kernel_poly_gamma": 0.3, "rng_seed": 7}):
        given = {**options, **more, "verbose": False}
        kernels = [
            one.kid_features_to_metric(*features, **given) for one in (metric_kid, tool("torch_fidelity.metric_kid"))
        ]
        assert kernels[0] == pytest.approx(kernels[1], rel=1e-4, abs=SAME)
    logits = [one.isc_features_to_metric(features[0] * 3, 4) for one in (metric_isc, tool("torch_fidelity.metric_isc"))]
    assert logits[0] == pytest.approx(logits[1], rel=1e-9)
    real, made = image_sets("photographs", 10, 0)
    only = calculate(input1=made, input2=real, fid=True, feature_layer_fid="64", samples_resize_and_crop=50)
    assert_same_fid(*(one["frechet_inception_distance"] for one in only), "fid alone, resized and cropped")


def test_torch_fidelity_generators_and_datasets(calculate: Any) -> None:
    wrappers = [one.GenerativeModelModuleWrapper(Generator(), 5, "normal", 0) for one in (ours, tool("torch_fidelity"))]
    values = []
    for wrapper, function in zip(
        wrappers, (ours.calculate_metrics, tool("torch_fidelity").calculate_metrics), strict=True
    ):
        found = function(
            input1=wrapper,
            input2=Images(make_images(80, 5, 40)),
            input1_model_num_samples=70,
            fid=True,
            feature_layer_fid="64",
            cuda=False,
            verbose=False,
            batch_size=32,
        )
        values.append(found["frechet_inception_distance"])
    assert_same_fid(*values, "a generator against a Dataset")


def test_torch_fidelity_precision_and_recall_in_vgg16(calculate: Any, tmp_path: Path) -> None:
    torch.save(vgg_state(), tmp_path / "vgg.pth")
    inputs = {"input1": Images(make_images(6, 6, 30) // 2), "input2": Images(make_images(5, 7, 30) // 2 + 20)}
    weights = {"feature_extractor_weights_path": str(tmp_path / "vgg.pth")}
    mine, theirs = calculate(**inputs, prc=True, feature_extractor="vgg16", **weights)
    assert mine == pytest.approx(theirs, abs=SAME)
    networks = [
        one.FeatureExtractorVGG16("vgg16", ["fc2"], **weights)(make_images(1, 8, 50))[0]
        for one in (ours, tool("torch_fidelity"))
    ]
    assert torch.allclose(*networks, rtol=0, atol=1e-5 * float(networks[1].abs().max()))


def test_torch_fidelity_noise_and_interpolation() -> None:
    theirs = tool("torch_fidelity.noise")
    a, b = torch.randn(2, 6, 5)
    for name in ("random_normal", "random_unit", "random_uniform_0_1"):
        drawn = [getattr(one, name)(np.random.RandomState(3), (4, 5)) for one in (ours.noise, theirs)]
        assert torch.equal(*drawn)
    for name in ("batch_lerp", "batch_slerp_any", "batch_slerp_unit"):
        assert torch.allclose(*(getattr(one, name)(a, b, 0.3) for one in (ours.noise, theirs)), atol=1e-6)


def test_install_torch_fidelity(restored: None) -> None:
    fidfast.compat.install("torch_fidelity")
    import torch_fidelity
    from torch_fidelity.registry import register_dataset

    assert torch_fidelity.calculate_metrics is ours.calculate_metrics and register_dataset is ours.register_dataset


def test_torch_fidelity_functions() -> None:
    """Their names and parameters, and where there are numbers of features, those."""
    for module, names in (
        ("metric_fid", ("fid_features_to_statistics", "fid_statistics_to_metric", "fid_featuresdict_to_statistics",
                        "fid_featuresdict_to_statistics_cached", "fid_input_id_to_statistics", "fid_inputs_to_metric",
                        "fid_input_id_to_statistics_cached", "calculate_fid")),
        ("metric_isc", ("isc_features_to_metric", "isc_featuresdict_to_metric", "isc_input_id_to_metric",
                        "calculate_isc")),
        ("metric_kid", ("kid_features_to_metric", "kid_featuresdict_to_metric", "calculate_kid")),
        ("metric_prc", ("prc_features_to_metric", "prc_featuresdict_to_metric", "calculate_prc")),
        ("utils", ("glob_samples_paths", "create_feature_extractor", "get_featuresdict_from_dataset",
                   "get_featuresdict_from_generative_model", "extract_featuresdict_from_input_id_cached")),
        ("helpers", ("get_kwarg", "vassert", "vprint", "text_to_dtype")),
        ("interpolate_compat_tensorflow", ("interpolate_bilinear_2d_like_tensorflow1x",)),
    ):  # fmt: skip
        pair = [
            importlib.import_module(f"{one}.{module}")
            for one in ("fidfast.compat.torch_fidelity", tool("torch_fidelity").__name__)
        ]
        for name in names:
            assert_same_signature(*(getattr(one, name) for one in pair))
    images = make_images(2, 5, 40)[:, :, :, :31].float()
    for size, align_corners in (((299, 299), False), ((17, 50), True)):
        found = [
            importlib.import_module(f"{one}.interpolate_compat_tensorflow").interpolate_bilinear_2d_like_tensorflow1x(
                images, size=size, align_corners=align_corners
            )
            for one in ("fidfast.compat.torch_fidelity", "torch_fidelity")
        ]
        assert torch.allclose(*found, rtol=0, atol=255 * 1e-6)


def test_what_torchmetrics_imports_of_torch_fidelity_is_there() -> None:
    """Or ``import torchmetrics``, and with it lightning, would fail once torch_fidelity is installed."""
    theirs = Path(str(tool("torchmetrics").__file__)).parent / "image" / "fid.py"
    lines = re.findall(r"from (torch_fidelity\S*) import (\w+)", theirs.read_text())
    assert len(lines) >= 3
    for module, name in lines:
        assert hasattr(importlib.import_module(f"fidfast.compat.{module}"), name)


# ---------------------------------------------------------------------------------------------------------------------
# ignite, piq, pytorch-image-generation-metrics
# ---------------------------------------------------------------------------------------------------------------------


def test_ignite(restored: None) -> None:
    theirs = tool("ignite.metrics.gan.fid")
    assert_same_signature(our_ignite.fid_score, theirs.fid_score)
    parameters = [str(part) for part in _names(our_ignite.FID)]
    assert parameters == [str(part) for part in _names(theirs.FID)]
    assert issubclass(our_ignite.FID, tool("ignite.metrics").Metric)
    assert our_ignite.FID._state_dict_all_req_keys == theirs.FID._state_dict_all_req_keys
    engine_of = tool("ignite.engine").Engine
    values = []
    for cls in (our_ignite.FID, theirs.FID):
        engine = engine_of(lambda engine, batch: batch)
        cls(num_features=D).attach(engine, "fid")
        batches = [
            (moments(a).double(), moments(b).double()) for a, b in zip(REAL.split(10), FAKE.split(10), strict=False)
        ]
        values.append(engine.run(batches).metrics["fid"])
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    fidfast.compat.install("ignite")
    from ignite.metrics.gan.fid import FID

    assert FID is our_ignite.FID


def _names(cls: type) -> list[str]:
    import inspect

    return list(inspect.signature(cls).parameters)


def test_piq(home: None, restored: None) -> None:
    theirs = tool("piq.fid").FID
    for method in ("__init__", "forward", "compute_metric", "compute_feats"):
        assert_same_signature(getattr(our_piq.FID, method), getattr(theirs, method))
    x, y = torch.randn(2, 300, 12, generator=torch.Generator().manual_seed(4))
    values = [float(cls()(x, 1.5 * y + 0.5)) for cls in (our_piq.FID, theirs)]
    assert values[0] == pytest.approx(values[1], rel=1e-4)  # its Newton-Schulz iteration stops at 1e-5 of the root
    loader = [{"images": make_images(3, 9, 40).float() / 255}]
    found = [cls().compute_feats(loader, device="cpu") for cls in (our_piq.FID, theirs)]
    assert torch.allclose(*found, rtol=0, atol=2 * TOLERANCES["network/winograd"].atol * float(found[1].max()))
    fidfast.compat.install("piq")
    from piq import FID

    assert FID is our_piq.FID


def test_pytorch_image_generation_metrics(home: None, tmp_path: Path) -> None:
    theirs = tool("pytorch_image_generation_metrics")
    for name in our_pig.__all__:
        pair = [getattr(one, name) for one in (our_pig, theirs)]
        assert_same_signature(*(pair if name != "ImageDataset" else [one.__init__ for one in pair]))
    assert_same_signature(our_pig.utils.calc_fid_ref, theirs.utils.calc_fid_ref)
    real, made = image_sets("photographs", 5, 64)
    our_pig.utils.calc_fid_ref(real, str(tmp_path / "ref.npz"), num_workers=0, verbose=False)
    values = [
        one.get_fid_from_directory(made, str(tmp_path / "ref.npz"), device=torch.device("cpu"))
        for one in (our_pig, theirs)
    ]
    assert_same_fid(*values, "pytorch-image-generation-metrics, folders")
    floats = make_images(4, 9, 40).float() / 255
    core = tool("pytorch_image_generation_metrics.core")
    (found,) = core.get_inception_feature(floats, [2048], device=torch.device("cpu"))
    mine = our_pig.utils._features(floats, ["2048"], {})["2048"].numpy()
    assert np.abs(mine - found).max() <= TOLERANCES["taps/peer"].atol * found.max()
    probabilities = torch.randn(41, 9, generator=torch.Generator().manual_seed(1)).double()
    for use_torch in (False, True):
        given = probabilities.softmax(1) if use_torch else probabilities.softmax(1).numpy()
        expected = core.calculate_inception_score(given, 4, use_torch)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(our_pig.utils, "_features", lambda *_: {"logits_unbiased": probabilities})
            assert our_pig.get_inception_score(floats, 4, use_torch) == pytest.approx(expected, rel=1e-6)
