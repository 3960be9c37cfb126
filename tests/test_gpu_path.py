"""Images on their way through a GPU: pinned uploads, the network's CUDA graph, a whole evaluation. Needs a GPU."""

from __future__ import annotations

import pytest
import torch
from tolerances import TOLERANCES
from torch import Tensor

import fidfast
from fidfast import ops
from fidfast.features import FeatureExtractor
from fidfast.ops.uploads import PIECE_BYTES, Uploads, pack, pieces, unpack, views_of


def _images(count: int, height: int = 40, width: int = 33, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator))


def _mixed(seed: int) -> list[Tensor]:
    """Planes, interleaved, a crop, gray, another size."""
    one, two, three, four, five = _images(5, seed=seed)
    interleaved = two.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    return [one, interleaved, three[:, 3:30, 5:21], four[:1].expand(3, -1, -1), five[:, ::2], *_images(1, 1, 1)]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.float64])
def test_packed_images_come_out_as_they_went_in(dtype: torch.dtype) -> None:
    images = [image.to(dtype) for image in _mixed(0)]
    packed = pack(images)
    memory = torch.empty(packed.size, dtype=torch.uint8)
    assert all(place % 16 == 0 for place in packed.places)
    for place, view in zip(views_of(memory, packed), packed.dense, strict=True):
        place.copy_(view)
    for image, out in zip(images, unpack(memory, packed), strict=True):
        assert torch.equal(out, image) and out.dtype == dtype
    assert packed.interleaved[:2] == [False, True]


def test_pieces_hold_as_much_as_goes_up_at_once() -> None:
    """Of 24 megapixels, 512 x 512 and 12000 x 12000; views of one pixel."""
    pixel = torch.zeros(1, 1, 1, dtype=torch.uint8)
    large, small, vast = (
        pixel.expand(3, height, width) for height, width in ((4000, 6000), (512, 512), (12000, 12000))
    )
    for images, counts in (
        ([large] * 8, [3, 3, 2]),
        ([small] * 64, [64]),
        ([small, vast, small, small, large], [1, 1, 3]),
        ([], [0]),
    ):
        parts = pieces(images)
        assert [len(part) for part in parts] == counts
        assert [id(image) for part in parts for image in part] == [id(image) for image in images]
        assert all(sum(image.numel() for image in part) <= PIECE_BYTES or len(part) == 1 for part in parts)


@pytest.mark.cuda
def test_uploads_may_be_overwritten_at_once() -> None:
    upload = Uploads(torch.device("cuda", 0))
    expected, found = [], []
    for seed in range(6):
        images = _mixed(seed) if seed % 2 else [*_mixed(seed), *_images(3, 300, 200)]
        torch.cuda._sleep(20_000_000)  # the device is behind the host
        found.append([image + 0 for image in upload(images)])
        expected.append([image.clone() for image in images])
        for image in images:
            if 0 not in image.stride():
                image.fill_(7)
    for ours, theirs in zip(found, expected, strict=True):
        for got, image in zip(ours, theirs, strict=True):
            assert got.is_cuda and torch.equal(got.cpu(), image)


@pytest.mark.cuda
def test_host_images_are_resized_on_the_device() -> None:
    images = _mixed(3)
    device = torch.device("cuda", 0)
    out, hashes = ops.resize_normalize(images, "clean-fid", content_hash=True, device=device)
    assert out.is_cuda and hashes.is_cuda
    rtol, atol, _ = TOLERANCES["resize/fused"]
    torch.testing.assert_close(out.cpu(), ops.resize_normalize(images, "clean-fid")[0], rtol=rtol, atol=atol)
    assert torch.equal(hashes.cpu(), ops.content_hash(images))


@pytest.mark.cuda
@pytest.mark.weights
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_graph_gives_what_the_launches_give(precision: str, weights_path: object) -> None:
    extractor = FeatureExtractor(2048, device="cuda", precision=precision)
    assert "CUDA graph" in extractor.kernels["network"]
    batch = _images(2 * extractor.chunk_size + 5, 64, 64)
    first = extractor(batch)  # the first chunk by launches, the others replayed
    assert extractor._network._graph is not None
    assert torch.equal(extractor(batch), first)
    fresh = FeatureExtractor(2048, device="cuda", precision=precision)
    assert torch.equal(fresh(batch[-5:]), first[-5:])


@pytest.mark.cuda
@pytest.mark.weights
def test_an_evaluation_of_images_that_lie_there(weights_path: object) -> None:
    real, generated = (torch.stack(_images(count, 48, 48, count)) for count in (150, 400))  # enough for error bars
    expected = fidfast.compute_fid(real, generated, feature_dim=64, device="cpu", progress=False)
    for place in ("cpu", "cuda"):
        found = fidfast.compute_fid(
            real.to(place), generated.to(place), feature_dim=64, device="cuda", progress=False, error_bars=True
        )
        assert float(found) == pytest.approx(float(expected), rel=1e-3)
        assert found.kernels["resize_normalize"] == found.kernels["add_covariance"] == "cuda"
        metric = fidfast.FID(real, feature_dim=64, device="cuda")
        for part in generated.to(place).split(70):
            metric.update(part)
        assert float(metric.compute()) == pytest.approx(float(found), rel=1e-6)
