"""The content hash: never changes, sees every change, and is the same wherever it is computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fidfast import _cpu, ops, reference
from fidfast.ops import images as image_ops
from fidfast.ops import images_torch
from fidfast.preprocessing import PRESETS, preprocess

LEVELS = _cpu.simd_levels()


def hex_of(hashes: Tensor) -> list[str]:
    return ["".join(f"{int(half) % 2**64:016x}" for half in row) for row in hashes]


def ramp(height: int, width: int) -> Tensor:
    """An image that needs no random number generator to be the same for ever."""
    return (torch.arange(3 * height * width) * 31 % 251).reshape(3, height, width).to(torch.uint8)


# Stored hashes (statistics files, users' own records) must stay comparable: a change here breaks them.
KNOWN = {
    (1, 1): "580ee5b92162d21d41536a375d0c184a",
    (2, 64): "bead79036cb366aee0949310a5ac3e6c",
    (5, 65): "ce349df3ac50faf3ba837b3777dee8d6",
    (256, 256): "2b361d6c22b1b5747f363170eec83d59",
}


@pytest.mark.parametrize("size", KNOWN, ids=str)
def test_known_answers(size: tuple[int, int]) -> None:
    image = ramp(*size)
    assert hex_of(ops.content_hash([image])) == [KNOWN[size]]
    assert hex_of(reference.content_hashes([image])) == [KNOWN[size]]
    assert hex_of(images_torch.torch_hash(image[None].float())) == [KNOWN[size]]


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 63), (2, 64), (2, 65), (40, 128), (33, 200)], ids=str)
def test_same_for_every_layout_preset_level_and_thread_count(size: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    nhwc = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    expected = reference.content_hashes([image])
    for view in (image, nhwc, image.flip(2).contiguous().flip(2), image.float() / 255):
        value_range = (0.0, 1.0) if view.is_floating_point() else None
        assert torch.equal(ops.content_hash([view], value_range=value_range), expected)
        for preset in PRESETS:
            assert torch.equal(preprocess([view], preset, value_range=value_range, content_hash=True)[1], expected)
    for level in LEVELS:
        for threads in (1, 2, 5):
            hashes = torch.empty(1, 2, dtype=torch.int64)
            image_ops._call_cpu([image], None, hashes, "pytorch-fid", 0.0, 1.0, "round", False, threads, level)
            assert torch.equal(hashes, expected)


def test_sees_every_kind_of_change() -> None:
    image = torch.randint(0, 256, (3, 70, 140), dtype=torch.uint8)
    variants = [image]
    for c in range(3):
        for y, x in ((0, 0), (0, 1), (0, 63), (0, 64), (34, 100), (69, 139)):
            for step in (1, 128, 255):
                changed = image.clone()
                changed[c, y, x] += step
                variants.append(changed)
    for dim in (1, 2):
        variants += [image.roll(shift, dim) for shift in (1, 2, 64)]
        variants.append(image.flip(dim))
    swapped = image.clone()
    swapped[:, :, 0:64], swapped[:, :, 64:128] = image[:, :, 64:128], image[:, :, 0:64]
    variants.append(swapped)
    for a, b in ((0, 1), (1, 2), (0, 64)):  # pixels of one pair, of two pairs, of two segments
        swapped = image.clone()
        swapped[:, 5, a], swapped[:, 5, b] = image[:, 5, b], image[:, 5, a]
        variants.append(swapped)
    for order in ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        variants.append(image[list(order)])
    variants += [image.transpose(1, 2), image.reshape(3, 140, 70), image[:, :, :139], image[:, :69]]
    hashes = ops.content_hash(variants)
    for half in (hashes, hashes[:, :1], hashes[:, 1:]):
        assert len(half.unique(dim=0)) == len(variants)


def test_flat_images_of_every_size_and_colour_differ() -> None:
    sizes = [(h, w) for h in (1, 2, 3, 64, 65, 128) for w in (1, 2, 3, 64, 65, 128)]
    images = [torch.full((3, h, w), value, dtype=torch.uint8) for h, w in sizes for value in (0, 1, 2, 127, 128, 255)]
    images += [torch.eye(3, dtype=torch.uint8)[c][:, None, None].expand(3, h, w) for h, w in sizes for c in range(3)]
    assert len(ops.content_hash(images).unique(dim=0)) == len(images)


def test_no_collision_in_many_small_images() -> None:
    several = torch.randint(0, 256, (60_000, 3, 2, 3), dtype=torch.uint8)
    # one image with three pixels changed in 60,000 ways, by little: the hardest for a sum of products
    base = torch.randint(0, 200, (3, 4, 8), dtype=torch.uint8).repeat(60_000, 1, 1, 1)
    i = torch.arange(60_000)
    base[:, 0, 1, 2] += (i % 25).to(torch.uint8)
    base[:, 1, 1, 3] += (i // 25 % 49).to(torch.uint8)
    base[:, 2, 2, 6] += (i // (25 * 49)).to(torch.uint8)
    for images in (several, base):
        halves = ops.content_hash(list(images)).T.tolist()
        assert [len(set(half)) for half in halves] == [60_000, 60_000]


def test_bits_are_balanced() -> None:
    hashes = ops.content_hash(list(torch.randint(0, 256, (4000, 3, 1, 1), dtype=torch.uint8)))
    bits = torch.stack([(hashes >> bit) & 1 for bit in range(64)]).double().mean(1)
    assert (bits - 0.5).abs().max() < 0.05  # six standard deviations of 4000 fair coins


def test_bad_arguments_are_named() -> None:
    assert ops.content_hash([]).shape == (0, 2)
    with pytest.raises(TypeError, match=r"images\[0\]: expected uint8 or a floating dtype, got torch.int64"):
        ops.content_hash([torch.zeros(3, 2, 2, dtype=torch.int64)])
    with pytest.raises(
        ValueError, match=r"images\[0\]: expected values in \[0, 1\] \(value_range\), got NaN at 12 places"
    ):
        ops.content_hash([torch.full((3, 2, 2), float("nan"))], value_range=(0, 1))
