"""Every source of images gives the same pixels in the same order, whoever decodes them."""

from __future__ import annotations

import os
import tarfile
import tracemalloc
import weakref
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from fidfast.decode import images_of
from fidfast.images import ImagesError, open_images

ROOT = Path(__file__).resolve().parents[1]


def make_images(count: int, height: int = 9, width: int = 7) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def save_folder(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:05d}.png")
    return folder


def read(source: Any, **options: Any) -> list[np.ndarray]:
    with open_images(source, **options) as images:
        return [image.permute(1, 2, 0).numpy().copy() for batch in images for image in batch]


def assert_same(found: list[np.ndarray], expected: Any) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


class Pairs(Dataset):
    """A Dataset of (image (3, H, W), label)."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self.images[index]).permute(2, 0, 1), index


class Stream(IterableDataset):
    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __iter__(self):
        return ({"image": Image.fromarray(image), "label": 0} for image in self.images)


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_a_folder_gives_pillows_pixels_in_order_for_any_number_of_workers(tmp_path, num_workers):
    images = make_images(45)
    folder = save_folder(tmp_path / "images", images)
    with open_images(folder, num_workers=num_workers, batch_size=5) as source:
        assert source.count == 45 and source.notes == []
        batches = list(source)
    assert all(1 <= len(batch) <= 5 for batch in batches)
    assert_same([image.permute(1, 2, 0).numpy() for batch in batches for image in batch], images)
    assert source.decode_seconds > 0


def test_batches_are_never_larger_than_asked(tmp_path):
    folder = save_folder(tmp_path / "images", make_images(45))
    for batch_size in (1, 7, 64):
        for num_workers in (0, 2):
            with open_images(folder, num_workers=num_workers, batch_size=batch_size) as source:
                assert max(map(len, source)) <= batch_size


def test_images_of_different_sizes_keep_their_own(tmp_path):
    images = [
        make_images(1, height, width)[0] for height, width in ((1, 1), (3, 2), (40, 17), (17, 40), (299, 299))
    ] * 2
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{index}.bmp")
    assert_same(read(tmp_path, num_workers=2), images)


def test_two_passes_and_a_pass_left_in_the_middle(tmp_path):
    images = make_images(30)
    with open_images(save_folder(tmp_path, images), num_workers=2) as source:
        next(iter(source))
        for _ in range(2):
            assert_same([image.permute(1, 2, 0).numpy() for batch in source for image in batch], images)


def test_the_callers_random_state_is_not_touched(tmp_path):
    folder = save_folder(tmp_path, make_images(20))
    before = torch.get_rng_state()
    read(folder, num_workers=2)
    assert torch.equal(before, torch.get_rng_state())


# Folders


def test_suffixes_in_any_case_and_subfolders_with_a_note_of_what_the_tool_would_have_read(tmp_path):
    images = make_images(8)
    names = ("0.png", "1.PNG", "2.Bmp", "3.ppm", "4.tiff", ".5.png", "sub/6.png", "sub/deep/7.JPG")
    for name, image in zip(names, images, strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._0.png").write_bytes(b"a resource fork of macOS")
    os.mkfifo(tmp_path / "pipe.png")

    def notes(preset: str, **options: Any) -> list[str]:
        with open_images(tmp_path, preset=preset, **options) as source:
            assert source.count == (8 if options.get("recursive", True) else 6)
            return source.notes

    assert len(read(tmp_path, num_workers=0)) == 8
    (note,) = notes("pytorch-fid")
    assert note.startswith("pytorch-fid would have read 4 of these 8 files: ")  # 0.png, 3.ppm, 4.tiff and .5.png
    (note,) = notes("tensorflow")
    assert note.startswith("torch-fidelity would have read 3 of these 8 files: ")  # 0.png, 1.PNG, .5.png
    (note,) = notes("clean-fid")
    assert note.startswith("clean-fid would have read 6 of these 8 files: ")  # all but 2.Bmp and .5.png
    assert notes("torchmetrics") == []
    (note,) = notes("pytorch-fid", recursive=False)
    assert note.startswith("pytorch-fid would have read 4 of these 6 files: ")


def test_image_files_that_no_tool_reads_are_left_out_with_a_note(tmp_path):
    save_folder(tmp_path, make_images(3))
    (tmp_path / "animated.gif").write_bytes(b"GIF89a")
    with open_images(tmp_path) as source:
        assert source.count == 3 and source.notes == ["left out because of their suffix: 1 .gif"]


def test_npy_files_in_a_folder_belong_to_clean_fid(tmp_path):
    images = make_images(3)
    save_folder(tmp_path, images[:2])
    np.save(tmp_path / "9.npy", images[2])
    assert_same(read(tmp_path, preset="clean-fid"), images)
    with open_images(tmp_path) as source:
        assert source.count == 2 and source.notes == ["left out because of their suffix: 1 .npy"]


def test_order_is_that_of_the_relative_path(tmp_path):
    images = make_images(4)
    for name, image in zip(("a-b/x.png", "a/x.png", "a/y.png", "b.png"), images, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / name)
    assert_same(read(tmp_path), images)


def test_symbolic_links_are_images_of_their_own_and_a_circle_of_links_ends(tmp_path):
    images = make_images(2)
    save_folder(tmp_path / "set", images)
    (tmp_path / "set" / "2.png").symlink_to("00000.png")
    (tmp_path / "set" / "circle").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "elsewhere").symlink_to(save_folder(tmp_path / "other", images[1:]))
    assert_same(read(tmp_path / "set"), [images[0], images[1], images[0], images[1]])


def test_names_that_are_not_text(tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff\xfe \xe9\n.png"
    with open(name, "wb") as file:
        Image.fromarray(make_images(1)[0]).save(file, "png")
    assert len(read(tmp_path)) == 1 and len(read(os.fsencode(tmp_path))) == 1


# Lists of paths


def test_a_list_of_paths_keeps_its_order_and_drops_repeated_paths(tmp_path, monkeypatch):
    images = make_images(3)
    folder = save_folder(tmp_path, images)
    monkeypatch.chdir(folder)
    paths = [folder / "00002.png", str(folder / "00000.png"), "00002.png", folder / "00001.png"]
    with open_images(paths) as source:
        assert source.count == 3 and source.notes == ["1 repeated path in the list left out"]
    assert_same(read(paths), images[[2, 0, 1]])
    assert_same(read(iter(paths)), images[[2, 0, 2, 1]])  # a generator is taken as it comes
    assert_same(read(np.array(list(map(str, paths)))), images[[2, 0, 1]])


# Archives


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", ["stored.zip", "deflated.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.txz"])
def test_archives(tmp_path, kind, num_workers):
    images = make_images(20)
    folder = save_folder(tmp_path / "images", images)
    (folder / "readme.txt").write_text("not an image")
    archive = tmp_path / kind
    files = sorted(folder.iterdir(), reverse=kind.endswith((".zip", ".tar")))  # sorted by us where that is possible
    if kind.endswith(".zip"):
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED if "stored" in kind else zipfile.ZIP_DEFLATED) as file:
            for path in files:
                file.write(path, f"images/{path.name}")
            file.writestr("__MACOSX/images/._00000.png", b"a resource fork")
    else:
        modes = {"tar": "w", "gz": "w:gz", "tgz": "w:gz", "bz2": "w:bz2", "txz": "w:xz"}
        with tarfile.open(archive, modes[kind.rsplit(".")[-1]]) as file:
            for path in files:
                file.add(path, f"images/{path.name}")
    with open_images(archive, num_workers=num_workers) as source:
        assert source.count == (20 if kind.endswith((".zip", ".tar")) else None)
    assert_same(read(archive, num_workers=num_workers), images)
    renamed = archive.rename(tmp_path / "no_suffix")
    assert_same(read(renamed, num_workers=num_workers), images)


def test_an_archive_that_names_a_member_twice_means_the_last(tmp_path):
    folder = save_folder(tmp_path, make_images(2))
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.write(folder / "00000.png", "x.png")
        file.write(folder / "00001.png", "x.png")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(folder / "00000.png", "x.png")
        tar.add(folder / "00001.png", "x.png")
    for archive in ("a.zip", "a.tar"):
        with open_images(tmp_path / archive) as source:
            assert source.count == 1 and source.notes == [f"1 repeated path in {tmp_path / archive} left out"]
        assert_same(read(tmp_path / archive), make_images(2)[1:])


def test_links_in_a_tar_are_images_of_their_own(tmp_path):
    images = make_images(1)
    folder = save_folder(tmp_path / "set", images)
    (folder / "1.png").symlink_to("00000.png")
    os.link(folder / "00000.png", folder / "2.png")
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.add(folder, "set")
    assert_same(read(tmp_path / "a.tar"), [images[0]] * 3)


# Arrays in files and in memory


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "gray", "float"])
def test_numpy_files(tmp_path, layout, num_workers):
    images = make_images(21)
    expected: Any = images
    stored = images
    if layout == "NCHW":
        stored = images.transpose(0, 3, 1, 2).copy()
    elif layout == "gray":
        stored = images[..., 0].copy()
        expected = np.repeat(stored[..., None], 3, axis=3)
    elif layout == "float":
        stored = expected = (images / 255).astype(np.float32)
    np.savez(tmp_path / "stored.npz", stored)
    np.savez_compressed(tmp_path / "compressed.npz", stored)
    np.save(tmp_path / "plain.npy", stored)
    for name in ("stored.npz", "compressed.npz", "plain.npy"):
        with open_images(tmp_path / name, num_workers=num_workers, batch_size=4) as source:
            assert source.count == 21
        assert_same(read(tmp_path / name, num_workers=num_workers, batch_size=4), expected)


def test_a_numpy_file_is_never_loaded_whole(tmp_path):
    np.savez(tmp_path / "stored.npz", np.zeros((400, 100, 100, 3), dtype=np.uint8))  # 12 MB
    np.savez_compressed(tmp_path / "compressed.npz", np.zeros((400, 100, 100, 3), dtype=np.uint8))
    np.save(tmp_path / "plain.npy", np.zeros((400, 100, 100, 3), dtype=np.uint8))
    for name in ("stored.npz", "compressed.npz", "plain.npy"):
        tracemalloc.start()
        with open_images(tmp_path / name, num_workers=0, batch_size=10) as source:
            assert sum(map(len, source)) == 400
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2_000_000, name  # the block, its successor and what zipfile buffers: far below 12 MB


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda x: x, id="array NHWC"),
        pytest.param(lambda x: x.transpose(0, 3, 1, 2), id="array NCHW"),
        pytest.param(lambda x: torch.from_numpy(x), id="tensor NHWC"),
        pytest.param(lambda x: torch.from_numpy(x).permute(0, 3, 1, 2), id="tensor NCHW, a view"),
        pytest.param(lambda x: torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), id="tensor NCHW"),
        pytest.param(lambda x: iter(x), id="iterator of arrays"),
        pytest.param(lambda x: [Image.fromarray(image) for image in x], id="list of Pillow images"),
        pytest.param(lambda x: (x[:4], x[4:]), id="tuple of batches"),
        pytest.param(lambda x: (batch for batch in np.split(x, 4)), id="generator of batches"),
        pytest.param(
            lambda x: ([Image.fromarray(one) for one in part] for part in np.split(x, 4)), id="lists of images"
        ),
        pytest.param(lambda x: Pairs(x), id="Dataset"),
        pytest.param(lambda x: Stream(x), id="IterableDataset"),
        pytest.param(lambda x: DataLoader(Pairs(x), batch_size=5), id="DataLoader"),
        pytest.param(lambda x: DataLoader(Pairs(x), batch_size=None), id="DataLoader without batches"),
        pytest.param(lambda x: TensorDataset(torch.from_numpy(x).permute(0, 3, 1, 2)), id="TensorDataset"),
        pytest.param(lambda x: [{"pixel_values": x[:7], "x": 1}, {"images": x[7:]}], id="dicts"),
        pytest.param(lambda x: np.lib.stride_tricks.as_strided(x, writeable=False), id="read-only array"),
        pytest.param(lambda x: x[::-1][::-1][:, ::-1][:, ::-1], id="array with strides"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_images_in_memory(make):
    images = make_images(20)
    assert_same(read(make(images), batch_size=3), images)


def test_gray_images_in_memory():
    gray = make_images(5)[..., 0]
    expected = np.repeat(gray[..., None], 3, axis=3)
    for source in (gray, gray[:, None], gray[..., None], torch.from_numpy(gray), list(gray), list(gray[:, None])):
        assert_same(read(source), expected)


def test_the_layout_rule_where_both_fit():
    both = np.arange(3 * 4 * 3, dtype=np.uint8).reshape(3, 4, 3)
    (from_array,), (from_tensor,) = images_of(both), images_of(torch.from_numpy(both))
    assert from_array.shape == (3, 3, 4) and torch.equal(from_array, torch.from_numpy(both).permute(2, 0, 1))
    assert from_tensor.shape == (3, 4, 3) and torch.equal(from_tensor, torch.from_numpy(both))


def test_the_first_of_a_tuple_is_the_image_and_a_list_of_images_is_a_batch():
    image, mask = torch.zeros(3, 4, 5), torch.ones(4, 5)
    assert len(images_of((image, mask))) == 1
    assert len(images_of([image, image])) == 2
    assert len(images_of([torch.zeros(6, 3, 4, 5), torch.arange(6)])) == 6
    assert len(images_of([torch.zeros(6, 3, 4, 5), torch.zeros(6, 4, 5)])) == 6  # images and masks of a loader


def test_floating_point_images_keep_their_dtype_through_workers():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        images = torch.rand(40, 3, 5, 6).to(dtype)
        with open_images(TensorDataset(images), num_workers=2) as source:
            assert torch.equal(torch.stack([image for batch in source for image in batch]), images)


def test_a_tensor_is_passed_on_without_a_copy():
    images = torch.zeros(4, 3, 5, 6, dtype=torch.uint8)
    with open_images(images) as source:
        (batch,) = source
    assert batch[3].data_ptr() == images[3].data_ptr()


def test_a_generator_is_not_kept():
    alive: list[int] = []

    class Batch(dict):  # a plain dict takes no weak references
        pass

    def generate():
        batches: weakref.WeakValueDictionary[int, Batch] = weakref.WeakValueDictionary()
        for index in range(50):
            alive.append(len(batches))
            batch = batches[index] = Batch(images=np.zeros((4, 3, 8, 8), dtype=np.uint8))
            yield batch

    with open_images(generate(), batch_size=8) as source:
        assert sum(map(len, source)) == 200
    assert max(alive) <= 2


def test_a_generator_can_be_read_once():
    with open_images(iter(make_images(4))) as source:
        list(source)
        with pytest.raises(ImagesError, match="iterator that was read before"):
            list(source)


def test_a_link_to_itself_is_an_unreadable_image_or_nothing(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "folder").symlink_to("folder")
    assert len(next(iter(open_images(tmp_path)))) == 1
    (tmp_path / "b.png").symlink_to("b.png")
    with pytest.raises(ImagesError, match="b.png .*Too many levels of symbolic links"):
        list(open_images(tmp_path))
