"""The network: folding, its own pools, parity with a plain float64 twin, the known FID; the Winograd op."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tolerances import TOLERANCES
from torch import Tensor
from torch.nn import functional

from fidfast import _cpu, ops, torchscript, weights
from fidfast.inception import FEATURE_DIMS, TAPS, Convolution, Inception, fold_batch_norm

LEVELS = [level for level in ("avx2", "avx512") if _cpu.winograd_scheme(3, 3, level)]


def random_state() -> dict[str, Tensor]:
    """Random weights of the right shapes, from a table of (name, in, out, kernel) written here a second time."""
    table = [
        *(("Conv2d_1a_3x3", 3, 32, 3, 3), ("Conv2d_2a_3x3", 32, 32, 3, 3), ("Conv2d_2b_3x3", 32, 64, 3, 3)),
        *(("Conv2d_3b_1x1", 64, 80, 1, 1), ("Conv2d_4a_3x3", 80, 192, 3, 3)),
    ]
    for block, channels, pool in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        table += [
            (f"Mixed_{block}.branch1x1", channels, 64, 1, 1),
            (f"Mixed_{block}.branch5x5_1", channels, 48, 1, 1),
            (f"Mixed_{block}.branch5x5_2", 48, 64, 5, 5),
            (f"Mixed_{block}.branch3x3dbl_1", channels, 64, 1, 1),
            (f"Mixed_{block}.branch3x3dbl_2", 64, 96, 3, 3),
            (f"Mixed_{block}.branch3x3dbl_3", 96, 96, 3, 3),
            (f"Mixed_{block}.branch_pool", channels, pool, 1, 1),
        ]
    table += [
        ("Mixed_6a.branch3x3", 288, 384, 3, 3),
        ("Mixed_6a.branch3x3dbl_1", 288, 64, 1, 1),
        ("Mixed_6a.branch3x3dbl_2", 64, 96, 3, 3),
        ("Mixed_6a.branch3x3dbl_3", 96, 96, 3, 3),
    ]
    for block, c in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        table += [
            (f"Mixed_{block}.branch1x1", 768, 192, 1, 1),
            (f"Mixed_{block}.branch7x7_1", 768, c, 1, 1),
            (f"Mixed_{block}.branch7x7_2", c, c, 1, 7),
            (f"Mixed_{block}.branch7x7_3", c, 192, 7, 1),
            (f"Mixed_{block}.branch7x7dbl_1", 768, c, 1, 1),
            (f"Mixed_{block}.branch7x7dbl_2", c, c, 7, 1),
            (f"Mixed_{block}.branch7x7dbl_3", c, c, 1, 7),
            (f"Mixed_{block}.branch7x7dbl_4", c, c, 7, 1),
            (f"Mixed_{block}.branch7x7dbl_5", c, 192, 1, 7),
            (f"Mixed_{block}.branch_pool", 768, 192, 1, 1),
        ]
    table += [
        ("Mixed_7a.branch3x3_1", 768, 192, 1, 1),
        ("Mixed_7a.branch3x3_2", 192, 320, 3, 3),
        ("Mixed_7a.branch7x7x3_1", 768, 192, 1, 1),
        ("Mixed_7a.branch7x7x3_2", 192, 192, 1, 7),
        ("Mixed_7a.branch7x7x3_3", 192, 192, 7, 1),
        ("Mixed_7a.branch7x7x3_4", 192, 192, 3, 3),
    ]
    for block, channels in (("7b", 1280), ("7c", 2048)):
        table += [
            (f"Mixed_{block}.branch1x1", channels, 320, 1, 1),
            (f"Mixed_{block}.branch3x3_1", channels, 384, 1, 1),
            (f"Mixed_{block}.branch3x3_2a", 384, 384, 1, 3),
            (f"Mixed_{block}.branch3x3_2b", 384, 384, 3, 1),
            (f"Mixed_{block}.branch3x3dbl_1", channels, 448, 1, 1),
            (f"Mixed_{block}.branch3x3dbl_2", 448, 384, 3, 3),
            (f"Mixed_{block}.branch3x3dbl_3a", 384, 384, 1, 3),
            (f"Mixed_{block}.branch3x3dbl_3b", 384, 384, 3, 1),
            (f"Mixed_{block}.branch_pool", channels, 192, 1, 1),
        ]
    generator = torch.Generator().manual_seed(5)
    state = {}
    for name, inputs, outputs, height, width in table:
        spread = (2 / (inputs * height * width)) ** 0.5
        state[f"{name}.conv.weight"] = torch.randn(outputs, inputs, height, width, generator=generator) * spread
        state[f"{name}.bn.weight"] = torch.rand(outputs, generator=generator) + 0.5
        state[f"{name}.bn.bias"] = torch.randn(outputs, generator=generator) * 0.1
        state[f"{name}.bn.running_mean"] = torch.randn(outputs, generator=generator) * 0.1
        state[f"{name}.bn.running_var"] = torch.rand(outputs, generator=generator) + 0.5
    state["fc.weight"] = torch.randn(1008, 2048, generator=generator) / 2048**0.5
    state["fc.bias"] = torch.randn(1008, generator=generator)
    return state


class Twin:
    """The network as the graph has it: convolution, batch norm, ReLU, one after the other, in float64."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = {name: tensor.double() for name, tensor in state.items()}

    def conv(self, x: Tensor, name: str, stride: int = 1, padding: int | tuple[int, int] = 0) -> Tensor:
        x = functional.conv2d(x, self.state[f"{name}.conv.weight"], None, stride, padding)
        mean, var = self.state[f"{name}.bn.running_mean"], self.state[f"{name}.bn.running_var"]
        weight, bias = self.state[f"{name}.bn.weight"], self.state[f"{name}.bn.bias"]
        return functional.batch_norm(x, mean, var, weight, bias, training=False, eps=0.001).relu()

    def mean_pool(self, x: Tensor) -> Tensor:
        count = functional.avg_pool2d(torch.ones_like(x), 3, 1, 1, divisor_override=1)
        return functional.avg_pool2d(x, 3, 1, 1, divisor_override=1) / count

    def stem(self, x: Tensor) -> list[Tensor]:
        x = self.conv(self.conv(x, "Conv2d_1a_3x3", stride=2), "Conv2d_2a_3x3")
        first = functional.max_pool2d(self.conv(x, "Conv2d_2b_3x3", padding=1), 3, 2)
        x = self.conv(self.conv(first, "Conv2d_3b_1x1"), "Conv2d_4a_3x3")
        return [first, functional.max_pool2d(x, 3, 2)]

    def block_a(self, x: Tensor, b: str) -> Tensor:
        five = self.conv(self.conv(x, f"{b}.branch5x5_1"), f"{b}.branch5x5_2", padding=2)
        double = self.conv(self.conv(x, f"{b}.branch3x3dbl_1"), f"{b}.branch3x3dbl_2", padding=1)
        double = self.conv(double, f"{b}.branch3x3dbl_3", padding=1)
        pool = self.conv(self.mean_pool(x), f"{b}.branch_pool")
        return torch.cat([self.conv(x, f"{b}.branch1x1"), five, double, pool], 1)

    def block_b(self, x: Tensor, b: str) -> Tensor:
        double = self.conv(self.conv(x, f"{b}.branch3x3dbl_1"), f"{b}.branch3x3dbl_2", padding=1)
        double = self.conv(double, f"{b}.branch3x3dbl_3", stride=2)
        return torch.cat([self.conv(x, f"{b}.branch3x3", stride=2), double, functional.max_pool2d(x, 3, 2)], 1)

    def block_c(self, x: Tensor, b: str) -> Tensor:
        seven = self.conv(self.conv(x, f"{b}.branch7x7_1"), f"{b}.branch7x7_2", padding=(0, 3))
        seven = self.conv(seven, f"{b}.branch7x7_3", padding=(3, 0))
        double = self.conv(self.conv(x, f"{b}.branch7x7dbl_1"), f"{b}.branch7x7dbl_2", padding=(3, 0))
        double = self.conv(double, f"{b}.branch7x7dbl_3", padding=(0, 3))
        double = self.conv(double, f"{b}.branch7x7dbl_4", padding=(3, 0))
        double = self.conv(double, f"{b}.branch7x7dbl_5", padding=(0, 3))
        pool = self.conv(self.mean_pool(x), f"{b}.branch_pool")
        return torch.cat([self.conv(x, f"{b}.branch1x1"), seven, double, pool], 1)

    def block_d(self, x: Tensor, b: str) -> Tensor:
        three = self.conv(self.conv(x, f"{b}.branch3x3_1"), f"{b}.branch3x3_2", stride=2)
        seven = self.conv(self.conv(x, f"{b}.branch7x7x3_1"), f"{b}.branch7x7x3_2", padding=(0, 3))
        seven = self.conv(self.conv(seven, f"{b}.branch7x7x3_3", padding=(3, 0)), f"{b}.branch7x7x3_4", stride=2)
        return torch.cat([three, seven, functional.max_pool2d(x, 3, 2)], 1)

    def block_e(self, x: Tensor, b: str, pooled: Tensor) -> Tensor:
        three = self.conv(x, f"{b}.branch3x3_1")
        double = self.conv(self.conv(x, f"{b}.branch3x3dbl_1"), f"{b}.branch3x3dbl_2", padding=1)
        three_wide = self.conv(three, f"{b}.branch3x3_2a", padding=(0, 1))
        three_tall = self.conv(three, f"{b}.branch3x3_2b", padding=(1, 0))
        double_wide = self.conv(double, f"{b}.branch3x3dbl_3a", padding=(0, 1))
        double_tall = self.conv(double, f"{b}.branch3x3dbl_3b", padding=(1, 0))
        pool = self.conv(pooled, f"{b}.branch_pool")
        one = self.conv(x, f"{b}.branch1x1")
        return torch.cat([one, three_wide, three_tall, double_wide, double_tall, pool], 1)

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        first, x = self.stem(x.double())
        taps = {"64": first, "192": x}
        for name in ("5b", "5c", "5d"):
            x = self.block_a(x, f"Mixed_{name}")
        x = self.block_b(x, "Mixed_6a")
        for name in ("6b", "6c", "6d", "6e"):
            if name == "6d":
                spatial = self.conv(x, "Mixed_6d.branch1x1")
            x = self.block_c(x, f"Mixed_{name}")
        taps["768"] = x
        x = self.block_d(x, "Mixed_7a")
        x = self.block_e(x, "Mixed_7b", self.mean_pool(x))
        taps["2048"] = self.block_e(x, "Mixed_7c", functional.max_pool2d(x, 3, 1, 1))
        found = {name: y.mean((2, 3)) for name, y in taps.items()}
        pixels = [spatial[:, :7, y, x] for y in range(17) for x in range(17)]
        found["spatial"] = torch.cat(pixels, 1)
        found["logits_unbiased"] = found["2048"] @ self.state["fc.weight"].T
        found["logits"] = found["logits_unbiased"] + self.state["fc.bias"]
        return found


def close(actual: Tensor, expected: Tensor, row: str) -> None:
    tolerance = TOLERANCES[row]
    scale = float(expected.abs().max())
    torch.testing.assert_close(actual.double(), expected.double(), rtol=tolerance.rtol, atol=tolerance.atol * scale)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_state()


@pytest.fixture(scope="module")
def x() -> Tensor:
    generator = torch.Generator().manual_seed(6)
    return (torch.rand(1, 3, 299, 299, generator=generator) * 2 - 1).contiguous(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def expected(state: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    return Twin(state)(x)


def test_the_table_of_this_test_is_complete(state: dict[str, Tensor]) -> None:
    assert {name.removesuffix(".conv.weight") for name in state if ".conv." in name} == set(torchscript.CONVOLUTIONS)


def test_folding_is_exact_to_float32(state: dict[str, Tensor]) -> None:
    name = "Mixed_6b.branch7x7_2"
    weight, bias = fold_batch_norm(state, name)
    x = torch.randn(2, 128, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(
        functional.conv2d(x, weight.double(), bias.double(), 1, (0, 3)).relu(),
        Twin(state).conv(x, name, padding=(0, 3)),
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize("feature_dim", FEATURE_DIMS)
@pytest.mark.parametrize("kernels", ["conv2d", "prepared"])
def test_network_equals_its_twin(
    feature_dim: int, kernels: str, state: dict[str, Tensor], x: Tensor, expected: dict[str, Tensor]
) -> None:
    network = Inception(state, feature_dim)
    with torch.no_grad():
        names = network.prepare(1) if kernels == "prepared" else []
        features = network(x)
    assert features.dtype == torch.float32
    assert features.shape == (1, feature_dim)
    assert bool(names) == (kernels == "prepared" and torch.backends.mkldnn.is_available())
    close(features, expected[str(feature_dim)], "network/twin")


@pytest.mark.parametrize("kernels", ["conv2d", "prepared"])
def test_taps_of_one_run_equal_their_twins(
    kernels: str, state: dict[str, Tensor], x: Tensor, expected: dict[str, Tensor]
) -> None:
    network = Inception(state, taps=[*reversed(TAPS)])
    with torch.no_grad():
        if kernels == "prepared":
            network.prepare(1)
        together = network(x)
    assert together.dtype == torch.float32
    parts = together.split([TAPS[name][1] for name in reversed(TAPS)], dim=1)
    for name, part in zip(reversed(TAPS), parts, strict=True):
        close(part, expected[name], "network/twin")


def test_a_tap_alone_is_the_tap_among_others(state: dict[str, Tensor], x: Tensor) -> None:
    with torch.no_grad():
        for name in ("64", "spatial"):
            alone = Inception(state, taps=[name])(x)
            both = Inception(state, taps=["768", name])(x)
            assert torch.equal(alone, both[:, 768:])


def test_only_the_layers_that_are_needed(state: dict[str, Tensor]) -> None:
    sizes = [sum(b.numel() for b in Inception(state, dim).buffers()) for dim in FEATURE_DIMS]
    assert sizes == sorted(set(sizes))
    with pytest.raises(ValueError, match=r"feature_dim: expected one of \(64, 192, 768, 2048\), got 100"):
        Inception(state, 100)
    assert len(Inception(state, taps=["spatial"]).layers) < len(Inception(state, 768).layers)
    for taps in ((), ("63",), ("64", "64"), "64"):
        with pytest.raises(ValueError, match="taps: expected different ones of 64, 192, spatial"):
            Inception(state, taps=taps)


def test_without_the_private_ops_conv2d_runs(
    state: dict[str, Tensor], x: Tensor, expected: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fidfast.inception._has_onednn_pointwise", lambda: False)
    monkeypatch.setattr("fidfast.ops.winograd_weight", lambda _: None)
    network = Inception(state, 192)
    with torch.no_grad():
        assert network.prepare(1) == []
        close(network(x), expected["192"], "network/twin")


def test_each_kernel_is_really_used(state: dict[str, Tensor]) -> None:
    """A switch without effect would go unseen: the outputs differ in their last bits between the kernels."""
    x = torch.randn(2, 80, 20, 20).contiguous(memory_format=torch.channels_last)
    plain, fast = (Convolution(state, "Conv2d_4a_3x3", same=False) for _ in range(2))
    if not fast.prepare_winograd():
        pytest.skip("this CPU has no Winograd kernel")
    close(fast(x), plain(x), "network/winograd")
    assert not torch.equal(fast(x), plain(x))
    assert not Convolution(state, "Mixed_6a.branch3x3", stride=2, same=False).prepare_winograd()
    assert not Convolution(state, "Mixed_5b.branch5x5_1").prepare_winograd()


# The Winograd op


@pytest.mark.skipif(not LEVELS, reason="no AVX2: conv2d does it")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("taps", [(3, 3), (5, 5), (1, 3), (3, 1), (1, 7), (7, 1)])
@pytest.mark.parametrize(
    ("n", "c", "k", "h", "w", "same"),
    [(1, 16, 32, 7, 7, False), (1, 16, 32, 1, 1, True), (2, 48, 64, 4, 9, True), (3, 80, 96, 17, 8, False)],
)
def test_winograd_equals_the_convolution(
    level: str, taps: tuple[int, int], n: int, c: int, k: int, h: int, w: int, same: bool
) -> None:
    padding = (taps[0] // 2, taps[1] // 2) if same else (0, 0)
    x, weight, bias = torch.randn(n, c, h, w), torch.randn(k, c, *taps) / (taps[0] * taps[1] * c) ** 0.5, torch.randn(k)
    expected = functional.conv2d(x.double(), weight.double(), bias.double(), 1, padding).relu()
    prepared = ops.winograd_weight(weight, level)
    assert prepared is not None
    for memory_format in (torch.contiguous_format, torch.channels_last):
        out = ops.winograd_conv_relu(x.contiguous(memory_format=memory_format), prepared, bias, taps, padding, level)
        assert out.shape == expected.shape
        close(out, expected, "network/winograd")


@pytest.mark.skipif(not LEVELS, reason="no AVX2: conv2d does it")
def test_winograd_of_no_images() -> None:
    prepared = ops.winograd_weight(torch.randn(32, 16, 1, 7))
    out = torch.ops.fidfast.winograd_conv_relu(torch.randn(0, 16, 5, 5), prepared, torch.randn(32), (1, 7), (0, 3))
    assert out.shape == (0, 32, 5, 5)


@pytest.mark.skipif(not LEVELS, reason="no AVX2: conv2d does it")
@pytest.mark.parametrize("taps", [(3, 3), (5, 5), (1, 7), (7, 1)])
def test_winograd_does_not_depend_on_batch_or_threads(taps: tuple[int, int]) -> None:
    x, weight, bias = torch.randn(7, 32, 35, 35), torch.randn(64, 32, *taps), torch.randn(64)
    prepared, padding = ops.winograd_weight(weight), (taps[0] // 2, taps[1] // 2)
    run = torch.ops.fidfast.winograd_conv_relu
    together = run(x, prepared, bias, taps, padding)
    assert torch.equal(together, torch.cat([run(image[None], prepared, bias, taps, padding) for image in x]))
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert torch.equal(together, run(x, prepared, bias, taps, padding))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(not LEVELS, reason="no AVX2: conv2d does it")
def test_winograd_passes_opcheck_and_refuses_wrong_shapes() -> None:
    x, weight, bias = torch.randn(2, 16, 8, 8), torch.randn(32, 16, 3, 3), torch.randn(32)
    prepared = ops.winograd_weight(weight)
    torch.library.opcheck(torch.ops.fidfast.winograd_conv_relu.default, (x, prepared, bias, (3, 3), (1, 1)))
    run = torch.ops.fidfast.winograd_conv_relu
    for arguments, message in [
        ((x[:, :8], prepared, bias, (3, 3), (1, 1)), "multiples of 16"),
        ((x, prepared[:, :9], bias, (3, 3), (1, 1)), "weight: expected shape"),
        ((x, prepared, bias, (1, 7), (0, 3)), "weight: expected shape"),
        ((x, prepared, bias, (2, 2), (1, 1)), "taps: no Winograd kernel"),
        ((x.double(), prepared, bias, (3, 3), (1, 1)), "x: expected float32"),
        ((x[:, :, :2, :2], prepared, bias, (3, 3), (0, 0)), "larger than the filter"),
    ]:
        with pytest.raises((ValueError, RuntimeError), match=message):
            run(*arguments)


def test_winograd_weight_says_no() -> None:
    for shape in ((32, 16, 1, 1), (33, 16, 3, 3), (32, 3, 3, 3), (32, 16, 1, 5)):
        assert ops.winograd_weight(torch.randn(shape)) is None
    assert ops.winograd_weight(torch.randn(32, 16, 3, 3, dtype=torch.bfloat16)) is None


# The real weights


@pytest.mark.weights
def test_known_fid_of_64_features(weights_path: Path) -> None:
    """FID 12.69292 of two sets of noise, known from torchmetrics' documented run with the same weights."""
    from fidfast.frechet import frechet_distance

    generator = torch.Generator().manual_seed(123)
    moments = []
    network = Inception(weights.load_weights(weights_path), 64)
    for low, high in ((0, 200), (100, 255)):
        images = torch.randint(low, high, (100, 3, 299, 299), dtype=torch.uint8, generator=generator)
        with torch.no_grad():
            network.prepare(10)
            chunks = images.contiguous(memory_format=torch.channels_last).split(10)
            features = torch.cat([network((chunk.float() - 128) / 128) for chunk in chunks]).double()
        moments += [features.mean(0), features.T.cov()]
    tolerance = TOLERANCES["network/known-fid"]
    assert float(frechet_distance(*moments)) == pytest.approx(12.69292, rel=tolerance.rtol, abs=tolerance.atol)
