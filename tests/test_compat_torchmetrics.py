"""fidfast.compat.torchmetrics: the metrics on either base class, their states, and the faults that they do not have."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from test_compat_torch_fidelity import random_weights  # noqa: F401  a fixture
from test_metric import D, make_images, moments
from tolerances import TOLERANCES
from torch import Tensor, nn

import fidfast
from fidfast.compat.torchmetrics import (
    FrechetInceptionDistance,
    InceptionScore,
    KernelInceptionDistance,
    MemorizationInformedFrechetInceptionDistance,
)
from fidfast.compat.torchmetrics.image.kid import poly_mmd
from fidfast.compat.torchmetrics.image.network import to_bytes
from fidfast.compat.torchmetrics.metric import Metric
from fidfast.compat.torchmetrics.standalone import Metric as StandaloneMetric
from fidfast.metrics.kid import kernel_distance

pytestmark = pytest.mark.peers  # there too, where torchmetrics' own Metric is the base class
REAL, FAKE = make_images(60, 1), make_images(50, 2)
STATES = [f"{side}_features_{what}" for side in ("real", "fake") for what in ("sum", "cov_sum", "num_samples")]
STANDALONE = Metric is StandaloneMetric


class Moments(nn.Module):
    """(N, 3, H, W) uint8 → (N, 8)."""

    num_features = D

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.uint8
        return moments(x).to(self.scale.dtype) * self.scale


def fed(metric: Metric) -> Metric:
    for part in REAL.split(17):
        metric.update(part, real=True)
    for part in FAKE.split(9):
        metric.update(part, real=False)
    return metric


def fid_of(real: Tensor, fake: Tensor) -> float:
    sides = [fidfast.compute_statistics(x, feature_extractor=moments, progress=False) for x in (real, fake)]
    return float(fidfast.compute_fid(*sides, progress=False))


def test_fid_its_states_and_reset() -> None:
    metric = fed(FrechetInceptionDistance(Moments()))
    assert list(metric.metric_state) == STATES
    assert [tuple(state.shape) for state in metric.metric_state.values()] == [(D,), (D, D), ()] * 2
    assert [state.dtype for state in metric.metric_state.values()] == [torch.float64, torch.float64, torch.int64] * 2
    features = moments(REAL).double()
    assert torch.allclose(metric.real_features_sum, features.sum(0), rtol=1e-12)
    assert torch.allclose(metric.real_features_cov_sum, features.T @ features, rtol=1e-12)  # not centred, as there
    assert int(metric.real_features_num_samples) == 60
    value = metric.compute()
    assert value.shape == () and value.dtype == torch.float32
    assert float(value) == pytest.approx(fid_of(REAL, FAKE), rel=1e-6)
    assert metric.update_count == 4 + 6
    metric.reset()
    assert not any(state.any() for state in metric.metric_state.values())
    keeps = fed(FrechetInceptionDistance(Moments(), reset_real_features=False))
    assert float(keeps.compute()) == pytest.approx(float(value), rel=1e-6)
    keeps.reset()
    assert int(keeps.real_features_num_samples) == 60 and int(keeps.fake_features_num_samples) == 0
    keeps.update(REAL[:20], real=False)
    assert float(keeps.compute()) == pytest.approx(fid_of(REAL, REAL[:20]), rel=1e-6)


def test_forward_counts_the_real_side_that_stays_once() -> None:
    """torchmetrics' own metrics add it again with every call: 60 real images become 240 in two."""
    for metric, rows in (
        (FrechetInceptionDistance(Moments(), reset_real_features=False), None),
        (KernelInceptionDistance(Moments(), reset_real_features=False, subsets=1, subset_size=9), 1),
        (MemorizationInformedFrechetInceptionDistance(Moments(), reset_real_features=False), 1),
    ):
        metric.update(REAL, real=True)
        batches = [metric(part, real=False) for part in FAKE.split(25)]
        if rows is None:
            assert int(metric.real_features_num_samples) == 60 and int(metric.fake_features_num_samples) == 50
            assert float(batches[1]) == pytest.approx(fid_of(REAL, FAKE[25:]), rel=1e-6)
            assert float(metric.compute()) == pytest.approx(fid_of(REAL, FAKE), rel=1e-6)
        else:
            assert len(metric.real_features) == 1 and [len(part) for part in metric.fake_features] == [25, 25]
        metric.merge_state(copy.deepcopy(metric))  # no forward: both are added
        assert float(metric.real_features_num_samples if rows is None else len(metric.real_features)) in (2, 120)


def test_a_forward_that_fails_loses_nothing() -> None:
    """Of one side alone there is no value; torchmetrics' own metrics have then forgotten all that was before."""
    for metric in (FrechetInceptionDistance(Moments()), KernelInceptionDistance(Moments(), subsets=1, subset_size=50)):
        torch.manual_seed(7)  # KID draws
        value = fed(metric).compute()
        with pytest.raises((RuntimeError, ValueError), match="More than one sample|expected images before compute"):
            metric(REAL, real=True)
        metric.update(FAKE[:0], real=False)
        assert metric.update_count == 4 + 6 + 1
        torch.manual_seed(7)
        assert torch.equal(torch.as_tensor(metric.compute()), torch.as_tensor(value))


@pytest.mark.parametrize("keeps", [True, False])
def test_a_reset_leaves_the_lists_of_a_compute_group(keeps: bool) -> None:
    """MetricCollection lets two KIDs share their lists: forward() of one may not empty the other's, as there."""
    first, second = (
        KernelInceptionDistance(Moments(), reset_real_features=not keeps, subsets=1, subset_size=9) for _ in range(2)
    )
    fed(first)
    for name, state in first.metric_state.items():
        setattr(second, name, state)
    first.reset()
    assert len(first.real_features) == (4 if keeps else 0) and not first.fake_features
    assert len(second.real_features) == 4 and len(second.fake_features) == 6
    first.update(REAL, real=True)
    assert len(second.real_features) == 4


def test_a_reset_within_inference_mode_can_be_written_outside_it() -> None:
    metric = FrechetInceptionDistance(Moments())
    with torch.inference_mode():
        value = float(fed(metric).compute())
        metric.reset()
    assert float(fed(metric).compute()) == value  # torchmetrics: RuntimeError, inplace update to inference tensor


def test_a_merged_metric_computes_again() -> None:
    metric = FrechetInceptionDistance(Moments())
    for images, real in ((REAL[:30], True), (FAKE[:25], False)):
        metric.update(images, real=real)
    other = FrechetInceptionDistance(Moments())
    for images, real in ((REAL[30:], True), (FAKE[25:], False)):
        other.update(images, real=real)
    metric.compute()  # torchmetrics keeps this value
    metric.merge_state(other)
    assert float(metric.compute()) == pytest.approx(fid_of(REAL, FAKE), rel=1e-6)
    metric.merge_state(other.metric_state)
    assert int(metric.real_features_num_samples) == 90


def test_lists_take_what_the_users_network_takes() -> None:
    class Patches(nn.Module):
        def forward(self, x: dict[str, Tensor]) -> Tensor:
            return torch.cat([moments(x["left"]), moments(x["right"])])

    metric = KernelInceptionDistance(Patches(), subsets=1, subset_size=80)
    for images, real in ((REAL[:40], True), (FAKE[:40], False)):
        metric.update({"left": images[..., :6], "right": images[..., 6:]}, real=real)
    assert metric.real_features[0].shape == (80, D)
    assert torch.isfinite(metric.compute()[0])


def test_fid_with_fewer_images_than_features() -> None:
    metric = FrechetInceptionDistance(Moments())
    metric.update(REAL[:5], real=True)
    metric.update(FAKE[:3], real=False)
    assert float(metric.compute()) == pytest.approx(fid_of(REAL[:5], FAKE[:3]), rel=1e-5)


def test_fid_needs_two_images_of_each_side_and_a_rank_that_saw_none_computes() -> None:
    metric = FrechetInceptionDistance(Moments())
    metric.update(REAL, real=True)
    metric.update(FAKE[:1], real=False)
    with pytest.raises(RuntimeError, match="More than one sample is required .* got 60 real and 1 fake"):
        metric.compute()
    states = fed(FrechetInceptionDistance(Moments())).metric_state
    loaded = FrechetInceptionDistance(Moments())  # torchmetrics: AttributeError, no orig_dtype
    for name, state in states.items():
        setattr(loaded, name, state)
    assert float(loaded.compute()) == pytest.approx(fid_of(REAL, FAKE), rel=1e-6)


def test_persistent_states_travel_in_the_state_dict() -> None:
    metric = fed(FrechetInceptionDistance(Moments()))
    assert list(metric.state_dict()) == ["inception.scale"]
    metric.persistent(True)
    saved = copy.deepcopy(metric.state_dict())
    assert set(saved) == {*STATES, "inception.scale"}
    other = FrechetInceptionDistance(Moments())
    other.persistent(True)
    other.load_state_dict(saved)
    assert float(other.real_features_num_samples) == 60
    assert float(other.compute()) == float(metric.compute())
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        twin.update(FAKE[:3], real=False)
        assert int(twin.fake_features_num_samples) == 53 and int(metric.fake_features_num_samples) == 50


def test_custom_networks_are_asked_for_their_size() -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert tuple(x.shape[1:]) == (3, 9, 9)
            return x.float().mean((2, 3))

    metric = FrechetInceptionDistance(Plain(), input_img_size=(3, 9, 9))
    assert metric.real_features_sum.shape == (3,)
    sized = Plain()
    sized.num_features = torch.tensor(3)
    assert FrechetInceptionDistance(sized).real_features_sum.shape == (3,)
    sized.num_features = "3"
    with pytest.raises(TypeError, match="num_features"):
        FrechetInceptionDistance(sized)
    with pytest.raises(
        ValueError, match=r"feature: expected the network to return \(2, D\) for 2 images, got \(1, 3\)"
    ):
        metric.inception = nn.Sequential(Plain(), Mean())
        metric.update(torch.zeros(2, 3, 9, 9, dtype=torch.uint8), real=True)
    wide = FrechetInceptionDistance(Moments())
    wide.inception = Plain()
    with pytest.raises(ValueError, match="feature: expected 8 features of an image as before, got 3"):
        wide.update(torch.zeros(2, 3, 9, 9, dtype=torch.uint8), real=True)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(0)


def test_float_images_truncate_and_never_wrap_around() -> None:
    values = torch.tensor([0.0, 1.0, 0.5, 0.99999, 254.999 / 255, 1.0039 - 1e-4])
    assert to_bytes(values).tolist() == (values * 255).byte().tolist() == [0, 255, 127, 254, 254, 255]
    grid = torch.arange(256, dtype=torch.float64) / 255
    for dtype in (torch.float16, torch.float32, torch.float64):
        assert torch.equal(to_bytes(grid.to(dtype)), (grid.to(dtype) * 255).byte())
    for bad, got in (
        (torch.tensor([0.2, 1.01]), "values from 0.2 to 1.01"),
        (torch.tensor([-1.0, 1.0]), "values from -1 to 1"),
        (torch.tensor([0.1, float("nan")]), "NaN"),
        (torch.tensor([3], dtype=torch.uint8), "torch.uint8"),
    ):
        with pytest.raises(ValueError, match=f"imgs: expected .*as normalize=True says, got {got}"):
            to_bytes(bad)


def test_kid_draws_torchmetrics_subsets() -> None:
    metric = fed(KernelInceptionDistance(Moments(), subsets=3, subset_size=20, degree=2, gamma=0.1, coef=2.0))
    assert len(metric.real_features) == 4 and metric.real_features[0].shape == (17, D)
    torch.manual_seed(5)
    mean, std = metric.compute()
    torch.manual_seed(5)
    values = []
    for _ in range(3):
        x = moments(REAL).double()[torch.randperm(60)[:20]]
        y = moments(FAKE).double()[torch.randperm(50)[:20]]
        k = [(0.1 * a @ b.T + 2.0) ** 2 for a, b in ((x, x), (y, y), (x, y))]
        inside = sum(m.sum() - m.trace() for m in k[:2]) / (20 * 19)
        values.append(inside - 2 * k[2].mean())
    values = torch.stack(values)
    assert float(mean) == pytest.approx(float(values.mean()), rel=1e-5)
    assert float(std) == pytest.approx(float(values.std(unbiased=False)), rel=1e-4)
    assert mean.dtype == std.dtype == torch.float32 and mean.shape == ()
    with pytest.raises(
        ValueError, match="`subset_size` should be smaller than the number of samples, got 55 for 50 fake"
    ):
        fed(KernelInceptionDistance(Moments(), subset_size=55)).compute()
    with pytest.raises(ValueError, match="`subset_size` should be at least 2 to compute KID, got 1"):  # there: NaN
        fed(KernelInceptionDistance(Moments(), subset_size=1)).compute()


def test_kids_functions() -> None:
    x, y = moments(REAL[:20]).double(), moments(FAKE[:20]).double()
    exact = kernel_distance(x, y, subsets=None, degree=2, gamma=0.1, coef0=2.0)
    assert float(poly_mmd(x, y, 2, 0.1, 2.0)) == pytest.approx(exact.mean, rel=1e-9)
    assert float(poly_mmd(x, y)) == pytest.approx(kernel_distance(x, y, subsets=None).mean, rel=1e-9)


def test_inception_score_splits_as_torchmetrics() -> None:
    class Logits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return moments(x) * 9

    metric = InceptionScore(Logits(), splits=4)
    for part in REAL[:22].split(5):
        metric.update(part)
    assert len(metric.features) == 5
    torch.manual_seed(3)
    mean, std = metric.compute()
    torch.manual_seed(3)
    p = (moments(REAL[:22]).double() * 9)[torch.randperm(22)].softmax(1)
    scores = torch.stack([(q * (q / q.mean(0)).log()).sum(1).mean().exp() for q in p.chunk(4)])  # 6, 6, 6, 4
    assert float(mean) == pytest.approx(float(scores.mean()), rel=1e-6)
    assert float(std) == pytest.approx(float(scores.std()), rel=1e-5)
    before = [part.clone() for part in metric.features]
    torch.manual_seed(3)
    batch = metric(REAL[:22])  # the value of the batch alone
    assert float(batch[0]) == pytest.approx(float(mean), rel=1e-6)
    assert len(metric.features) == 6 and all(map(torch.equal, metric.features, before))


def test_mifid_penalises_what_is_close() -> None:
    metric = fed(MemorizationInformedFrechetInceptionDistance(Moments(), cosine_distance_eps=0.9))
    real, fake = moments(REAL).double(), moments(FAKE).double()
    cosine = (real / real.norm(dim=1, keepdim=True)) @ (fake / fake.norm(dim=1, keepdim=True)).T
    distance = float((1 - cosine.abs()).amin(1).mean())
    assert float(metric.compute()) == pytest.approx(fid_of(REAL, FAKE) / distance, rel=1e-5)
    assert metric.real_features[0].dtype == torch.float64 and metric.compute().dtype == torch.float32
    metric.cosine_distance_eps = distance / 2
    metric.update(FAKE[:0], real=False)
    assert float(metric.compute()) == pytest.approx(fid_of(REAL, FAKE), rel=1e-5)
    same = MemorizationInformedFrechetInceptionDistance(Moments(), reset_real_features=False)
    for real_side in (True, False):
        same.update(REAL, real=real_side)
    assert float(same.compute()) == 0
    same.reset()
    assert len(same.real_features) == 1 and not same.fake_features


@pytest.mark.parametrize(
    ("metric", "kwargs", "error", "message"),
    [
        (FrechetInceptionDistance, {"feature": 100}, ValueError, "Integer input to argument `feature` must be one of"),
        (FrechetInceptionDistance, {"feature": "64"}, ValueError, "Integer input to argument `feature` must be one of"),
        (FrechetInceptionDistance, {"feature": 6.4}, TypeError, "Got unknown input to argument `feature`"),
        (FrechetInceptionDistance, {"normalize": 1}, ValueError, "Argument `normalize` expected to be a bool"),
        (
            FrechetInceptionDistance,
            {"reset_real_features": 1},
            ValueError,
            "`reset_real_features` expected to be a bool",
        ),
        (KernelInceptionDistance, {"subsets": 0}, ValueError, "`subsets` expected to be integer larger than 0"),
        (
            KernelInceptionDistance,
            {"subset_size": -1},
            ValueError,
            "`subset_size` expected to be integer larger than 0",
        ),
        (KernelInceptionDistance, {"degree": 1.5}, ValueError, "`degree` expected to be integer larger than 0"),
        (KernelInceptionDistance, {"gamma": 0}, ValueError, "`gamma` expected to be `None` or float larger than 0"),
        (KernelInceptionDistance, {"coef": 0.0}, ValueError, "`coef` expected to be float larger than 0"),
        (
            MemorizationInformedFrechetInceptionDistance,
            {"cosine_distance_eps": 2.0},
            ValueError,
            "`cosine_distance_eps`",
        ),
        (FrechetInceptionDistance, {"sync_on_compute": 3}, ValueError, "`sync_on_compute`"),
        (FrechetInceptionDistance, {"colour": 3}, ValueError, "Unexpected keyword arguments: `colour`"),
    ],
)
def test_arguments_are_checked(metric: type[Metric], kwargs: dict[str, object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        metric(**{"feature": Moments(), **kwargs})


def test_moving_and_float_types() -> None:
    metric = fed(FrechetInceptionDistance(Moments()))
    value = float(metric.compute())
    assert metric.double().inception.scale.dtype == torch.float32  # guarded, as torchmetrics' metrics are
    assert metric.half().real_features_sum.dtype == torch.float64
    metric.set_dtype(torch.float64)
    assert metric.inception.scale.dtype == torch.float64
    metric.reset()
    assert fed(metric).compute().dtype == torch.float64
    assert float(metric.compute()) == pytest.approx(value, rel=1e-6)
    assert metric.to("cpu").device.type == "cpu"
    for change in (nn.Module.half, lambda module: module.to(torch.bfloat16)):  # of the training module, not the metric
        model = change(nn.ModuleDict({"fid": fed(FrechetInceptionDistance(Moments()))}))
        assert model["fid"].real_features_sum.dtype == torch.float64
        model["fid"].inception.float()
        assert float(model["fid"].compute()) == pytest.approx(value, rel=1e-6)
        model["fid"].reset()
        assert float(fed(model["fid"]).compute()) == pytest.approx(value, rel=1e-6)
    lists = nn.ModuleDict({"kid": fed(KernelInceptionDistance(Moments()))}).to(torch.bfloat16)["kid"]
    assert torch.equal(lists.real_features[0], moments(REAL[:17]))


@pytest.mark.skipif(not STANDALONE, reason="torchmetrics is installed: its base class is the one in use")
def test_without_torchmetrics() -> None:
    metric = FrechetInceptionDistance(Moments())
    assert isinstance(metric, StandaloneMetric) and not metric.update_called
    with pytest.raises(RuntimeError, match="More than one sample is required"):
        metric(REAL, real=True)  # of one side alone there is no value, as in torchmetrics
    assert int(metric.real_features_num_samples) == 0  # and nothing is added
    with pytest.raises(ModuleNotFoundError, match="FrechetInceptionDistance.plot: plotting is torchmetrics'"):
        metric.plot(3.0)
    with pytest.raises(ValueError, match="Unexpected keyword arguments: `dist_sync_on_step`"):
        FrechetInceptionDistance(Moments(), dist_sync_on_step=True)
    uncached = fed(KernelInceptionDistance(Moments(), subsets=2, subset_size=9, compute_with_cache=False))
    assert uncached.compute()[0] != uncached.compute()[0]
    cached = fed(KernelInceptionDistance(Moments(), subsets=2, subset_size=9))
    assert cached.compute() is cached.compute()
    assert cached.clone().metric_state.keys() == cached.metric_state.keys()
    for bad in ({"real_features": []}, InceptionScore(Moments()), 3):
        with pytest.raises(ValueError, match="Expected incoming state to be a"):
            cached.merge_state(bad)


def test_the_fid_network_behind_the_metrics(random_weights: dict[str, Tensor]) -> None:  # noqa: F811
    metrics = {
        antialias: FrechetInceptionDistance(64, normalize=True, antialias=antialias) for antialias in (True, False)
    }
    real, fake = make_images(9, 8, 40), make_images(7, 9, 24) // 2
    for antialias, metric in metrics.items():
        metric.update(real.float() / 255, real=True)
        metric.update(fake.float() / 255, real=False)
        extractor = fidfast.FeatureExtractor(64, preset="torchmetrics" if antialias else "tensorflow", device="cpu")
        rows = [extractor((x.float() / 255 * 255).byte()).double() for x in (real, fake)]
        parts = [part for row in rows for part in (row.mean(0), row.T.cov())]
        assert float(metric.compute()) == pytest.approx(float(fidfast.frechet_distance(*parts)), rel=1e-6)
        with pytest.raises(ValueError, match="dtype torch.uint8"):
            FrechetInceptionDistance(64).update(real.float(), real=True)
    assert float(metrics[True].compute()) != float(metrics[False].compute())
    shared = [FrechetInceptionDistance(64), KernelInceptionDistance(64)]
    for metric in shared:
        metric.update(real[:2], real=True)
    assert shared[0].inception.network() is shared[1].inception.network()
    metrics[True].set_dtype(torch.float64)
    assert metrics[True].inception.in_double
    metrics[True].reset()
    metrics[True].update(real.float() / 255, real=True)
    metrics[True].update(fake.float() / 255, real=False)
    assert metrics[True].compute().dtype == torch.float64
    twin = pickle.loads(pickle.dumps(shared[0]))
    assert torch.equal(twin.inception(real[:2]), shared[0].inception(real[:2]))
    shared[0].load_state_dict({"inception.fc.bias": torch.zeros(1008)}, strict=True)  # a checkpoint of torchmetrics'


def test_a_known_value_with_the_real_weights(weights_path: Path) -> None:
    """torchmetrics' own example, on tensors of another seed; the value is of its network in float64 (torch 2.13)."""
    torch.manual_seed(123)
    metric = FrechetInceptionDistance(64, antialias=False, feature_extractor_weights_path=str(weights_path))
    for low, high, real in ((0, 200, True), (100, 255, False)):
        images = torch.randint(low, high, (100, 3, 299, 299), dtype=torch.uint8)
        metric.update(images, real=real)
    assert float(metric.compute()) == pytest.approx(12.69292, abs=TOLERANCES["network/known-fid"].atol)
