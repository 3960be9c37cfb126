"""Extractors: fixed chunks, exact for any batching, and every switch of torch left as it was found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_inception import random_state
from tolerances import TOLERANCES
from torch import Tensor, nn

from fidfast import features
from fidfast.features import CallableExtractor, FeatureExtractor, resolve_extractor
from fidfast.inception import Inception
from fidfast.precision import network_switches, resolve_precision
from fidfast.weights import FID_WEIGHTS_SHA256, WeightsError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_state()


@pytest.fixture(autouse=True)
def _random_weights(state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights in the place of the real ones, which a test marked `weights` asks for by their path."""
    found = features.open_weights
    monkeypatch.setattr(
        features, "open_weights", lambda path, **kw: found(path, **kw) if path else (Path("random"), state)
    )


def images(count: int, height: int = 20, width: int = 30) -> list[Tensor]:
    return list(torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8))


def colour_means(x: Tensor) -> Tensor:
    return x.float().mean((2, 3))


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    found = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(found)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def matmul_precision(value: str) -> Iterator[None]:
    found = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(value)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(found)


def global_state() -> dict[str, object]:
    state: dict[str, object] = {
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "default dtype": torch.get_default_dtype(),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
        "threads": torch.get_num_threads(),
        "random": torch.get_rng_state().tolist(),
    }
    if hasattr(torch.backends, "fp32_precision"):
        for name in ("cudnn.conv", "cudnn.rnn", "cuda.matmul", "mkldnn.conv", "mkldnn.matmul"):
            backend, operator = name.split(".")
            state[name] = getattr(getattr(torch.backends, backend), operator).fp32_precision
    else:
        state["cudnn tf32"] = torch.backends.cudnn.allow_tf32
        state["matmul tf32"] = torch.backends.cuda.matmul.allow_tf32
    return state


# The FID network


def test_features_do_not_depend_on_batching_or_place() -> None:
    extractor = FeatureExtractor(64)
    batch = images(11)
    together = extractor(batch)
    assert together.shape == (11, 64)
    assert together.dtype == torch.float32
    assert not together.requires_grad
    for size in (1, 7):
        parts = [extractor(batch[i : i + size]) for i in range(0, 11, size)]
        assert torch.equal(torch.cat(parts), together)
    assert torch.equal(extractor(torch.stack(batch)), together)
    order = torch.randperm(11).tolist()
    assert torch.equal(extractor([batch[i] for i in order]), together[order])


def test_rows_of_the_full_network_are_independent() -> None:
    extractor = FeatureExtractor()
    batch = images(3)
    together = extractor(batch)
    assert torch.equal(extractor(batch[1:2]), together[1:2])
    assert torch.equal(extractor(batch[::-1]), together.flip(0))


def test_preprocess_and_network_are_the_call() -> None:
    extractor = FeatureExtractor(64, preset="clean-fid")
    batch = images(3)
    x, hashes = extractor.preprocess(batch, content_hash=True)
    assert x.shape == (3, 3, 299, 299)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert hashes is not None and hashes.shape == (3, 2)
    assert extractor.preprocess(batch)[1] is None
    assert torch.equal(extractor.network(x), extractor(batch))
    assert not torch.equal(extractor(batch), FeatureExtractor(64)(batch)), "the preset has no effect"


def test_float_images() -> None:
    extractor = FeatureExtractor(64)
    batch = images(2)
    unit = [image.float() / 255 for image in batch]
    assert torch.equal(extractor(unit, value_range=(0, 1)), extractor(batch))
    with pytest.raises(ValueError, match="value_range"):
        extractor(unit)


def test_attributes() -> None:
    extractor = FeatureExtractor(64)
    assert (extractor.feature_dim, extractor.preset, extractor.precision) == (64, "pytorch-fid", "fp32")
    assert extractor.identity == FID_WEIGHTS_SHA256
    assert extractor.chunk_size == features.CPU_CHUNK
    assert extractor.compile_seconds == 0.0
    assert extractor([]).shape == (0, 64)


def test_kernels_say_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    named = FeatureExtractor(192).kernels["network"]
    assert ("oneDNN" in named) == torch.backends.mkldnn.is_available()
    monkeypatch.setattr("fidfast.inception._has_onednn_pointwise", lambda: False)
    monkeypatch.setattr("fidfast.ops.winograd_weight", lambda _: None)
    plain = FeatureExtractor(192)
    assert plain.kernels == {"network": "torch conv2d"}
    batch = images(2)
    torch.testing.assert_close(plain(batch), FeatureExtractor(192)(batch), rtol=1e-4, atol=1e-5)


def test_bf16_is_another_number_but_near() -> None:
    batch = images(2)
    exact, extractor = FeatureExtractor(64)(batch), FeatureExtractor(64, precision="bf16")
    assert extractor.preprocess(batch)[0].dtype == torch.bfloat16
    rounded = extractor(batch)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    tolerance = TOLERANCES["network/bf16"]
    torch.testing.assert_close(rounded, exact, rtol=tolerance.rtol, atol=tolerance.atol * float(exact.abs().max()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_dim": 100}, r"feature_dim: expected one of .*2048.*got 100"),
        ({"preset": "nonsense"}, "preset: expected"),
        ({"precision": "fp8"}, "precision: expected one of fp32, tf32, fp16, bf16, auto, got 'fp8'"),
        ({"precision": "fp16", "device": "cpu"}, "'fp16' needs a CUDA device, got cpu"),
        ({"precision": "tf32", "device": "cpu"}, "'tf32' needs an NVIDIA GPU .* got cpu"),
        ({"device": "nonsense"}, "device: expected one that torch can use here, got 'nonsense'"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureExtractor(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="device: expected one that torch can use here, got 'cuda'"):
        FeatureExtractor(64, device="cuda")


def test_wrong_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        FeatureExtractor(64, weights=tmp_path / "none.pth")


def test_auto_is_fp32_on_a_cpu() -> None:
    assert resolve_precision("auto", CPU) == "fp32"


def test_a_chunk_is_never_exceeded() -> None:
    extractor = FeatureExtractor(64)
    with pytest.raises(ValueError, match=f"x: expected 1 to {features.CPU_CHUNK} images, got {features.CPU_CHUNK + 1}"):
        extractor.network(torch.zeros(features.CPU_CHUNK + 1, 3, 299, 299))


# Switches

MODES = {
    "as it comes": contextlib.nullcontext,
    "no grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64 by default": lambda: default_dtype(torch.float64),
    "deterministic": deterministic,
    "bf16 products": lambda: matmul_precision("medium"),
}


@pytest.mark.parametrize("mode", MODES)
def test_whatever_the_user_has_set_changes_nothing_and_stays(mode: str) -> None:
    batch = images(2)
    expected = FeatureExtractor(192)(batch)
    with MODES[mode]():
        found = global_state()
        extractor = FeatureExtractor(192)
        result = extractor(batch)
        assert global_state() == found
        assert torch.equal(result, expected)
        assert result.dtype == torch.float32
        assert not result.requires_grad
    assert torch.equal(extractor(batch), expected), "an extractor made in a mode works outside it"


def test_autocast_does_not_reach_plain_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prepared kernels know no autocast; conv2d, which runs where they are missing, does."""
    batch = images(2)
    expected = FeatureExtractor(64)(batch)
    monkeypatch.setattr("fidfast.inception._has_onednn_pointwise", lambda: False)
    monkeypatch.setattr("fidfast.ops.winograd_weight", lambda _: None)
    extractor = FeatureExtractor(64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(extractor(batch), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="the older names are switched instead")
def test_switches_are_set_inside_and_inherit_again_outside() -> None:
    """On a CPU of today bf16 products would be hard to see in the features, so look at the switches themselves."""
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        with network_switches(CPU):
            assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
            assert torch.backends.mkldnn.conv.fp32_precision == "ieee"
            assert torch.backends.cudnn.conv.fp32_precision == "ieee"
            assert not torch.is_grad_enabled()
        with network_switches(CPU, tf32=True):
            assert torch.backends.cudnn.conv.fp32_precision == "tf32"
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = "none"
    found = torch.backends.mkldnn.fp32_precision
    torch.backends.mkldnn.fp32_precision = "bf16"
    try:
        with network_switches(CPU):
            pass
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        torch.backends.mkldnn.fp32_precision = "tf32"
        assert torch.backends.mkldnn.matmul.fp32_precision == "tf32", "pinned: it inherits no more"
    finally:
        torch.backends.mkldnn.fp32_precision = found


def test_switches_come_back_after_an_exception() -> None:
    found = global_state()
    with pytest.raises(RuntimeError, match="inside"), network_switches(CPU):
        raise RuntimeError("inside")
    assert global_state() == found


def test_the_older_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fidfast.precision._FP32_PRECISION", ())  # as before torch 2.9
    _set_and_read_the_older_switches()


def test_networks_of_the_caller_may_read_the_older_switches() -> None:
    _set_and_read_the_older_switches()


def _set_and_read_the_older_switches() -> None:
    found = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with network_switches(CPU):
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
            with torch.backends.cudnn.flags(enabled=False):
                assert not torch.backends.cudnn.enabled
        with network_switches(CPU, tf32=True):
            assert torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cudnn.allow_tf32 == found[0]
    finally:
        torch.set_float32_matmul_precision(found[1])


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="only the older names are there to be set")
def test_mixed_switches_of_the_caller_stay_as_they_are() -> None:
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # rnn stays: reading the older name raises from here on
    try:
        with network_switches(CPU):
            assert torch.backends.cudnn.rnn.fp32_precision == "ieee"
        assert torch.backends.cudnn.conv.fp32_precision == "ieee"
        assert torch.backends.cudnn.rnn.fp32_precision == "tf32"
        with pytest.raises(RuntimeError, match="allow_tf32"):
            _ = torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = True


# Compiled


def test_compile_reports_its_seconds_and_keeps_the_features() -> None:
    batch = images(features.CPU_CHUNK)
    found = global_state()
    extractor = FeatureExtractor(64, compile=True)
    assert global_state() == found
    assert extractor.compile_seconds > 0
    assert "torch.compile" in extractor.kernels["network"]
    expected = FeatureExtractor(64)(batch)
    torch.testing.assert_close(extractor(batch), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(extractor(batch[:1]), extractor(batch)[:1])
    compiled = torch._dynamo.utils.counters["frames"]["ok"]
    with torch.inference_mode():
        torch.testing.assert_close(extractor(batch), expected, rtol=1e-5, atol=1e-5)
    assert torch._dynamo.utils.counters["frames"]["ok"] == compiled, "compiled once more"


# A callable in its place


def test_callable_extractor() -> None:
    extractor = CallableExtractor(colour_means)
    batch = images(11)
    result = extractor(batch)
    assert result.shape == (11, 3)
    assert extractor.feature_dim == 3
    assert (extractor.preset, extractor.precision, extractor.compile) == (None, None, False)
    assert torch.equal(torch.cat([extractor(batch[:4]), extractor(batch[4:])]), result)
    assert extractor.identity.endswith("colour_means")
    x, hashes = extractor.preprocess(batch[:2], content_hash=True)
    assert x.dtype == torch.uint8
    assert hashes is not None
    assert torch.equal(hashes, FeatureExtractor(64).preprocess(batch[:2], content_hash=True)[1])
    unit = [image.float() / 127.5 - 1 for image in batch]
    assert torch.equal(extractor(unit, value_range=(-1, 1)), result)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.drop = nn.Dropout(0.9)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.drop(self.linear(x.float().mean((2, 3)))))


def test_a_module_runs_in_eval_mode_and_is_left_as_found() -> None:
    net = Net()
    net.drop.eval()
    flags = [module.training for module in net.modules()]
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    extractor = CallableExtractor(net)
    batch = images(5)
    assert torch.equal(extractor(batch)[:2], extractor(batch[:2]))
    assert not extractor(batch).requires_grad
    assert [module.training for module in net.modules()] == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_identity_follows_the_weights() -> None:
    net = Net()
    first = CallableExtractor(net).identity
    assert CallableExtractor(net).identity == first
    with torch.no_grad():
        net.linear.bias += 1e-3
    assert CallableExtractor(net).identity != first


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.float(), "floating-point features"),
        (lambda x: x.flatten(1), "floating-point features"),
        (lambda x: None, "got NoneType"),
    ],
)
def test_callables_that_give_no_features(function: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CallableExtractor(function)(images(2))  # type: ignore[arg-type]


def test_a_callable_wants_one_size_and_one_dimension() -> None:
    with pytest.raises(ValueError, match=r"images of one size, got \[\(3, 9, 9\), \(3, 20, 30\)\]"):
        CallableExtractor(colour_means)(images(1) + images(1, 9, 9))
    extractor = CallableExtractor(lambda x: x.float().mean((1, 2)))
    extractor(images(2))
    with pytest.raises(ValueError, match=r"expected features \(N, 30\) as before, got \(2, 9\)"):
        extractor(images(2, 9, 9))


def test_resolve_extractor() -> None:
    assert isinstance(resolve_extractor(None, feature_dim=64), FeatureExtractor)
    own = resolve_extractor(colour_means)
    assert isinstance(own, CallableExtractor)
    assert resolve_extractor(own) is own
    with pytest.raises(TypeError, match="feature_extractor: expected an nn.Module or a callable, got int"):
        resolve_extractor(3)
    for name, value in (("compile", True), ("precision", "bf16"), ("weights", "x.pth")):
        with pytest.raises(ValueError, match=f"{name}: applies to the FID network only"):
            resolve_extractor(colour_means, **{name: value})


# The real weights


@pytest.mark.weights
def test_real_features_are_those_of_plain_convolutions(weights_path: Path) -> None:
    """All CPU kernels together against conv2d with unfolded order of sums: FID may move by 1e-5 of itself at most."""
    from fidfast.weights import load_weights

    batch = images(4, 64, 48)
    extractor = FeatureExtractor(weights=weights_path)
    x, _ = extractor.preprocess(batch)
    with torch.no_grad():
        expected = Inception(load_weights(weights_path))(x)
    tolerance = TOLERANCES["network/twin"]
    atol = tolerance.atol * float(expected.abs().max())
    torch.testing.assert_close(extractor(batch), expected, rtol=tolerance.rtol, atol=atol)


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_cuda(precision: str) -> None:
    if precision != "fp32" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("needs compute capability 8.0")
    batch = images(3)
    expected = FeatureExtractor(192, device="cpu")(batch)
    found = global_state()
    extractor = FeatureExtractor(192, device="cuda", precision=precision)
    result = extractor(batch)
    assert global_state() == found
    assert torch.equal(extractor(batch[1:2]), result[1:2])
    atol = {"fp32": 1e-5, "tf32": 5e-3, "fp16": 5e-3, "bf16": 3e-2}[precision] * float(expected.abs().max())
    torch.testing.assert_close(result.cpu(), expected, rtol=0, atol=atol)
