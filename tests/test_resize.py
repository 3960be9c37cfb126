"""resize_normalize equals each original's own preprocessing, for every size, layout, dtype and instruction set."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tolerances import TOLERANCES
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.dlpack import to_dlpack

from fidfast import _cpu, ops, reference
from fidfast.ops import images as image_ops
from fidfast.ops.images_torch import resize_normalize_torch
from fidfast.ops.modules import cuda_module
from fidfast.ops.threads import num_threads
from fidfast.preprocessing import PRESETS, get_preset, preprocess

LEVELS = _cpu.simd_levels()
SIZES = [
    (1, 1),
    (1, 300),
    (2, 3),
    (3, 2),
    (64, 65),
    (129, 128),
    (299, 299),
    (300, 298),
    (31, 1000),
    (2047, 33),
    (129, 300),
]


def noise(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def edges(height: int, width: int) -> Tensor:
    """Black and white bars of changing width: every tap next to a step, overshoot on both sides."""
    bars = (torch.arange(height)[:, None] // 3 + torch.arange(width) ** 2 // 50) % 2 * 255
    return torch.stack([bars, 255 - bars, bars.flip(1)]).to(torch.uint8)


def run(images: list[Tensor], preset: str, **options: Any) -> tuple[Tensor, Tensor]:
    values = {"low": 0.0, "high": 1.0, "quantize": "round", "dtype": torch.float32, "channels_last": True}
    return image_ops._run_cpu(images, preset, **{**values, "content_hash": True, **options})


def layouts(image: Tensor) -> dict[str, Tensor]:
    """The same image in memory as frameworks, PIL, crops, flips and RGBA arrays leave it."""
    _, height, width = image.shape
    rgba = torch.zeros(height, width, 4, dtype=image.dtype)
    rgba[..., :3] = image.permute(1, 2, 0)
    big = torch.full((3, height + 5, 2 * width + 3), 7, dtype=image.dtype)
    big[:, 3:-2, 1 : 2 * width + 1 : 2] = image
    return {
        "planes": image.contiguous(),
        "NHWC": image.permute(1, 2, 0).contiguous().permute(2, 0, 1),
        "RGBA": rgba[..., :3].permute(2, 0, 1),
        "every second column of a crop": big[:, 3:-2, 1 : 2 * width + 1 : 2],
        "BGR, reversed twice": image.flip(0).contiguous()[[2, 1, 0]],
        "transposed": image.transpose(1, 2).contiguous().transpose(1, 2),
    }


def assert_close(got: Tensor, expected: Tensor, key: str) -> None:
    assert got.shape == expected.shape
    error = float((got - expected).abs().max())
    assert error <= TOLERANCES[key].atol, f"off by {error:.2e}: {TOLERANCES[key].reason}"


# ---------------------------------------------------------------------------------------------------------------------
# The originals
# ---------------------------------------------------------------------------------------------------------------------


def original_pytorch_fid(x: Tensor) -> Tensor:
    return 2 * F.interpolate(x.float() / 255, size=(299, 299), mode="bilinear", align_corners=False) - 1


def original_torchmetrics(x: Tensor) -> Tensor:
    x = F.interpolate(x.float(), size=(299, 299), mode="bilinear", align_corners=False, antialias=True)
    return (x - 128) / 128


def original_tensorflow(x: Tensor) -> Tensor:
    """tf.compat.v1.image.resize_bilinear: source = i * (size / 299) in float32, lerp along x, then along y."""

    def lerp(x: Tensor, size: int) -> Tensor:
        source = torch.arange(299, dtype=torch.float32) * torch.tensor(size / 299, dtype=torch.float32)
        low = source.long()
        high = (low + 1).clamp_max(size - 1)
        return x[..., low] + (x[..., high] - x[..., low]) * (source - low)

    x = lerp(x.float(), x.shape[-1])
    return (lerp(x.transpose(-1, -2), x.shape[-2]).transpose(-1, -2) - 128) / 128


def original_clean_fid(x: Tensor) -> Tensor:
    out = torch.empty(len(x), 3, 299, 299)
    for i, image in enumerate(x):
        for c, channel in enumerate(image):
            resized = Image.fromarray(channel.numpy().astype(np.float32)).resize((299, 299), Image.Resampling.BICUBIC)
            out[i, c] = torch.from_numpy(np.asarray(resized).clip(0, 255))
    return (out - 128) / 128


ORIGINALS = {
    "pytorch-fid": original_pytorch_fid,
    "tensorflow": original_tensorflow,
    "clean-fid": original_clean_fid,
    "torchmetrics": original_torchmetrics,
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [*SIZES, (256, 256), (512, 512), (4096, 4096)], ids=str)
def test_equals_the_original_tool(preset: str, size: tuple[int, int]) -> None:
    images = torch.stack([noise(*size), edges(*size)])
    got = preprocess(images, preset)
    expected = ORIGINALS[preset](images)
    if preset != "clean-fid":
        assert_close(got, expected, "resize/original")
    elif size[0] > size[1]:  # Pillow 13 resizes tall images vertically first (its pull request 9549); 12 and we do not
        assert_close(got, expected, "resize/pillow")
    else:
        assert torch.equal(got, expected)


@pytest.mark.parametrize("preset", PRESETS)
def test_equals_the_twin_at_every_simd_level(preset: str) -> None:
    images = [layout for size in SIZES for layout in layouts(noise(*size)).values()]
    expected, expected_hashes = reference.resize_normalize(images[::6], preset, content_hash=True)
    for level in LEVELS:
        for channels_last in (True, False):
            got, hashes = run(images, preset, simd=level, channels_last=channels_last)
            assert got.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
            assert torch.equal(hashes, expected_hashes.repeat_interleave(6, 0))
            assert_close(got[::6], expected, "resize/twin")
            assert all(torch.equal(got[layout::6], got[::6]) for layout in range(1, 6))


@pytest.mark.parametrize("preset", PRESETS)
def test_levels_threads_and_batching_give_equal_bits(preset: str) -> None:
    images = [noise(40, 70), edges(700, 350), noise(256, 256), noise(1, 5), noise(1100, 1000)]
    expected = run(images, preset, threads=1, simd="scalar")
    for level in LEVELS:
        for threads in (1, 2, 5):
            got = run(images, preset, threads=threads, simd=level)
            assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1]), (level, threads)
    alone = [run([image], preset) for image in images]
    assert torch.equal(torch.cat([out for out, _ in alone]), expected[0])
    assert torch.equal(torch.cat([hashes for _, hashes in alone]), expected[1])


# ---------------------------------------------------------------------------------------------------------------------
# Types and ranges
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("preset", ["pytorch-fid", "clean-fid"])
def test_half_output_is_the_rounded_float_output(
    preset: str, dtype: torch.dtype, channels_last: bool, level: str
) -> None:
    images = [noise(100, 90), torch.full((3, 20, 20), 128, dtype=torch.uint8), edges(300, 500)]
    got, _ = run(images, preset, dtype=dtype, channels_last=channels_last, simd=level)
    assert got.dtype == dtype and torch.equal(got, run(images, preset)[0].to(dtype))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_float_images_that_hold_bytes_equal_the_bytes(dtype: torch.dtype, level: str) -> None:
    exact = noise(50, 60) // 64 * 64 if dtype == torch.bfloat16 else noise(50, 60)
    expected = run([exact], "clean-fid")
    for low, high in ((0.0, 1.0), (-1.0, 1.0)):
        image = (exact.double() / 255 * (high - low) + low).to(dtype)
        for layout in layouts(image).values():
            got = run([layout], "clean-fid", low=low, high=high, simd=level)
            assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])


def test_quantize_says_what_becomes_of_floats() -> None:
    image = torch.rand(3, 80, 40)
    unquantised = preprocess([image], value_range=(0, 1), quantize=None)
    expected = 2 * F.interpolate(image[None], size=(299, 299), mode="bilinear", align_corners=False) - 1
    assert_close(unquantised, expected, "resize/original")
    for quantize, quantised in (("round", (image * 255).round()), ("truncate", (image * 255).trunc())):
        got = preprocess([image], value_range=(0, 1), quantize=quantize, content_hash=True)
        expected = preprocess([quantised.to(torch.uint8)], content_hash=True)
        assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])
    _, hashes = preprocess([image], value_range=(0, 1), quantize=None, content_hash=True)
    assert torch.equal(hashes, ops.content_hash([(image * 255).round().to(torch.uint8)]))


@pytest.mark.parametrize("preset", PRESETS)
def test_unquantised_floats_in_every_layout_and_level(preset: str) -> None:
    image = torch.rand(3, 70, 41) * 2 - 1
    expected, _ = reference.resize_normalize([image], preset, value_range=(-1, 1), quantize=None)
    for level in LEVELS:
        for layout in layouts(image).values():
            got, _ = run([layout], preset, low=-1.0, high=1.0, quantize="", simd=level)
            assert_close(got, expected, "resize/twin")


def test_small_overshoot_is_clamped_when_quantised() -> None:
    image = torch.rand(3, 20, 20) * 1.4 - 0.2
    got = preprocess([image], value_range=(0, 1))
    assert torch.equal(got, preprocess([image.clamp(0, 1)], value_range=(0, 1)))


def test_batches() -> None:
    assert preprocess(torch.empty(0, 3, 8, 8, dtype=torch.uint8)).shape == (0, 3, 299, 299)
    out, hashes = preprocess([], content_hash=True, dtype=torch.bfloat16)
    assert out.shape == (0, 3, 299, 299) and out.dtype == torch.bfloat16 and hashes.shape == (0, 2)
    batch = torch.randint(0, 256, (5, 30, 20, 3), dtype=torch.uint8)
    got = preprocess(batch, layout="NHWC")
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(got, preprocess(list(batch.permute(0, 3, 1, 2))))
    assert preprocess(batch, layout="NHWC", memory_format=torch.contiguous_format).is_contiguous()


def test_presets() -> None:
    assert list(PRESETS) == _cpu.presets() == list(reference._PRESETS)
    for name, preset in PRESETS.items():
        assert get_preset(name) is preset
        centre = 127.5 if preset.normalisation == "2x-1 of x/255" else 128.0
        assert _cpu.preset(name)[0] == centre


# ---------------------------------------------------------------------------------------------------------------------
# Errors
# ---------------------------------------------------------------------------------------------------------------------

GOOD = torch.zeros(3, 4, 4, dtype=torch.uint8)
REAL = torch.zeros(3, 4, 4)
BAD_CALLS: list[tuple[type[Exception], str, list[Any], dict[str, Any]]] = [
    (TypeError, r"images\[1\]: expected a torch.Tensor, got ndarray", [GOOD, np.zeros((3, 4, 4), np.uint8)], {}),
    (TypeError, r"images\[0\]: expected uint8 or a floating dtype, got torch.int32", [GOOD.int()], {}),
    (TypeError, r"images\[1\]: expected torch.uint8 as images\[0\], got torch.float32", [GOOD, REAL], {}),
    (ValueError, r"images\[0\]: expected shape \(3, H, W\), got \(4, 4\)", [GOOD[0]], {}),
    (
        ValueError,
        r"images\[0\]: expected shape \(3, H, W\), got \(4, 4, 3\) \(layout NHWC\?\)",
        [GOOD.permute(1, 2, 0)],
        {},
    ),
    (ValueError, r"images\[1\]: expected shape \(3, H, W\), got \(3, 0, 4\)", [GOOD, GOOD[:, :0]], {}),
    (ValueError, r"images\[1\]: expected device cpu as images\[0\], got meta", [GOOD, GOOD.to("meta")], {}),
    (ValueError, "value_range: float images need", [REAL], {}),
    (ValueError, r"value_range: float images need .* got \(0, 255\)", [REAL], {"value_range": (0, 255)}),
    (ValueError, "value_range: expected None for uint8 images", [GOOD], {"value_range": (0, 1)}),
    (ValueError, "quantize: expected .* got 'floor'", [GOOD], {"quantize": "floor"}),
    (ValueError, "preset: expected one of pytorch-fid, .* got 'inception'", [GOOD], {"preset": "inception"}),
    (ValueError, "dtype: expected float32, bfloat16 or float16, got torch.float64", [GOOD], {"dtype": torch.float64}),
    (ValueError, "layout: expected", [GOOD], {"layout": "CHW"}),
    (ValueError, "memory_format: expected", [GOOD], {"memory_format": torch.preserve_format}),
]


@pytest.mark.parametrize(("error", "message", "images", "options"), BAD_CALLS, ids=[call[1] for call in BAD_CALLS])
def test_bad_arguments_are_named(
    error: type[Exception], message: str, images: list[Any], options: dict[str, Any]
) -> None:
    with pytest.raises(error, match=message):
        preprocess(images, **options)


@pytest.mark.parametrize("quantize", ["round", "truncate", None])
@pytest.mark.parametrize("run_on", [image_ops._run_cpu, resize_normalize_torch])
def test_values_that_are_no_image_are_errors(run_on: Any, quantize: str | None) -> None:
    def call(image: Tensor, low: float, high: float) -> None:
        good = torch.zeros(3, 900, 900)
        run_on([good, image], "pytorch-fid", low, high, quantize or "", torch.float32, True, False)

    image = torch.rand(3, 900, 900)
    call(image, 0.0, 1.0)
    image[2, 450, 1] = float("nan")  # at 900 not every pixel is read by the filter: every pixel is checked
    with pytest.raises(
        ValueError, match=r"images\[1\]: expected values in \[0, 1\] \(value_range\), got NaN at 1 places"
    ):
        call(image, 0.0, 1.0)
    image[2, 450, 1] = float("inf")
    with pytest.raises(ValueError, match=r"images\[1\]: .*got values from .* to inf"):
        call(image, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"images\[1\]: expected values in \[-1, 1\] .*got values from 0 to 255"):
        call(torch.arange(256.0).repeat(3, 2, 1), -1.0, 1.0)
    with pytest.raises(ValueError, match=r"images\[1\]: expected values in \[0, 1\] .*got values from -1 to 1"):
        call(torch.linspace(-1, 1, 300).reshape(3, 10, 10), 0.0, 1.0)


def test_the_binding_checks_what_it_writes_to() -> None:
    image, out = to_dlpack(GOOD), torch.empty(1, 3, 299, 299)
    arguments = ("pytorch-fid", 0.0, 1.0, "round", False, 1)
    with pytest.raises(ValueError, match=r"out: expected shape \(1, 3, 299, 299\), got \(2, 3, 299, 299\)"):
        _cpu.resize_normalize([image], to_dlpack(torch.empty(2, 3, 299, 299)), None, *arguments)
    with pytest.raises(ValueError, match="out: expected dense memory"):
        _cpu.resize_normalize([image], to_dlpack(out.contiguous(memory_format=torch.channels_last)), None, *arguments)
    with pytest.raises(ValueError, match="out: expected float32, bfloat16 or float16"):
        _cpu.resize_normalize([image], to_dlpack(out.double()), None, *arguments)
    with pytest.raises(ValueError, match=r"images\[0\]: expected shape \(3, any, any\), got \(1, 3, 299, 299\)"):
        _cpu.resize_normalize([to_dlpack(out)], to_dlpack(out), None, *arguments)
    with pytest.raises(ValueError, match="hashes: expected int64"):
        _cpu.resize_normalize([image], None, to_dlpack(torch.empty(1, 2)), *arguments)
    with pytest.raises(ValueError, match=r"simd: expected one of simd_levels\(\), got avx1024"):
        _cpu.resize_normalize([image], to_dlpack(out), None, *arguments, "avx1024")


# ---------------------------------------------------------------------------------------------------------------------
# torch.library, other devices
# ---------------------------------------------------------------------------------------------------------------------


def test_opcheck_and_compile() -> None:
    images = [noise(20, 30), noise(7, 9)]
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


def test_meta_tensors_know_the_shape() -> None:
    out, hashes = ops.resize_normalize([GOOD.to("meta")] * 2, "pytorch-fid", dtype=torch.float16, content_hash=True)
    assert out.shape == (2, 3, 299, 299) and out.dtype == torch.float16 and hashes.shape == (2, 2)


@pytest.mark.parametrize("preset", PRESETS)
def test_torch_implementation_for_other_devices(preset: str) -> None:
    images = [noise(30, 50), edges(400, 20), noise(30, 50), noise(1, 1)]
    expected = run(images, preset)
    for channels_last in (True, False):
        out, hashes = resize_normalize_torch(images, preset, 0.0, 1.0, "round", torch.float32, channels_last, True)
        assert_close(out, expected[0], "resize/twin")
        assert torch.equal(hashes, expected[1])
    floats = [torch.rand(3, 30, 50) * 2 - 1]
    for quantize in ("round", "truncate", ""):
        out, _ = resize_normalize_torch(floats, preset, -1.0, 1.0, quantize, torch.float32, True, False)
        assert_close(out, run(floats, preset, low=-1.0, high=1.0, quantize=quantize)[0], "resize/twin")


def test_kernels_are_named() -> None:
    assert ops.simd_level() == LEVELS[-1]
    here, there = ops.kernels(), ops.kernels("cuda")
    assert set(here) == set(there) == {"resize_normalize", "content_hash", "add_covariance", "symmetric_product"}
    assert here["resize_normalize"] == here["content_hash"] == f"cpu {LEVELS[-1]}"
    assert here["add_covariance"] == here["symmetric_product"] == "torch on cpu"
    assert (
        there["resize_normalize"] == there["add_covariance"] == ("torch on cuda" if cuda_module() is None else "cuda")
    )
    assert set(ops.kernels("mps").values()) == {"torch on mps"}


def test_the_route_of_products_is_named_by_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("images", "symmetric_product"):
        monkeypatch.setattr(sys.modules[f"fidfast.ops.{module}"], "cuda_module", lambda: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", None)
    for capability, expected in {(9, 0): "cuda from D = 256", (8, 6): "torch on cuda"}.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, capability=capability: capability)
        assert ops.kernels("cuda")["symmetric_product"] == expected


# ---------------------------------------------------------------------------------------------------------------------
# Threads and processes
# ---------------------------------------------------------------------------------------------------------------------


def _run_in_child(connection: Any, images: list[Tensor]) -> None:
    connection.send(run(images, "clean-fid", threads=3)[0].numpy())


def test_safe_after_fork() -> None:
    images = [noise(200, 200) for _ in range(4)]
    expected = run(images, "clean-fid", threads=3)[0]  # the parent's threads exist now; the child has none of them
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_run_in_child, args=(theirs, images))
    child.start()
    assert ours.poll(30), "the child hangs"
    assert np.array_equal(ours.recv(), expected.numpy())
    child.join(30)
    assert child.exitcode == 0


class _ThreadsInWorker(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        torch.set_num_threads(3)
        return num_threads()


def test_one_thread_inside_a_worker() -> None:
    assert list(DataLoader(_ThreadsInWorker(), num_workers=1, batch_size=None)) == [1]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_callers_in_several_threads() -> None:
    images = [[noise(100 + i, 150)] * 3 for i in range(4)]
    expected = [run(batch, "torchmetrics")[0] for batch in images]
    results: list[Any] = [None] * 4

    def work(i: int) -> None:
        for _ in range(5):
            results[i] = run(images[i], "torchmetrics", threads=2)[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(got, want) for got, want in zip(results, expected, strict=True))


def test_memory_is_a_ring_of_rows_not_the_image() -> None:
    code = """
import resource, torch
from fidfast.preprocessing import preprocess
image = torch.zeros(6000, 6000, 3, dtype=torch.uint8).permute(2, 0, 1)
preprocess([image[:, :64, :64]], "clean-fid")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
preprocess([image], "clean-fid")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 15_000  # kB; the image has 108 MB, as float32 432
