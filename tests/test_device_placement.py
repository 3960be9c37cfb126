"""The whole path with images, features and statistics on a device, pretended on the CPU (pretend_cuda.py)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from backends import make_backend
from pretend_cuda import CUDA, OnDevice, inside, pretended, to_device, waits
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

import fidfast
from fidfast import features, frechet_distance, landing, matrix_sqrt, metric
from fidfast.chunk_graph import ChunkGraph
from fidfast.features import CallableExtractor
from fidfast.frechet import statistics_distance
from fidfast.ops import uploads
from fidfast.statistics import FeatureStatistics

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A device without our kernels: torch takes their place."""
    with pretended(monkeypatch, None):
        yield


@pytest.fixture(params=["torch", "kernels"])
def either_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = make_backend("emulated").module if request.param == "kernels" else None
    with pretended(monkeypatch, module):
        yield


class Means(nn.Module):
    """(N, 3, H, W) uint8 → (N, 12): means of four quarters."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.5, 2.0, 12))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x.float(), 2).flatten(1) * self.scale


def _images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 10, 9), dtype=torch.uint8, generator=generator)


def _features(count: int, size: int, seed: int) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed)) * torch.linspace(0.1, 2, size)


def _extractor(place: str) -> CallableExtractor:
    network = Means()
    if place == "cuda":
        network.scale = to_device(network.scale)
    return CallableExtractor(network)  # runs where its tensors are


def test_statistics_and_distances_stay_there(either_device: None) -> None:
    rows = [_features(count, 40, seed) for seed, count in enumerate((300, 30, 1200))]
    found, expected = [], []
    for of, place in ((found, to_device), (expected, torch.clone)):
        for part in rows:
            statistics = FeatureStatistics(40)
            for batch in part.split(70):
                statistics.update(place(batch))
            of.append(statistics)
    for there, here in zip(found, expected, strict=True):
        assert isinstance(there.mu, OnDevice) and isinstance(there.sigma, OnDevice)
        torch.testing.assert_close(inside(there.sigma), here.sigma, rtol=1e-12, atol=1e-12)
    for i, j in ((0, 2), (1, 2), (0, 1)):
        plain = statistics_distance(expected[i], expected[j])
        for sides in ((found[i], found[j]), (found[i], expected[j]), (expected[i], found[j])):
            term = statistics_distance(*sides)
            assert "polar" in term.route and term.raw == pytest.approx(plain.raw, abs=1e-9)
    found[0].merge(expected[2])
    expected[0].merge(expected[2])
    torch.testing.assert_close(inside(found[0].sigma), expected[0].sigma, rtol=1e-12, atol=1e-12)


def test_matrix_functions_stay_there(device: None) -> None:
    a, b = (torch.cov(_features(60, 6, seed).double().T) for seed in (1, 2))
    zero = torch.zeros(6, dtype=torch.float64)
    root = matrix_sqrt(to_device(a))
    assert isinstance(root, OnDevice)
    torch.testing.assert_close(inside(root) @ inside(root), a)
    value = frechet_distance(*map(to_device, (zero, a, zero, b)))
    assert isinstance(value, OnDevice) and float(value) == pytest.approx(float(frechet_distance(zero, a, zero, b)))
    waits.clear()
    assert all(isinstance(part, OnDevice) for part in frechet_distance(*map(to_device, (zero, a, zero, b)), sync=False))
    assert not waits


def test_moments_of_both_sides_meet_there(device: None) -> None:
    """A loss on the device against a reference from a file."""
    moments = [
        part for seed in (1, 2) for part in (torch.zeros(6).double(), torch.cov(_features(60, 6, seed).double().T))
    ]
    expected = float(frechet_distance(*moments))
    for first in (moments[:2], [part.numpy() for part in moments[:2]]):
        for arguments in ([*first, *map(to_device, moments[2:])], [*map(to_device, moments[2:]), *first]):
            value = frechet_distance(*arguments)
            assert isinstance(value, OnDevice) and float(value) == pytest.approx(expected)
            assert isinstance(frechet_distance(*arguments, sync=False).value, OnDevice)


def test_states_that_torch_load_has_put_there(device: None, tmp_path: Path) -> None:
    """torch.load(…, map_location="cuda") moves every tensor, and map_location="cpu" brings them all back."""
    images = _images(40)
    fid = fidfast.FID(images, feature_extractor=_extractor("cuda"))
    fid.update(images)
    before = fid.state_dict()
    resumed = fidfast.FID(images, feature_extractor=_extractor("cuda"))
    resumed.load_state_dict(tree_map_only(OnDevice, inside, before))
    resumed.update(_images(10, 1))
    after = resumed.state_dict()["accumulator"]["statistics"]
    assert {type(one) for one in tree_leaves(after) if isinstance(one, Tensor) and one.is_floating_point()} == {
        OnDevice
    }

    statistics = fidfast.compute_statistics(images, feature_extractor=_extractor("cpu"), progress=False)
    state = tree_map_only(Tensor, to_device, statistics.state_dict())
    loaded = FeatureStatistics(12)
    loaded.load_state_dict(state)
    assert (loaded.content_hashes == statistics.content_hashes).all()

    options = {"batch_size": 4, "batches_per_step": 1, "history": tmp_path / "fid.jsonl", "keep_images": 4}
    evaluators = [
        fidfast.TrainingEvaluator(
            lambda n, seeds: _images(n, seeds[0] % 1000), images, stages=[fidfast.Stage(40, at=1)], budget=None,
            feature_extractor=_extractor("cuda"), **options,
        )
        for _ in range(2)
    ]  # fmt: skip
    assert evaluators[0].step(1) == []
    state = tree_map_only(Tensor, lambda x: x if isinstance(x, OnDevice) else to_device(x), evaluators[0].state_dict())
    evaluators[1].load_state_dict(state)
    assert len([done for step in range(2, 12) for done in evaluators[1].step(step)]) == 1
    assert [path.suffix for path in tmp_path.rglob("fid-images/*")] == [".png"]


@pytest.mark.parametrize("there", [True, False], ids=["images there", "images here"])
def test_a_whole_evaluation(device: None, there: bool) -> None:
    """Images there or here, the network there or here; error bars, indices, duplicates, a state that travels."""
    real, generated = _images(150), _images(200, 1)
    options = {"progress": False, "error_bars": True}
    reference = fidfast.compute_fid(real, generated, feature_extractor=_extractor("cpu"), **options)
    given = [to_device(images) if there else images for images in (real, generated)]
    for where in ("cuda", "cpu"):
        extractor = _extractor(where)
        result = fidfast.compute_fid(*given, feature_extractor=extractor, **options)
        assert float(result) == pytest.approx(float(reference), rel=1e-9)
        assert result.standard_error == pytest.approx(reference.standard_error, rel=1e-6)
        fid = fidfast.FID(real, feature_extractor=extractor)
        for start in range(0, 200, 90):
            fid.update(given[1][start : start + 90], torch.arange(start, min(start + 90, 200)))
        state = fid.state_dict()
        other = fidfast.FID(real, feature_extractor=extractor)
        other.load_state_dict(state)
        assert float(fid.compute()) == pytest.approx(float(reference), rel=1e-9)
        assert float(other.compute()) == pytest.approx(float(reference), rel=1e-9)


@pytest.mark.parametrize("cap", [None, 100])
def test_measures_of_kept_features(device: None, cap: int | None) -> None:
    real, generated = _images(150), _images(130, 1)
    options = {"metrics": ["fid", "kid", "prdc"], "kid_subset_size": 60, "max_features": cap, "progress": False}
    expected = fidfast.evaluate(real, generated, feature_extractor=_extractor("cpu"), **options)
    found = fidfast.evaluate(*map(to_device, (real, generated)), feature_extractor=_extractor("cuda"), **options)
    assert found["prdc"] == expected["prdc"]
    assert found["kid"].mean == pytest.approx(expected["kid"].mean, rel=1e-9)


@pytest.mark.weights
@pytest.mark.parametrize("there", [True, False], ids=["images there", "images here"])
def test_the_fid_network(device: None, there: bool, weights_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CUDA_CHUNK", 4)
    monkeypatch.setattr(ChunkGraph, "_capture", lambda self, x: None)
    real, generated = _images(6), _images(7, 1)
    expected = fidfast.compute_fid(real, generated, feature_dim=64, device="cpu", progress=False)
    given = [to_device(images) if there else images for images in (real, generated)]
    found = fidfast.compute_fid(*given, feature_dim=64, device="cuda", progress=False)
    assert float(found) == pytest.approx(float(expected), rel=1e-4)
    assert found.device == "cuda:0" and found.kernels["resize_normalize"] == "torch on cuda"
    assert "CUDA graph" in found.kernels["network"]


def test_the_resize_happens_where_the_network_is(either_device: None) -> None:
    images = [image.permute(1, 2, 0).contiguous().permute(2, 0, 1) for image in _images(3)] + list(_images(2, 5))
    expected, hashes = fidfast.ops.resize_normalize(images, "pytorch-fid", content_hash=True)
    for given in (images, [to_device(image) for image in images]):
        out, found = fidfast.ops.resize_normalize(given, "pytorch-fid", content_hash=True, device=CUDA)
        assert isinstance(out, OnDevice) and isinstance(found, OnDevice)
        torch.testing.assert_close(inside(out), expected, rtol=0, atol=1e-6)
        assert torch.equal(inside(found), hashes)
    back, found = fidfast.ops.resize_normalize(given, "pytorch-fid", content_hash=True, device=torch.device("cpu"))
    assert not isinstance(back, OnDevice) and torch.equal(found, hashes)


def test_nothing_waits_for_a_chunk_before_the_next_is_on_its_way(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host asks for no number between the chunks; the first chunks come and the last one ends the pass."""
    extractor = _extractor("cuda")
    said: list[int] = []
    inner = extractor.network
    monkeypatch.setattr(extractor, "network", lambda x: said.append(len(waits)) or inner(x))
    images = to_device(_images(64 * 5 + 3))
    statistics = fidfast.compute_statistics(images, feature_extractor=extractor, progress=False)
    assert len(said) == 6 and len(set(said)) == 1
    assert statistics.num_samples == 323


def test_hashes_from_another_device_have_come_too(device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features of cuda:0 and hashes of cuda:1, as a network has images of the other device; copies come late."""
    begun: dict[torch.device, list[tuple[Tensor, Tensor]]] = {}

    class There(OnDevice):
        device = property(lambda self: torch.device("cuda", 1))

    class Stream:
        def __init__(self, place: torch.device) -> None:
            self.place = place

        def record_event(self) -> Stream:
            return self

        def synchronize(self) -> None:
            for there, here in begun.pop(self.place):
                here.copy_(inside(there))

    def begin(tensor: Tensor) -> Tensor:
        here = torch.zeros_like(inside(tensor))
        begun.setdefault(tensor.device, []).append((tensor, here))
        return here

    monkeypatch.setattr(landing, "_begin_copy", begin)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    features, hashes = _features(5, 4, 0), torch.arange(1, 11).view(5, 2)
    features[3, 1] = torch.inf
    for place in (OnDevice, There):
        found, finite = landing.Landing(to_device(features), place(hashes)).wait()
        assert torch.equal(found, hashes) and finite.tolist() == [True, True, True, False, True]
        assert not begun


def test_metrics_share_a_network_of_the_device_they_mean(device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "cuda" and None mean the current device, which may be another one for the next metric."""
    monkeypatch.setattr(metric, "resolve_extractor", lambda device, **_: CallableExtractor(torch.sum, device=device))
    kept = []
    for current in (0, 1, 0):
        monkeypatch.setattr(torch.cuda, "current_device", lambda current=current: current)
        for named in (None, "cuda", torch.device("cuda"), f"cuda:{current}"):
            kept.append(fidfast.FID(_images(3), device=named)._network())
            assert kept[-1].device == torch.device("cuda", current)
    assert len(set(map(id, kept))) == 2


# Uploads of the host's images


@pytest.fixture
def uploaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many images each upload has had, to a device with our kernels."""
    counts: list[int] = []
    pack = uploads.pack
    monkeypatch.setattr(uploads, "pack", lambda images: counts.append(len(images)) or pack(images))
    with pretended(monkeypatch, make_backend("emulated").module):
        yield counts


def _sizes(*sizes: int) -> list[Tensor]:
    return [_images(1, seed)[0].repeat(1, 3, 3)[:, :size, :size] for seed, size in enumerate(sizes)]


@pytest.mark.parametrize(("dtype", "value_range"), [(torch.uint8, None), (torch.float32, (0, 1))])
@pytest.mark.parametrize("channels_last", [True, False])
def test_photographs_go_up_in_pieces(
    uploaded: list[int],
    dtype: torch.dtype,
    value_range: tuple[int, int] | None,
    channels_last: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In every bit as from one upload, which small images stay."""
    images = [image.to(dtype) / 255 if dtype.is_floating_point else image for image in _sizes(10, 10, 27, 10, 12)]
    options = {"value_range": value_range, "content_hash": True, "channels_last": channels_last, "device": CUDA}
    expected, hashes = fidfast.ops.resize_normalize(images, "clean-fid", **options)
    assert uploaded == [5]
    for kilobytes, counts in ((0, [1, 1, 1, 1, 1]), (1, [2, 1, 2]), (2.8, [3, 2])):
        uploaded.clear()
        monkeypatch.setattr(uploads, "PIECE_BYTES", int(kilobytes * 1000) * dtype.itemsize)
        out, found = fidfast.ops.resize_normalize(images, "clean-fid", **options)
        assert uploaded == counts
        assert isinstance(out, OnDevice) and isinstance(found, OnDevice) and out.stride() == expected.stride()
        assert torch.equal(inside(out), inside(expected)) and torch.equal(inside(found), inside(hashes))
        _, none = fidfast.ops.resize_normalize(images, "clean-fid", **{**options, "content_hash": False})
        assert none.shape == (0, 2)
    uploaded.clear()
    out, _ = fidfast.ops.resize_normalize([to_device(image) for image in images], "clean-fid", **options)
    assert torch.equal(inside(out), inside(expected)) and not uploaded, "what is there goes nowhere"


def test_an_unusable_image_of_a_later_piece_is_named(uploaded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "PIECE_BYTES", 3000)
    images = [torch.full((3, 10, 10), value) for value in (0.5, 0.0, 1.0, 0.25, 3.0)]
    with pytest.raises(ValueError, match=r"^images\[4\]: expected values in \[0, 1\] .*, got values from 3 to 3"):
        fidfast.ops.resize_normalize(images, "pytorch-fid", value_range=(0, 1), device=CUDA)
    assert uploaded == [2, 2, 1]


def test_a_pinned_buffer_is_filled_again_once_its_copy_is_done(
    uploaded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way: list[Event] = []

    class Event:
        def record(self, stream: object = None) -> None:
            under_way.append(self)

        def synchronize(self) -> None:
            under_way.remove(self)

    upload, views_of = uploads.Uploads(CUDA), uploads.views_of
    seen: list[int] = []  # copies under way where the buffer is written, and where the memory there is cut
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(uploads, "views_of", lambda *of: seen.append(len(under_way)) or views_of(*of))
    monkeypatch.setattr(uploads, "PIECE_BYTES", 300)
    for piece in uploads.pieces(_sizes(10, 10, 10, 10, 10)):
        upload(piece)
    assert seen == [0, 1, *[1, 2] * 4]
