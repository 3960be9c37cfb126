"""resize_normalize's CUDA kernels, in emulation and on a device: presets, types, layouts, sizes against the twin."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from backends import Backend
from test_resize import edges, layouts, noise
from tolerances import TOLERANCES
from torch import Tensor
from torch.utils.dlpack import to_dlpack

from fidfast import ops, reference
from fidfast.ops import images_cuda
from fidfast.ops.images_cuda import TapTables, bad_indices, enqueue_resize_normalize
from fidfast.ops.images_torch import empty_out
from fidfast.preprocessing import PRESETS, preprocess

# Below, at and above 299; one row, one column; both passes of one kind and of either.
SIZES = [(1, 1), (5, 7), (32, 48), (299, 299), (300, 299), (40, 301), (1, 130)]
OUTPUTS = [
    (torch.float32, True),
    (torch.bfloat16, False),
    (torch.float16, True),
    (torch.float32, False),
    (torch.bfloat16, True),
    (torch.float16, False),
]
# Half a step of the output's own rounding at values up to 1, on top of the float32 error.
OUTPUT_ROUNDING = {torch.float32: 0.0, torch.float16: 2.0**-12, torch.bfloat16: 2.0**-9}


def run(
    backend: Backend, images: list[Tensor], preset: str, *, low: float = 0.0, high: float = 1.0, **options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """(out, hashes, unusable) on the CPU."""
    on_device = _moved(images, backend.device)
    values = {"quantize": "round", "dtype": torch.float32, "channels_last": True, "content_hash": True, **options}
    tables = TapTables()

    def call() -> tuple[Tensor, Tensor, Tensor]:
        out, hashes, unusable = enqueue_resize_normalize(
            backend.module, on_device, preset, low, high, **values, tables=tables
        )
        return out, hashes, torch.zeros(0) if unusable is None else unusable

    out, hashes, unusable = backend.run(call)
    return out.cpu(), hashes.cpu(), unusable.cpu()


def _moved(views: list[Tensor], device: str) -> list[Tensor]:
    """Copies on the device, each with its strides and its offset; views of one memory are views of one copy."""
    wholes: dict[int, Tensor] = {}
    for view in views:
        memory = view.untyped_storage()
        if memory.data_ptr() not in wholes:
            whole = torch.empty(0, dtype=view.dtype).set_(memory)  # type: ignore[call-overload]
            wholes[memory.data_ptr()] = whole.to(device, copy=True)
    return [
        wholes[view.untyped_storage().data_ptr()].as_strided(view.shape, view.stride(), view.storage_offset())
        for view in views
    ]


def assert_close(got: Tensor, expected: Tensor, key: str = "resize/twin") -> None:
    assert got.shape == expected.shape
    error = float((got.float() - expected.float()).abs().max())
    limit = TOLERANCES[key].atol + OUTPUT_ROUNDING[got.dtype]
    assert error <= limit, f"off by {error:.2e}: {TOLERANCES[key].reason}"


# ---------------------------------------------------------------------------------------------------------------------
# Values
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_equals_the_twin_in_every_layout_and_output_type(backend: Backend, preset: str) -> None:
    by_layout = [layouts(noise(*size)) for size in SIZES]
    expected, hashes = reference.resize_normalize([each["planes"] for each in by_layout], preset, content_hash=True)
    names = list(by_layout[0])
    for turn, (dtype, channels_last) in enumerate(OUTPUTS):  # every size in every layout or its neighbour
        chosen = list(range(turn % 2, len(SIZES), 2))
        images = [by_layout[i][names[(i + turn) % len(names)]] for i in chosen]
        got, got_hashes, _ = run(backend, images, preset, dtype=dtype, channels_last=channels_last)
        assert got.dtype == dtype
        assert got.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        assert_close(got, expected[chosen])
        assert torch.equal(got_hashes, hashes[chosen])
        if turn == 1:
            alone, none, _ = run(backend, images, preset, dtype=dtype, channels_last=channels_last, content_hash=False)
            assert torch.equal(alone, got) and none.shape == (0, 2)


@pytest.mark.parametrize("preset", PRESETS)
def test_large_reductions(backend: Backend, preset: str) -> None:
    images = [edges(600, 200), edges(97, 1400)]  # the second one needs several tiles of columns
    expected, hashes = reference.resize_normalize(images, preset, content_hash=True)
    interleaved = [image.permute(1, 2, 0).contiguous().permute(2, 0, 1) for image in images]
    got, got_hashes, _ = run(backend, images, preset)
    assert_close(got, expected)
    assert torch.equal(got_hashes, hashes)
    assert torch.equal(run(backend, interleaved, preset, content_hash=False)[0], got)


def test_pillow_sums_are_those_of_the_cpu(backend: Backend) -> None:
    """Of the first two images one output differs: the kernel's products are fused with its sums, the CPU's are not."""
    images = [noise(37, 61), noise(333, 50), noise(30, 50), edges(310, 330), noise(299, 20)]
    assert_close(run(backend, images, "clean-fid")[0], preprocess(images, "clean-fid"), "resize/fused")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("quantize", ["round", "truncate", ""])
def test_float_images(backend: Backend, preset: str, quantize: str) -> None:
    turn = list(PRESETS).index(preset) + ("round", "truncate", "").index(quantize)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        sizes = [(41, 33), (4, 610)] if dtype == torch.float32 else [(41, 33)]
        images = [(torch.rand(3, *size) * 2 - 1).to(dtype) for size in sizes]
        expected, hashes = reference.resize_normalize(
            images, preset, value_range=(-1, 1), quantize=quantize or None, content_hash=True
        )
        name = ("planes", "NHWC", "every second column of a crop")[turn % 3]
        out_dtype, channels_last = OUTPUTS[turn % len(OUTPUTS)]
        views = [layouts(image)[name] for image in images]
        values = {"low": -1.0, "quantize": quantize, "dtype": out_dtype, "channels_last": channels_last}
        got, got_hashes, unusable = run(backend, views, preset, **values)
        assert_close(got, expected)
        assert torch.equal(got_hashes, hashes)
        assert unusable.tolist() == [0] * len(sizes)
        turn += 1


def test_floats_that_hold_bytes_give_the_bytes(backend: Backend) -> None:
    image = noise(50, 60)
    expected = run(backend, [image], "torchmetrics")
    for low in (0.0, -1.0):
        got = run(backend, [(image.double() / 255 * (1 - low) + low).float()], "torchmetrics", low=low)
        assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])


# ---------------------------------------------------------------------------------------------------------------------
# Batches, places in memory, hashes
# ---------------------------------------------------------------------------------------------------------------------


def test_batch_of_one_size_equals_its_images(backend: Backend) -> None:
    batch = torch.randint(0, 256, (4, 21, 35, 3), dtype=torch.uint8)
    images = [image.permute(2, 0, 1) for image in batch]  # one launch for all, each a step from the one before
    places = [image.data_ptr() for image in _moved(images, backend.device)]
    assert {after - before for before, after in pairwise(places)} == {21 * 35 * 3}
    got = run(backend, images, "clean-fid")
    backwards = run(backend, images[::-1], "clean-fid")
    same = run(backend, [images[2]] * 3, "clean-fid")
    for i, image in enumerate(images):
        out, hashes, _ = run(backend, [image], "clean-fid")
        assert torch.equal(got[0][i], out[0]) and torch.equal(got[1][i], hashes[0])
        assert torch.equal(backwards[0][3 - i], out[0]) and torch.equal(backwards[1][3 - i], hashes[0])
    assert torch.equal(same[0][2], got[0][2]) and torch.equal(same[1][1], got[1][2])


def test_more_images_of_mixed_sizes_than_one_launch_takes(backend: Backend) -> None:
    sizes = [(1 + i % 3, 2 + i % 5) for i in range(33)]
    sizes[5], sizes[30] = (302, 3), (301, 2)  # another kernel
    images = [noise(*size) for size in sizes]
    got, hashes, _ = run(backend, images, "torchmetrics", dtype=torch.bfloat16)
    assert torch.equal(hashes, ops.content_hash(images))
    assert_close(got, preprocess(images, "torchmetrics"))


@pytest.mark.parametrize("layout", ["planes", "NHWC"])
def test_any_alignment(backend: Backend, layout: str) -> None:
    image = noise(3, 37)
    expected, hashes = reference.resize_normalize([image], "pytorch-fid", content_hash=True)
    views = []
    for offset in range(16):
        memory = torch.full((offset + image.numel(),), 99, dtype=torch.uint8)  # ends with the image
        order = image if layout == "planes" else image.permute(1, 2, 0)
        memory[offset:] = order.reshape(-1)
        view = memory[offset:].view(order.shape)
        views.append(view if layout == "planes" else view.permute(2, 0, 1))
    got, got_hashes, _ = run(backend, views, "pytorch-fid")
    assert_close(got, expected.expand(16, -1, -1, -1))
    assert torch.equal(got_hashes, hashes.expand(16, -1))


@pytest.mark.parametrize("strides", [(2**31 + 16, 7, 1), (1, 2**31 + 16, 3), (2**31, 2**29, 2)])
def test_places_further_apart_than_32_bits_count(
    backend: Backend, strides: tuple[int, int, int], vast: Callable[[int, torch.dtype], Tensor]
) -> None:
    """Planes, rows of interleaved pixels, any strides; and one image from the next, in one launch."""
    memory = vast(2**34, torch.uint8)
    images = [memory.as_strided((3, 3, 5), strides, offset) for offset in (0, 2**33)]
    for image in images:
        image.copy_(noise(3, 5))
    tables = TapTables()

    def call() -> tuple[Tensor, Tensor]:
        values = ("pytorch-fid", 0.0, 1.0, "round", torch.float32, False, True)
        return enqueue_resize_normalize(backend.module, images, *values, tables=tables)[:2]

    got, hashes = backend.run(call)
    on_host = [image.cpu().contiguous() for image in images]
    assert torch.equal(hashes.cpu(), ops.content_hash(on_host))
    assert_close(got.cpu(), preprocess(on_host))


def test_grey_images_that_are_expanded_to_three_channels(backend: Backend) -> None:
    grey = noise(20, 30)[:1]
    got, hashes, _ = run(backend, [grey.expand(3, -1, -1)], "tensorflow")
    expected, expected_hashes = reference.resize_normalize([grey.repeat(3, 1, 1)], "tensorflow", content_hash=True)
    assert_close(got, expected)
    assert torch.equal(hashes, expected_hashes)


def test_only_hashes(backend: Backend) -> None:
    sizes = [(1, 1), (1, 2), (3, 63), (2, 64), (2, 65), (9, 128), (33, 200), (2, 2000)]
    images = [layout for size in sizes for layout in layouts(noise(*size)).values()]
    expected = ops.content_hash(images)

    def hashes_of(images: list[Tensor], low: float = 0.0) -> Tensor:
        on_device = _moved(images, backend.device)

        def call() -> Tensor:
            hashes = torch.zeros(len(images), 2, dtype=torch.int64, device=backend.device)
            images_cuda.launch(backend.module, on_device, None, hashes, "pytorch-fid", low, 1.0, "round", False)
            return hashes

        return backend.run(call).cpu()

    assert torch.equal(hashes_of(images), expected)
    assert torch.equal(hashes_of([image.float() / 255 for image in images[:24]]), expected[:24])


def test_unusable_floats_are_flagged(backend: Backend) -> None:
    good = torch.rand(3, 5, 900)
    for value, quantize in ((float("nan"), "round"), (float("inf"), ""), (1.3, "round"), (-0.3, "")):
        bad = good.clone()
        bad[2, 3, 451] = value  # between the pixels that the filter reads
        unusable = run(backend, [good, bad, good], "pytorch-fid", quantize=quantize, content_hash=False)[2]
        assert bad_indices(unusable) == [1]
    small_overshoot = torch.rand(3, 9, 9) * 1.4 - 0.2
    out, _, unusable = run(backend, [small_overshoot], "pytorch-fid")
    assert bad_indices(unusable) == []
    assert torch.equal(out, run(backend, [small_overshoot.clamp(0, 1)], "pytorch-fid")[0])


# ---------------------------------------------------------------------------------------------------------------------
# Tables and arguments
# ---------------------------------------------------------------------------------------------------------------------


def test_tables_are_made_once_and_bounded(backend: Backend) -> None:
    device = torch.device(backend.device)
    tables = TapTables(capacity=60_000)
    first = tables.get(backend.module, "column", "pytorch-fid", [10, 20, 20], device)
    assert sorted(first) == [10, 20] and first[10].device.type == device.type
    again = tables.get(backend.module, "column", "pytorch-fid", [20], device)
    assert again[20] is first[20]
    assert tables.get(backend.module, "row", "pytorch-fid", [20], device)[20] is not first[20]
    for size in range(30, 60):
        tables.get(backend.module, "column", "pytorch-fid", [size], device)
    kept = [table.numel() for table, _ in tables._tables.values()]
    assert sum(kept) == tables._bytes <= 60_000 < sum(kept) + max(kept)
    assert tables.get(backend.module, "column", "pytorch-fid", [20], device)[20] is not first[20]


def test_the_binding_checks_what_it_gets(backend: Backend) -> None:
    device, module = torch.device(backend.device), backend.module
    image = torch.zeros(3, 4, 4, dtype=torch.uint8, device=device)
    tables = TapTables()

    def call(
        image: Tensor = image,
        out: Tensor | None = None,
        columns: dict[int, Tensor] | None = None,
        hashes: Tensor | None = None,
        preset: str = "pytorch-fid",
        quantize: str = "round",
        channels_last: bool = False,
    ) -> None:
        made = tables.get(module, "column", "pytorch-fid", [4, 5], device) if columns is None else columns
        rows = tables.get(module, "row", "pytorch-fid", [4], device)
        out = empty_out(1, torch.float32, channels_last, device) if out is None else out
        module.resize_normalize(
            [to_dlpack(image)],
            {size: to_dlpack(table) for size, table in made.items()},
            {size: to_dlpack(table) for size, table in rows.items()},
            to_dlpack(out),
            None if hashes is None else to_dlpack(hashes),
            None,
            preset,
            0.0,
            1.0,
            quantize,
            channels_last,
            backend.stream(),
        )

    with pytest.raises(ValueError, match=r"out: expected shape \(1, 3, 299, 299\), got \(2, 3, 299, 299\)"):
        call(out=torch.empty(2, 3, 299, 299, device=device))
    with pytest.raises(ValueError, match="out: expected dense memory"):
        call(out=torch.empty(1, 3, 299, 299, device=device), channels_last=True)
    with pytest.raises(ValueError, match="out: expected float32, bfloat16 or float16"):
        call(out=torch.empty(1, 3, 299, 299, device=device, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"images\[0\]: expected shape \(3, any, any\), got \(4, 4, 3\)"):
        call(image.permute(1, 2, 0))
    with pytest.raises(ValueError, match=r"images\[0\]: expected uint8, float32, bfloat16 or float16"):
        call(image.double())
    with pytest.raises(ValueError, match=r"images\[0\]: expected height and width from 1 to 16384, got 1 x 16385"):
        call(image[:, :1, :1].expand(3, 1, 16385))
    with pytest.raises(ValueError, match="columns: none for size 4"):
        call(columns={})
    with pytest.raises(ValueError, match=r"columns\[4\]: expected a table of column_table, got 1216 bytes"):
        call(columns={4: torch.zeros(1216, dtype=torch.uint8, device=device)})
    with pytest.raises(ValueError, match="hashes: expected int64"):
        call(hashes=torch.zeros(1, 2, device=device))
    with pytest.raises(ValueError, match="preset: no such preset: tf2"):
        call(preset="tf2")
    with pytest.raises(ValueError, match="quantize: expected round, truncate or nothing, got floor"):
        call(quantize="floor")
    with pytest.raises(ValueError, match="size: expected 1 to 16384, got 0"):
        module.row_table("pytorch-fid", 0)
    none = [None, None, None, "pytorch-fid", 0.0, 1.0, "round", True, backend.stream()]
    assert module.resize_normalize([], {}, {}, *none) is None


def test_longest_side(backend: Backend) -> None:
    """No preset, type or layout asks for more shared memory than there is."""
    one = torch.tensor([200, 100, 0], dtype=torch.uint8)[:, None, None]
    image = one.expand(3, 1, backend.module.max_side)
    floats = (one.float() / 255).expand_as(image)
    for preset, view, quantize in (
        ("torchmetrics", image, "round"),
        ("torchmetrics", floats, ""),
        ("clean-fid", floats, ""),
    ):
        out, _, _ = run(backend, [view], preset, quantize=quantize, content_hash=False)
        assert_close(out, preprocess([one], preset), "resize/original")  # the sum of 110 float32 weights is not 1


# ---------------------------------------------------------------------------------------------------------------------
# The ops on a device
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.cuda
def test_ops_on_a_device() -> None:
    images = [noise(20, 30), edges(400, 310), noise(7, 9)]
    on_device = [image.cuda() for image in images]
    for preset in PRESETS:
        out, hashes = ops.resize_normalize(on_device, preset, content_hash=True)
        assert out.device.type == hashes.device.type == "cuda"
        assert_close(out.cpu(), preprocess(images, preset))
        assert torch.equal(hashes.cpu(), ops.content_hash(images))
    assert torch.equal(ops.content_hash(on_device).cpu(), ops.content_hash(images))
    assert ops.kernels("cuda")["resize_normalize"] == "cuda"
    with pytest.raises(ValueError, match=r"images\[1\]: expected values in \[0, 1\] .*got NaN at 1 places"):
        bad = torch.rand(3, 8, 8).cuda()
        bad[0, 0, 0] = float("nan")
        ops.resize_normalize([torch.rand(3, 8, 8).cuda(), bad], "clean-fid", value_range=(0, 1))


@pytest.mark.cuda
def test_opcheck_and_compile_on_a_device() -> None:
    images = [noise(20, 30).cuda(), noise(7, 9).cuda()]
    for channels_last in (True, False):
        arguments = (images, "clean-fid", 0.0, 1.0, "round", torch.bfloat16, channels_last, True)
        torch.library.opcheck(torch.ops.fidfast.resize_normalize.default, arguments)
    torch.library.opcheck(torch.ops.fidfast.content_hash.default, (images, 0.0, 1.0, "round"))

    def doubled(images: list[Tensor]) -> tuple[Tensor, Tensor]:
        out, hashes = ops.resize_normalize(images, "pytorch-fid", content_hash=True)
        return 2 * out, hashes

    compiled = torch.compile(doubled, fullgraph=True, backend="aot_eager")
    for got, expected in zip(compiled(images), doubled(images), strict=True):
        assert torch.equal(got, expected) and got.stride() == expected.stride()


@pytest.mark.cuda
def test_another_stream_another_device() -> None:
    images = [noise(40, 50), noise(310, 30)]
    expected = preprocess(images, "torchmetrics")
    stream = torch.cuda.Stream()
    on_device = [image.cuda() for image in images]
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)  # a kernel on any other stream would be done before its input is
        for image in on_device:
            image.bitwise_not_()
            image.bitwise_not_()
        out, _ = ops.resize_normalize(on_device, "torchmetrics")
    stream.synchronize()
    assert_close(out.cpu(), expected)
    assert_close(ops.resize_normalize(on_device, "torchmetrics")[0].cpu(), expected)  # tables of the other stream
    if torch.cuda.device_count() > 1:
        out, hashes = ops.resize_normalize([image.cuda(1) for image in images], "torchmetrics", content_hash=True)
        assert out.device.index == 1 and torch.cuda.current_device() == 0
        assert_close(out.cpu(), expected)
        assert torch.equal(hashes.cpu(), ops.content_hash(images))


@pytest.mark.cuda
def test_no_wait_for_the_device_with_bytes() -> None:
    # Another size first: the kernel is loaded and memory pinned at its first call, and either waits.
    ops.resize_normalize([noise(45, 53).cuda()], "clean-fid", content_hash=True)
    images = [noise(43, 50).cuda()]  # a size of its own: its tables are uploaded here
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)
    done = torch.cuda.Event()
    ops.resize_normalize(images, "clean-fid", content_hash=True)
    done.record()
    assert not done.query()
    torch.cuda.synchronize()


@pytest.mark.cuda
def test_cuda_graph() -> None:
    images = [torch.zeros(3, 40, 50, dtype=torch.uint8).cuda(), torch.zeros(3, 300, 20, dtype=torch.uint8).cuda()]
    graph = torch.cuda.CUDAGraph()
    ops.resize_normalize(images, "clean-fid", content_hash=True)
    with torch.cuda.graph(graph):
        out, hashes = ops.resize_normalize(images, "clean-fid", content_hash=True)
    for _ in range(2):
        fresh = [noise(40, 50), noise(300, 20)]
        for image, content in zip(images, fresh, strict=True):
            image.copy_(content)
        graph.replay()
        assert_close(out.cpu(), preprocess(fresh, "clean-fid"), "resize/fused")
        assert torch.equal(hashes.cpu(), ops.content_hash(fresh))
    match = "expected sizes seen before the CUDA graph capture, got 47 pixels"
    with pytest.raises(RuntimeError, match=match), torch.cuda.graph(torch.cuda.CUDAGraph()):
        ops.resize_normalize([torch.zeros(3, 47, 47, dtype=torch.uint8, device="cuda")], "clean-fid")


@pytest.mark.cuda
def test_more_than_two_to_the_31_bytes() -> None:
    count = 2**31 // (3 * 512 * 512) + 3
    if torch.cuda.mem_get_info()[0] < 8e9 + count * 3 * 299 * 299 * 2:
        pytest.skip("needs 10 GB of device memory")
    batch = torch.zeros(count, 512, 512, 3, dtype=torch.uint8, device="cuda")
    last = noise(512, 512)
    batch[-1] = last.permute(1, 2, 0)
    out, hashes = ops.resize_normalize(
        list(batch.permute(0, 3, 1, 2)), "clean-fid", dtype=torch.bfloat16, content_hash=True
    )
    assert out.numel() * 2 > 2**30 and torch.equal(hashes[-1:].cpu(), ops.content_hash([last]))
    assert_close(out[-1:].cpu(), preprocess([last], "clean-fid"), "resize/fused")
    big = torch.zeros(3, 16000, 16000, dtype=torch.uint8, device="cuda").expand(3, 16000, 16000)
    assert torch.equal(ops.content_hash([big]).cpu(), ops.content_hash([big.cpu()]))


@pytest.mark.cuda
def test_longer_sides_than_the_kernel_takes_use_torch() -> None:
    image = torch.full((3, 1, 16385), 7, dtype=torch.uint8)
    assert images_cuda.module_for([image.cuda()]) is None
    out, hashes = ops.resize_normalize([image.cuda()], "pytorch-fid", content_hash=True)
    assert_close(out.cpu(), preprocess([image]))
    assert torch.equal(hashes.cpu(), ops.content_hash([image]))
