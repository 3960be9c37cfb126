"""Damaged, odd and malicious images and sources: a clear error that names the file, or Pillow's own pixels; no hang."""

from __future__ import annotations

import io
import os
import re
import struct
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, ImageSequence
from torch.utils.data import Dataset

from fidfast.decode import decode_bytes, decode_file
from fidfast.images import ImagesError, open_images

ROOT = Path(__file__).resolve().parents[1]


def picture(height: int = 20, width: int = 30, seed: int = 0) -> Image.Image:
    smooth = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(smooth).resize((width, height), Image.Resampling.BICUBIC)


def save_folder(folder: Path, count: int = 6) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        picture(seed=index).save(folder / f"{index:02d}.png")
    return folder


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header claims a size and whose data is a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def read(source: Any, **options: Any) -> tuple[int, list[tuple[str, str]]]:
    with open_images(source, **options) as images:
        return sum(map(len, images)), images.skipped


JPEG = encoded(picture(200, 300), "jpeg")
DAMAGED = {
    "truncated.jpg": (JPEG[: len(JPEG) // 2], "image file is truncated"),
    "truncated.png": (encoded(picture(), "png")[:120], "truncated"),
    "empty.png": (b"", "the file is empty"),
    "text.png": (b"this is not an image\n" * 9, "not an image that Pillow can read"),
    "bomb.png": (png_of_size(20_000, 20_000), "refused, a decompression bomb: Image size (400000000 pixels)"),
    "postscript.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "PostScript is not read"),
}


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_in_the_middle_of_a_folder(tmp_path, name, num_workers):
    data, reason = DAMAGED[name]
    folder = save_folder(tmp_path / "set")
    path = folder / f"03_{name}"
    path.write_bytes(data)
    expected = re.escape(f"real: cannot read {path} (image 4 of 7): ") + ".*" + re.escape(reason)
    with pytest.raises(ImagesError, match=expected):
        read(folder, num_workers=num_workers, name="real")
    count, skipped = read(folder, num_workers=num_workers, on_error="skip")
    assert count == 6 and [Path(path).name for path, _ in skipped] == [path.name]
    assert reason in skipped[0][1]


@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_file_in_an_archive(tmp_path, kind, num_workers):
    archive = tmp_path / kind
    files = {
        "0.png": encoded(picture(), "png"),
        "1.jpg": JPEG[: len(JPEG) // 2],
        "2.png": b"",
        "3.png": encoded(picture(), "png"),
    }
    if kind == "a.zip":
        with zipfile.ZipFile(archive, "w") as file:
            for name, data in files.items():
                file.writestr(name, data)
    else:
        with tarfile.open(archive, "w:gz" if kind.endswith("gz") else "w") as file:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    with pytest.raises(ImagesError, match=re.escape(f"cannot read {archive}/1.jpg (image 1")):
        read(archive, num_workers=num_workers)
    count, skipped = read(archive, num_workers=num_workers, on_error="skip")
    assert count == 2 and [path for path, _ in skipped] == [f"{archive}/1.jpg", f"{archive}/2.png"]


def test_damaged_archives(tmp_path):
    folder = save_folder(tmp_path / "set")
    with zipfile.ZipFile(tmp_path / "good.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.iterdir()):
            file.write(path, path.name)
    data = (tmp_path / "good.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImagesError, match=r"cut\.zip: expected a zip archive, but it cannot be read"):
        open_images(tmp_path / "cut.zip")
    (tmp_path / "bits.zip").write_bytes(data[:90] + bytes(byte ^ 255 for byte in data[90:99]) + data[99:])
    assert read(tmp_path / "bits.zip", on_error="skip", num_workers=0)[0] == 5  # the checksum finds it
    for suffix in (".zip", ".tar", ".tar.gz", ".npz", ".npy"):
        for content in (b"", b"junk" * 400):
            (tmp_path / f"junk{suffix}").write_bytes(content)
            with pytest.raises(ImagesError, match=rf"generated: .*junk{suffix}"):
                open_images(tmp_path / f"junk{suffix}", name="generated")
    with tarfile.open(tmp_path / "good.tgz", "w:gz") as file:
        file.add(folder, "set")
    data = (tmp_path / "good.tgz").read_bytes()
    (tmp_path / "cut.tgz").write_bytes(data[: len(data) // 2])
    for num_workers in (0, 1):
        with pytest.raises(ImagesError, match=r"cut\.tgz .*the archive is damaged or truncated"):
            read(tmp_path / "cut.tgz", num_workers=num_workers, on_error="skip")


def test_a_member_that_lies_about_its_size_is_refused(tmp_path):
    info = tarfile.TarInfo("0.png")
    info.size = 3 << 30
    (tmp_path / "a.tar").write_bytes(info.tobuf() + bytes(1024))  # Python 3.13's addfile() tells no such lie
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", b"\0" * 5_000_000)  # 5 kB that inflate to 5 MB
    data = (tmp_path / "a.zip").read_bytes()
    lied = data.replace(struct.pack("<I", 5_000_000), struct.pack("<I", 1000))
    (tmp_path / "a.zip").write_bytes(lied)
    with pytest.raises(ImagesError, match="0.png .*the archive is damaged: wrong checksum"):
        read(tmp_path / "a.zip")
    with pytest.raises(ImagesError, match=r"a\.tar"):
        read(tmp_path / "a.tar")


def test_when_no_image_can_be_read_skipping_is_an_error(tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.png").write_text("text")
    with pytest.raises(
        ImagesError, match=r"real: none of the 3 images can be read; the first is .*0\.png: not an image"
    ):
        read(tmp_path, on_error="skip", name="real")


def test_sources_that_hold_no_images_fail_when_opened(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    for index in range(3):
        (tmp_path / "texts" / f"{index}.txt").write_text("text")
    (tmp_path / "texts" / "README").write_text("text")
    with zipfile.ZipFile(tmp_path / "texts.zip", "w") as file:
        file.writestr("a.txt", "text")
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    picture().save(tmp_path / "one.png")
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(4), sigma=np.eye(4))
    np.savez(tmp_path / "other.npz", images=np.zeros((4, 8, 8, 3), dtype=np.uint8))
    np.savez(tmp_path / "features.npz", np.zeros((40, 2048), dtype=np.float32))
    np.save(tmp_path / "labels.npy", np.zeros(4, dtype=np.int64))
    np.save(tmp_path / "none.npy", np.zeros((0, 8, 8, 3), dtype=np.uint8))
    np.save(tmp_path / "rgba.npy", np.zeros((4, 8, 8, 4), dtype=np.uint8))
    np.save(tmp_path / "objects.npy", np.array([None] * 4), allow_pickle=True)
    np.save(tmp_path / "fortran.npy", np.zeros((4, 8, 8, 3), dtype=np.uint8, order="F"))
    cut = (tmp_path / "cut.npy", (tmp_path / "none.npy").read_bytes().replace(b"(0, 8", b"(4, 8"))
    cut[0].write_bytes(cut[1])
    for name, message in {
        "empty": "no images in .*empty: expected files ending in .bmp.* in any case, found no files",
        "texts": "no images in .*found only other files: 3 .txt, 1 without a suffix",
        "texts.zip": "no images in .*found only other files: 1 .txt",
        "missing": "missing does not exist",
        "link": "link does not exist",
        "pipe": "expected a folder or a file, but .*pipe is neither",
        "one.png": "one.png is one file of another kind",
        "statistics.npz": "expected the key arr_0 .* got the keys mu, sigma: these are statistics, not images",
        "other.npz": "expected the key arr_0 with images .*, got the keys images$",
        "features.npz": r"expected an array of images \(N, H, W, 3\), got shape \(40, 2048\)",
        "labels.npy": "expected uint8 or floating-point images, got an array of int64",
        "none.npy": r"got an empty set of shape \(0, 8, 8, 3\)",
        "rgba.npy": r"expected 3 channels \(RGB\) or 1 \(gray\), first or last, got images of shape \(8, 8, 4\)",
        "objects.npy": "got an array of object",
        "fortran.npy": "expected an array in C order",
        "cut.npy": "truncated: expected 768 bytes",
    }.items():
        with pytest.raises(ImagesError, match="^generated: .*" + message):
            open_images(tmp_path / name, name="generated")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "expected a set of images: a folder.* got NoneType"),
        ({"image": 1}, "got dict"),
        (7, "got int"),
        (picture(), "got Image"),
        ([], "got an empty list"),
        ((), "got an empty tuple"),
        (np.zeros((5, 3, 8, 8), dtype=np.int64), "got torch.int64"),
        (np.zeros((5, 3, 8, 8), dtype=bool), "got torch.bool"),
        (np.zeros((5, 3, 8, 8), dtype=np.complex64), "got an array of complex64"),
        (np.zeros((8, 8, 3), dtype=np.uint8), r"got shape \(8, 8, 3\), which looks like one image"),
        (torch.zeros(3, 8, 8), r"got shape \(3, 8, 8\), which looks like one image"),
        (torch.zeros(50, 2048), r"got shape \(50, 2048\)"),
        (torch.zeros(5, 4, 8, 8), r"expected 3 channels \(RGB\) or 1 \(gray\)"),
        (torch.zeros(5, 3, 0, 8), "expected images with pixels, got height 0"),
        (["a.png", 3], "expected a list of paths, but item 1 is of type int"),
    ],
)
def test_objects_that_are_no_set_of_images_fail_when_opened(source, message):
    with pytest.raises(ImagesError, match="^real: .*" + message):
        open_images(source, name="real")


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([{"pixels": 1}], r"item 0 .*a key image, images or pixel_values, got \['pixels'\]"),
        ([torch.zeros(3, 4, 4), "x"], "cannot read x .*no such file"),
        ([torch.zeros(3, 4, 4), 5], "item 1 .*expected an image or a batch of images, got int"),
        ([torch.zeros(3, 4, 4), []], "item 1 .*got an empty list"),
        ([torch.zeros(5, 4, 4)], r"item 0 .*expected 3 channels .* got images of shape \(5, 4, 4\)"),
        ([torch.zeros(1, 2, 3, 4, 4)], r"item 0 .*got shape \(1, 2, 3, 4, 4\)"),
        ([], "expected images, got none"),
    ],
)
def test_items_of_a_generator_that_are_no_images(items, message):
    with pytest.raises(ImagesError, match=message):
        read(item for item in items)


def test_a_list_of_paths_names_the_one_that_is_missing(tmp_path):
    folder = save_folder(tmp_path / "set")
    paths = [*sorted(folder.iterdir()), folder / "gone.png", tmp_path]
    with pytest.raises(ImagesError, match=r"gone\.png \(image 6 of 8\): no such file"):
        read(paths)
    assert [reason for _, reason in read(paths, on_error="skip")[1]][1] == "not a regular file"


@pytest.mark.parametrize("num_workers", [-1, 1.5, "2"])
def test_num_workers_is_a_whole_number(num_workers):
    with pytest.raises(ImagesError, match="num_workers must be a whole number"):
        open_images(torch.zeros(2, 3, 4, 4), num_workers=num_workers)


class Broken(Dataset):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 11:
            raise KeyError("no such label")
        return torch.zeros(3, 4, 4)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_dataset_that_raises_names_the_item(num_workers):
    with pytest.raises(
        ImagesError, match=r"item 11 of the Dataset \(image 11 of 20\): KeyError: 'no such label'"
    ) as caught:
        read(Broken(), num_workers=num_workers)
    if num_workers == 0:
        assert isinstance(caught.value.__cause__, KeyError)
    assert read(Broken(), num_workers=num_workers, on_error="skip")[0] == 19


# Odd images: Pillow's pixels


def odd_images() -> dict[str, bytes]:
    rgb = picture(17, 23)
    alpha = rgb.convert("RGBA")
    alpha.putalpha(rgb.convert("L"))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90°
    wide = np.random.default_rng(0).integers(0, 65536, (9, 8), dtype=np.uint16)
    frames = [picture(17, 23, seed) for seed in range(3)]
    with_transparency = encoded(rgb.convert("P", palette=Image.Palette.ADAPTIVE), "png", transparency=b"\x00\x80\xff")
    return {
        "gray.png": encoded(rgb.convert("L"), "png"),
        "bilevel.png": encoded(rgb.convert("1"), "png"),
        "palette.png": encoded(rgb.convert("P"), "png"),
        "palette_transparency.png": with_transparency,
        "rgba.png": encoded(alpha, "png"),
        "gray_alpha.png": encoded(alpha.convert("LA"), "png"),
        "16_bit.png": encoded(Image.fromarray(wide), "png"),
        "16_bit.tif": encoded(Image.fromarray(wide), "tiff"),
        "32_bit_integers.tif": encoded(Image.fromarray(wide.astype(np.int32)), "tiff"),
        "float.tif": encoded(Image.fromarray(wide.astype(np.float32) / 257), "tiff"),
        "cmyk.jpg": encoded(rgb.convert("CMYK"), "jpeg"),
        "gray.jpg": encoded(rgb.convert("L"), "jpeg"),
        "exif.jpg": encoded(rgb, "jpeg", exif=exif),
        "progressive.jpg": encoded(rgb, "jpeg", progressive=True),
        "ycbcr.tif": encoded(rgb.convert("YCbCr"), "tiff"),
        "lab.tif": encoded(rgb.convert("HSV").convert("RGB"), "tiff", compression="tiff_lzw"),
        "animated.webp": encoded(frames[0], "webp", save_all=True, append_images=frames[1:], lossless=True),
        "animated.png": encoded(frames[0], "png", save_all=True, append_images=frames[1:]),
        "animated_gif_by_content.png": encoded(frames[0], "gif", save_all=True, append_images=frames[1:]),
        "a.pgm": encoded(rgb.convert("L"), "ppm"),
        "a.ppm": encoded(rgb, "ppm"),
        "a.bmp": encoded(rgb, "bmp"),
        "one_pixel.png": encoded(picture(1, 1), "png"),
        "wide.png": encoded(picture(1, 3000), "png"),
    }


@pytest.mark.parametrize("name", odd_images())
@pytest.mark.filterwarnings("error")
def test_odd_images_are_what_pillow_makes_of_them(tmp_path, name):
    data = odd_images()[name]
    (tmp_path / name).write_bytes(data)
    with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
        warnings.simplefilter("ignore")
        try:
            expected = np.array(image.convert("RGB"))
        except OSError:
            assert name == "ycbcr.tif"
            pytest.skip(f"Pillow {PIL.__version__} cannot read the YCbCr TIFF that it has written")  # 12.3 cannot
        assert name.startswith("animated") == (sum(1 for _ in ImageSequence.Iterator(image)) > 1)
    for found in (decode_file(str(tmp_path / name)), decode_bytes(data)):
        assert found.dtype == torch.uint8
        np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), expected)
    with open_images(tmp_path, num_workers=2) as source:
        ((image_read,),) = source
    np.testing.assert_array_equal(image_read.permute(1, 2, 0).numpy(), expected)


@pytest.mark.filterwarnings("error")
def test_between_one_and_two_times_pillows_limit_an_image_is_read_without_a_warning(tmp_path, monkeypatch):
    picture(20, 30).save(tmp_path / "0.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    assert read(tmp_path)[0] == 1
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 299)
    with pytest.raises(ImagesError, match=r"refused, a decompression bomb: Image size \(600 pixels\)"):
        read(tmp_path)
