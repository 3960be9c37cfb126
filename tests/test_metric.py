"""fidfast.FID on one process: what it takes and refuses, what it leaves alone, and that it can be interrupted."""

from __future__ import annotations

import copy
import gc
import io
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from tolerances import TOLERANCES

import fidfast
from fidfast.eager import eager
from fidfast.groups import TAIL_ROWS
from fidfast.metric import _networks
from fidfast.result import FidfastWarning

D = 8
FID = TOLERANCES["ranks/fid"].rtol


def make_images(count: int, seed: int = 0, size: int = 12) -> torch.Tensor:
    """(N, 3, H, W) uint8, all different."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def moments(images: torch.Tensor) -> torch.Tensor:
    """A trivial extractor: (N, 3, H, W) uint8 → (N, 8) channel means, deviations and two corners."""
    x = images.to(torch.float32) / 255
    return torch.cat([x.mean((2, 3)), x.std((2, 3)), x[:, :2, 0, 0]], dim=1)


REFERENCE = fidfast.compute_statistics(make_images(200, 99), feature_extractor=moments, progress=False)


def make_fid(**options) -> fidfast.FID:
    return fidfast.FID(REFERENCE, feature_extractor=moments, **options)


def test_the_number_is_that_of_compute_fid_to_the_bit_for_any_batch():
    for count in (5, 30, 700):
        images = make_images(count)
        expected = fidfast.compute_fid(REFERENCE, images, feature_extractor=moments, progress=False)
        for batch in (1, 7, 1000):
            fid = make_fid()
            for start in range(0, count, batch):
                fid.update(images[start : start + batch])
            result = fid.compute()
            assert type(result) is fidfast.FIDResult
            assert float(result) == float(expected) > 0
            assert result.num_generated == count == len(fid) == result.num_effective
            assert float(fid.compute()) == float(expected)  # computing changes nothing


def test_reference_as_statistics_file_or_images(tmp_path):
    images = make_images(40)
    expected = fidfast.compute_fid(make_images(200, 99), images, feature_extractor=moments, progress=False)
    REFERENCE.save(tmp_path / "reference.npz")
    for reference in (tmp_path / "reference.npz", make_images(200, 99), [image for image in make_images(200, 99)]):
        fid = fidfast.FID(reference, feature_extractor=moments)
        fid.update(images)
        assert float(fid.compute()) == pytest.approx(float(expected), rel=FID)
        fid.reset()
        fid.update(images)
        assert float(fid.compute()) == pytest.approx(float(expected), rel=FID)
    with pytest.raises(ValueError, match="reference: .*does not exist"):
        fidfast.FID(tmp_path / "nothing")
    with pytest.raises(ValueError, match="reference: .*expected statistics of 2048 features, got 8"):
        fidfast.FID(tmp_path / "reference.npz")
    with pytest.raises(ValueError, match="duplicates must be one of"):
        make_fid(duplicates="explode")


def test_error_bars_from_ten_groups():
    images = make_images(41)
    fid = make_fid()
    fid.update(images[:39])
    few = fid.compute()
    assert few.standard_error is few.corrected is few.floor is None
    assert "39 images are too few for 8 features (they need 40)" in few.notes[-1]
    fid.update(images[39:])
    result = fid.compute()
    total = fidfast.compute_fid(REFERENCE, images, feature_extractor=moments, progress=False, error_bars=True)
    without = [
        fidfast.compute_fid(
            REFERENCE, images[torch.arange(41) % 10 != group], feature_extractor=moments, progress=False
        )
        for group in range(10)
    ]
    sizes = [5] + [4] * 9
    corrected = 10 * float(total) - sum((1 - m / 41) * float(value) for m, value in zip(sizes, without, strict=True))
    for found in (result, total):
        assert found.corrected == pytest.approx(corrected, rel=FID)
        assert 0 < found.standard_error < found
        assert 0 < found.floor < found
    from_file = fidfast.compute_fid(REFERENCE, REFERENCE, error_bars=True)
    assert from_file.standard_error is None and "need the generated images" in from_file.notes[-1]
    plain = make_fid(error_bars=False)
    plain.update(images)
    assert plain.compute().standard_error is None
    assert float(plain.compute()) == float(result)


def test_groups_follow_the_global_index_not_the_order():
    images, order = make_images(100), torch.randperm(100)
    expected, shuffled = make_fid(), make_fid()
    expected.update(images, torch.arange(100))
    for part in order.split(13):
        shuffled.update(images[part], part)
    assert shuffled.compute().standard_error == pytest.approx(expected.compute().standard_error, rel=FID)
    strange = make_fid()
    strange.update(images, torch.arange(100) * 5)
    assert "take only 2 values" in strange.compute().notes[-1]


# -- what it takes and refuses ----------------------------------------------------------------------------------------


def test_every_way_to_hand_over_the_same_images():
    images = make_images(20)
    floats = images.float() / 255
    expected = make_fid()
    expected.update(images)
    ways = {
        "array": ([images.permute(0, 2, 3, 1).numpy()], {}),
        "list": ([list(images)], {}),
        "non-contiguous": ([images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)], {}),
        "strided": ([images.repeat_interleave(2, dim=3)[..., ::2]], {}),
        "float": ([floats], {"value_range": (0, 1)}),
        "grad": ([(floats * 2 - 1).requires_grad_()], {"value_range": (-1, 1)}),
        "double": ([floats.double()], {"value_range": (0.0, 1.0)}),
        "inference": ([_inference(images)], {}),
    }
    for name, (arguments, options) in ways.items():
        fid = make_fid()
        fid.update(*arguments, **options)
        assert float(fid.compute()) == float(expected.compute()), name
    ranged = make_fid(value_range=(0, 1))
    ranged.update(floats)
    ranged.update(make_images(5, 3))  # uint8 has no range
    assert len(ranged) == 25


def _inference(images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return images.clone()


BAD = {
    "range": (torch.rand(3, 3, 8, 8) * 255, {"value_range": (0, 1)}, "images\\[0\\]|values in \\[0, 1\\]"),
    "no range": (torch.rand(3, 3, 8, 8), {}, "value_range: float images need"),
    "other range": (torch.rand(3, 3, 8, 8), {"value_range": (0, 255)}, "value_range"),
    "nan": (torch.full((3, 3, 8, 8), float("nan")), {"value_range": (0, 1)}, "NaN"),
    "channels": (torch.zeros(3, 4, 8, 8, dtype=torch.uint8), {}, "3 channels"),
    "dtype": (torch.zeros(3, 3, 8, 8, dtype=torch.int64), {}, "uint8"),
    "bool": (torch.zeros(3, 3, 8, 8, dtype=torch.bool), {}, "uint8"),
    "dimensions": (torch.zeros(2, 3, 3, 8, 8, dtype=torch.uint8), {}, "shape"),
    "no pixels": (torch.zeros(3, 3, 0, 8, dtype=torch.uint8), {}, "pixels"),
    "index": (make_images(3, 7), {"index": [0, 1]}, "index: expected 3 whole numbers"),
    "index float": (make_images(3, 7), {"index": [0.0, 1.0, 2.0]}, "index: expected 3 whole numbers"),
    "index negative": (make_images(3, 7), {"index": [0, -1, 2]}, "index: expected numbers of at least 0, got -1"),
    "some indices": (make_images(3, 7), {"index": [0, 1, 2]}, "index: expected in every update"),
    "not images": ("nothing.png", {}, "nothing.png"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("network", [False, True], ids=["own", "fid"])
def test_a_bad_batch_is_refused_and_what_came_before_stays(case, network, request):
    images, options, message = BAD[case]
    if network:
        request.getfixturevalue("weights_path")
        fid = fidfast.FID(_statistics_of_64(), feature_dim=64)
    else:
        fid = make_fid()
    fid.update(make_images(9, 1))
    before = float(fid.compute())
    with pytest.raises((ValueError, TypeError, OSError), match=message):
        fid.update(images, **options)
    assert len(fid) == 9
    assert float(fid.compute()) == before


def _statistics_of_64() -> fidfast.FeatureStatistics:
    made = fidfast.FeatureStatistics(64, preset="pytorch-fid", precision="fp32")
    made.update(torch.rand(100, 64))
    return made


def test_a_bad_image_late_in_a_large_batch_is_named_and_adds_nothing():
    floats = torch.rand(40, 3, 8, 8)
    floats[33, 1, 2, 3] = float("nan")
    fid = make_fid(value_range=(0, 1))
    with pytest.raises(ValueError, match="NaN"):
        fid.update(floats)
    assert len(fid) == 0


def test_features_that_are_not_finite_add_nothing():
    def broken(images: torch.Tensor) -> torch.Tensor:
        return moments(images) / (images[:, 0, 0, 0, None] > 0)

    images = make_images(20).clamp(min=1)
    fid = fidfast.FID(make_images(30, 99).clamp(min=1), feature_extractor=broken)
    fid.update(images)
    bad = images.clone()
    bad[13, :, 0, 0] = 0
    with pytest.raises(ValueError, match=r"features: expected finite .* index 33 of all rows"):
        fid.update(bad)
    assert len(fid) == 20
    assert fid.compute().num_generated == 20


def test_another_network_than_the_references_is_refused_before_the_work():
    fid = fidfast.FID(REFERENCE, feature_extractor=lambda images: moments(images))
    with pytest.raises(ValueError, match="the weights differs: statistics has 'test_metric.moments'"):
        fid.update(make_images(3))


def test_too_few_images_and_empty_batches():
    fid = make_fid()
    fid.update(torch.zeros(0, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="generated: a covariance needs at least 2 images, got 0"):
        fid.compute()
    fid.update(make_images(1))
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        fid.compute()


@pytest.mark.cuda
def test_images_on_another_device_than_the_network(weights_path):
    fids = [fidfast.FID(_statistics_of_64(), feature_dim=64, device=device) for device in ("cpu", "cuda")]
    for fid, device in zip(fids, ("cuda", "cpu"), strict=True):
        fid.update(make_images(30).to(device))
    assert float(fids[0].compute()) == pytest.approx(float(fids[1].compute()), rel=1e-3)


def test_padding_with_the_same_index_counts_once():
    images = make_images(1700)
    expected = make_fid()
    expected.update(images)
    fid = make_fid()
    fid.update(images, torch.arange(1700))
    fid.update(images[[3, 1699, 4]], torch.tensor([3, 1699, 4]))
    assert len(fid) == 1703
    result = fid.compute()
    assert result.num_generated == 1700 == result.num_effective
    assert float(result) == pytest.approx(float(expected.compute()), rel=FID)
    late = make_fid()
    late.update(images, torch.arange(1700) % 1000)  # 200 of them before the tail
    with pytest.raises(ValueError, match=f"apart from the last {TAIL_ROWS} images of a rank, .*\\(\\d+ such images\\)"):
        late.compute()


# -- duplicates -------------------------------------------------------------------------------------------------------


def test_repeats_within_a_rank_are_a_warning_and_a_number():
    fid = make_fid()
    for _ in range(4):
        fid.update(make_images(25))
    with pytest.warns(FidfastWarning, match="only 25 of 100 images are different"):
        result = fid.compute()
    assert result.num_effective == 25
    assert result.duplicates["generated"]["largest_multiplicity"] == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(fid.compute(duplicates="ignore")) == float(result)


def test_copies_of_the_reference_are_counted_where_it_carries_hashes(tmp_path):
    real = make_images(60, 5)
    path = fidfast.compute_statistics(real, feature_extractor=moments, progress=False).save(tmp_path / "real.npz")
    with np.load(path) as file:
        assert {"mu", "sigma"} < set(file.files) and file["content_hashes"].shape == (60, 2)
    fid = fidfast.FID(path, feature_extractor=moments)
    fid.update(torch.cat([real[:7], make_images(50, 6)]))
    with pytest.warns(FidfastWarning, match="7 of 57 images are, byte for byte, images of the reference"):
        result = fid.compute()
    assert result.duplicates["shared"] == 7


# -- what it leaves alone ---------------------------------------------------------------------------------------------


def test_the_callers_torch_is_as_it_was():
    def greedy(images: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        return moments(images) + 0 * torch.rand(len(images), D)

    def state() -> list:
        operators = [getattr(torch.backends.mkldnn, name, None) for name in ("conv", "matmul")]  # torch 2.6 has none
        return [
            torch.get_rng_state().tolist(),
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.benchmark,
            torch.is_inference_mode_enabled(),
            *[getattr(operator, "fp32_precision", None) for operator in operators],
        ]

    fid = fidfast.FID(make_images(200, 99), feature_extractor=greedy)
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            before = state()
            fid.update(make_images(20))
            result = fid.compute()
            assert state() == before
    finally:
        torch.set_float32_matmul_precision("highest")
    plain = make_fid()
    plain.update(make_images(20))
    assert float(result) == pytest.approx(float(plain.compute()), rel=FID)
    with torch.inference_mode():
        fid.update(make_images(20, 2))
    fid.update(make_images(20, 3))
    assert fid.compute().num_generated == 60


def test_between_compiled_training_steps():
    model = torch.nn.Conv2d(3, 3, 3, padding=1)
    fid = make_fid(value_range=(0, 1))

    def step(x: torch.Tensor) -> torch.Tensor:
        y = model(x).sigmoid()
        fid.update(y)  # inside the compiled function: a graph break, not an error
        return y

    compiled = torch.compile(step, backend="eager")
    x = torch.rand(6, 3, 8, 8)
    expected = make_fid(value_range=(0, 1))
    for scale in (1.0, 0.5):
        y = compiled(x * scale)
        y.sum().backward()
        expected.update(y)
    assert len(fid) == 12 and model.weight.grad is not None
    assert float(fid.compute()) == pytest.approx(float(expected.compute()), rel=FID)


def test_eager_keeps_a_compiler_out_and_does_not_bring_one():
    traced = []

    def tell() -> None:
        traced.append(torch.compiler.is_compiling())

    compiled = torch.compile(lambda: (tell(), eager(tell)()), backend="eager")
    compiled()
    assert traced == [True, False]
    script = "import sys, fidfast; fidfast.FID, fidfast.TrainingEvaluator; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_metrics_share_one_network_that_ends_with_them(weights_path):
    gc.collect()
    before = len(_networks)
    first, second = (fidfast.FID(_statistics_of_64(), feature_dim=64) for _ in range(2))
    assert len(_networks) == before  # nothing is loaded before it is needed
    for fid in (first, second):
        fid.update(make_images(3))
    assert first._extractor is second._extractor
    assert len(_networks) == before + 1
    del first, second, fid
    gc.collect()
    assert len(_networks) == before


# -- interrupted ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("split", [0, 5, 600])
def test_an_evaluation_goes_on_from_its_state(split, indexed):
    images = make_images(700)
    index = torch.arange(700) if indexed else None
    whole, part = make_fid(), make_fid()
    whole.update(images, index)
    part.update(images[:split], None if index is None else index[:split])
    file = io.BytesIO()
    torch.save(part.state_dict(), file)
    part.update(images[650:], None if index is None else index[650:])  # after the checkpoint: lost with the process
    file.seek(0)
    resumed = make_fid()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert len(resumed) == split
    resumed.update(images[split:], None if index is None else index[split:])
    assert resumed.compute().raw == whole.compute().raw
    assert resumed.compute().standard_error == whole.compute().standard_error


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    fid = make_fid()
    fid.update(make_images(20))
    state, before = fid.state_dict(), float(fid.compute())
    damaged = copy.deepcopy(state)
    damaged["accumulator"]["hashes"] = damaged["accumulator"]["hashes"][:-1]
    for wrong, message in (
        ({**state, "rank": 3}, "that of rank 0, got that of rank 3"),
        ({**state, "settings": {"error_bars": False}}, "error_bars: expected True, got False"),
        ({"rank": 0}, "none named accumulator, seconds, settings"),
        (damaged, "hashes of 20 images, got 19"),
    ):
        with pytest.raises(ValueError, match=message):
            fid.load_state_dict(wrong)
        assert float(fid.compute()) == before
    fid.reset()
    assert len(fid) == 0
    fid.load_state_dict(state)
    assert float(fid.to("cpu").compute()) == before


def test_memory_does_not_grow_but_for_24_bytes_an_image():
    fid = make_fid()
    sizes = []
    for step in range(3):
        for batch in range(4):
            fid.update(make_images(600, 100 * step + batch, 4), torch.arange(600) + 2400 * step + 600 * batch)
        state = fid.state_dict()["accumulator"]
        sizes.append(sum(own[3].numel() for own in state["statistics"]["sums"]))
        assert len(state["statistics"]["rows"]) <= 512 + TAIL_ROWS
        assert state["hashes"].numel() * 8 + state["indices"].numel() * 8 == 24 * len(fid)
    assert sizes == [10 * D * D] * 3
