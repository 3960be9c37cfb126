"""The networks of fidfast.compat.torch_fidelity: float64, moves and copies, the final layer, VGG-16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_compat_torch_fidelity import A, Images, calculate, random_weights  # noqa: F401  a fixture
from test_metric import make_images
from tolerances import TOLERANCES
from torch import Tensor, nn

import fidfast
from fidfast.compat import torch_fidelity
from fidfast.compat.torch_fidelity import feature_extractor_inceptionv3 as network
from fidfast.weights import FinalLayerError, WeightsError


def test_float64_means_float64(random_weights: dict[str, Tensor]) -> None:  # noqa: F811
    images = make_images(2, 5, 40)
    taps = ["64", "192", "logits_unbiased"]
    single = torch_fidelity.FeatureExtractorInceptionV3("inception-v3-compat", taps)
    double = torch_fidelity.FeatureExtractorInceptionV3(
        "inception-v3-compat", taps, feature_extractor_internal_dtype="float64"
    )
    exact = double.network()
    assert all(buffer.dtype == torch.float64 for buffer in exact._inception.buffers())
    moved = single.double()
    assert moved.network() is exact  # shared
    folded = exact._inception.layers[0].weight
    assert not torch.equal(folded, folded.float().double())  # no float32 on the way
    single = torch_fidelity.FeatureExtractorInceptionV3("inception-v3-compat", taps)
    for tap, fast, slow in zip(taps, single(images), double(images), strict=True):
        assert fast.dtype == slow.dtype == torch.float32 and not torch.equal(fast, slow), tap
        assert (fast - slow).abs().max() <= 2 * TOLERANCES["network/twin"].atol * slow.abs().max()
    with pytest.raises(ValueError, match="internal_dtype: expected float32 or float64, got 'float16'"):
        torch_fidelity.FeatureExtractorInceptionV3("i", ["64"], feature_extractor_internal_dtype="float16")


@pytest.mark.parametrize("size", [(20, 31), (299, 299), (400, 33)])
def test_the_resize_in_float64(size: tuple[int, int]) -> None:
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    for preset in ("tensorflow", "torchmetrics"):
        exact = (network.resize(images, preset) - 128) / 128
        assert exact.dtype == torch.float64
        fast = fidfast.preprocess(images, preset)
        assert (exact - fast).abs().max() <= TOLERANCES["resize/float64"].atol


def test_the_network_moves_copies_and_ignores_checkpoints(random_weights: dict[str, Tensor]) -> None:  # noqa: F811
    import copy
    import pickle

    images = make_images(3, 6, 20)
    one = torch_fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["64"])
    expected = one(images)[0]
    for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert other._network is None and torch.equal(other(images)[0], expected)
        assert other.network() is one.network()
    with pytest.raises(AttributeError, match=r"no layer Mixed_5b.*fidfast.compat.install\(\"torchmetrics\"\)"):
        one.Mixed_5b  # noqa: B018  as torchmetrics' own metrics do
    with pytest.raises(ValueError, match="input1: expected a Dataset of uint8 images.*got torch.float32"):
        calculate(fid=True, input1=Images(A.float()), feature_extractor="inception-v3-compat")
    holder = nn.ModuleDict({"inception": one})
    assert not holder.state_dict() and not list(holder.parameters())
    holder.load_state_dict({"inception.Conv2d_1a_3x3.conv.weight": torch.zeros(3)})  # strict
    assert not holder.train().inception.training
    for bad in (images.float(), images[0], images.numpy()):
        with pytest.raises(
            ValueError, match=r"images: expected a torch.Tensor of dtype torch.uint8 and shape \(N, 3, H, W\)"
        ):
            one(bad)


def test_logits_need_the_final_layer(weights_path: Path) -> None:
    from fidfast.weights import load_weights

    if "fc.weight" in load_weights(weights_path):
        pytest.skip("these weights have the final layer")
    with pytest.raises(FinalLayerError, match="final layer"):
        calculate(isc=True, feature_extractor=None, feature_extractor_weights_path=str(weights_path))


def vgg_state() -> dict[str, Tensor]:
    """Random VGG-16 weights; the large matrices are windows of one vector, which makes a small file."""
    generator = torch.Generator().manual_seed(3)
    state, before, index = {}, 3, 0
    for channels in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if channels:
            state[f"features.{index}.weight"] = (
                torch.randn(channels, before, 3, 3, generator=generator) * (2 / before / 9) ** 0.5
            )
            state[f"features.{index}.bias"] = torch.randn(channels, generator=generator) / 10
            before = channels
        index += 2 if channels else 1
    for layer, (inputs, outputs) in {0: (25088, 4096), 3: (4096, 4096), 6: (4096, 1000)}.items():
        vector = torch.randn(inputs + outputs, generator=generator) * (2 / inputs) ** 0.5
        state[f"classifier.{layer}.weight"] = vector.as_strided((outputs, inputs), (1, 1))
        state[f"classifier.{layer}.bias"] = torch.randn(outputs, generator=generator) / 10
    return state


def test_vgg16_is_the_default_of_precision_and_recall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(vgg_state(), tmp_path / "vgg.pth")
    state = torch.get_rng_state()
    extractor = torch_fidelity.FeatureExtractorVGG16(
        "vgg16", ["fc2", "fc2_relu"], feature_extractor_weights_path=str(tmp_path / "vgg.pth")
    )
    assert torch.equal(torch.get_rng_state(), state)
    found, positive = extractor(make_images(2, 7, 30))
    assert found.shape == (2, 4096) and found.dtype == torch.float32 and torch.equal(positive, found.relu())
    assert 0.1 < float((found > 0).float().mean()) < 0.9

    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with pytest.raises(
        WeightsError, match=r"VGG-16.*cannot be had: no network. Put vgg16-397923af.pth .*inception-v3-c"
    ):
        calculate(prc=True, feature_extractor=None)
    torch.save({"classifier.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="expected torchvision's VGG-16, got a file without a fitting"):
        calculate(prc=True, feature_extractor="vgg16", feature_extractor_weights_path=str(tmp_path / "other.pth"))
