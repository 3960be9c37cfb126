"""FIDEvaluation of denoising-diffusion-pytorch. The package's own Trainer runs it in test_compat_peers.py."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_folders import write_images
from PIL import Image

import fidfast
from fidfast.compat.denoising_diffusion import FIDEvaluation, num_to_groups
from fidfast.compat.pytorch_fid import inception

load_once = functools.cache(fidfast.FeatureExtractor)
open_once = functools.cache(inception.open_weights)


class Folder(torch.utils.data.Dataset):
    """As the package's own dataset: paths, an image size, a transform that uses the random state."""

    def __init__(self, folder: Path, image_size: int = 32) -> None:
        self.folder, self.image_size, self.paths = folder, image_size, sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = Image.open(self.paths[index]).resize((self.image_size, self.image_size))
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        return x.flip(2) if torch.rand(()) < 0.5 else x


def cycle(dl: Any) -> Iterator[torch.Tensor]:
    while True:
        yield from dl


class Sampler:
    """The n-th image it makes is always the same."""

    evaluated = False
    made = 0

    def eval(self) -> None:
        self.evaluated = True

    def sample(self, batch_size: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.made)
        self.made += batch_size
        return torch.rand(batch_size, 3, 8, 8, generator=generator).repeat_interleave(4, 2).repeat_interleave(4, 3)


class Printed(list):
    """An accelerator of which only print is used."""

    def print(self, *words: Any) -> None:
        self.append(" ".join(map(str, words)))


@pytest.fixture(autouse=True)
def weights_load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "FeatureExtractor", load_once)
    monkeypatch.setattr(inception, "open_weights", open_once)


@pytest.fixture
def folder(tmp_path: Path, weights_path: Path) -> Path:
    return write_images(tmp_path / "images", 10, seed=1)


def evaluation(dl: Any, stats_dir: Path | str, **options: Any) -> tuple[FIDEvaluation, Printed]:
    printed = Printed()
    options = {"num_fid_samples": 10, "inception_block_idx": 64, "device": "cpu", **options}
    return FIDEvaluation(4, dl, Sampler(), accelerator=printed, stats_dir=stats_dir, **options), printed


def batches(folder: Path, image_size: int = 32) -> Iterator[torch.Tensor]:
    return cycle(torch.utils.data.DataLoader(Folder(folder, image_size), 4))


def test_the_fid_and_its_attributes(folder: Path, tmp_path: Path) -> None:
    reals = list(torch.rand(3, 4, 3, 20, 20))
    found, printed = evaluation(iter(reals), tmp_path / "results")
    assert (found.batch_size, found.n_samples, found.channels, found.device) == (4, 10, 3, "cpu")
    assert found.dataset_stats_loaded is False
    value = found.fid_score()
    assert isinstance(value, np.float64) and found.sampler.evaluated and found.dataset_stats_loaded
    path = tmp_path / "results" / "dataset_stats.npz"
    assert printed == [
        "Stacking Inception features for 10 samples from the real dataset.",
        f"Dataset stats cached to {path} for future use.",
        "Stacking Inception features for 10 generated samples.",
    ]
    extractor = fidfast.FeatureExtractor(taps=("64",), device="cpu")
    sampler = Sampler()
    fakes = torch.cat([sampler.sample(count) for count in (4, 4, 2)])
    sides = []
    for images in (torch.cat(reals), fakes):
        rows = extractor.taps(images, value_range=(0, 1), quantize=None)["64"].double().numpy()
        sides += [rows.mean(axis=0), np.cov(rows, rowvar=False)]
    assert np.allclose(found.m2, sides[0], rtol=1e-9) and np.allclose(found.s2, sides[1], rtol=1e-7, atol=1e-12)
    assert value == pytest.approx(fidfast.frechet_distance(*sides), rel=1e-6)
    with np.load(path) as archive:  # as the package itself reads it
        assert np.array_equal(archive["m2"], found.m2) and np.array_equal(archive["s2"], found.s2)


def test_the_file_is_used_again_only_for_the_same(folder: Path, tmp_path: Path) -> None:
    first, _ = evaluation(batches(folder), tmp_path)
    value = first.fid_score()

    def run(dl: Any, **options: Any) -> list[str]:
        again, printed = evaluation(dl, tmp_path, **options)
        again.load_or_precalc_dataset_stats()
        assert again.m2.shape == (options.get("inception_block_idx", 64),)
        return printed

    again, printed = evaluation(batches(folder), tmp_path)
    assert again.fid_score() == pytest.approx(value, rel=1e-9)
    assert printed[0] == "Dataset stats loaded from disk."
    assert run(batches(folder))[0] == "Dataset stats loaded from disk."
    assert "not known to be of the same data, image" in run(batches(folder, image_size=24))[0]
    assert "not known to be of the same samples" in run(batches(folder, 24), num_fid_samples=14)[0]
    assert "expected statistics of 192 features, got 64" in run(batches(folder, 24), inception_block_idx=192)[0]
    run(batches(folder))
    os.utime(sorted(folder.iterdir())[0], (1, 1))
    assert "not known to be of the same data." in run(batches(folder))[0]
    assert run(batches(folder))[0] == "Dataset stats loaded from disk."
    sorted(folder.iterdir())[0].unlink()
    assert "of the same data." in run(batches(folder))[0]
    assert "data, image" in run(iter(torch.rand(3, 4, 3, 20, 20)))[0]  # nobody knows of what
    (tmp_path / "dataset_stats.npz").write_bytes(b"PK torn")
    assert "is made again" in run(batches(folder))[0]


def test_looking_at_the_data_leaves_the_random_state(folder: Path, tmp_path: Path) -> None:
    found, _ = evaluation(batches(folder), tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    found._made_of()
    assert torch.equal(torch.rand(2), expected)


def test_the_packages_own_file_is_read_with_a_warning(folder: Path, tmp_path: Path) -> None:
    first, _ = evaluation(batches(folder), tmp_path)
    first.load_or_precalc_dataset_stats()
    np.savez_compressed(tmp_path / "dataset_stats", m2=first.m2.astype(np.float32), s2=first.s2)
    found, printed = evaluation(batches(folder), tmp_path)
    with pytest.warns(fidfast.FidfastWarning, match="does not say of which images"):
        value = found.fid_score()
    assert printed[0] == "Dataset stats loaded from disk."
    assert value == pytest.approx(first.fid_score(), rel=1e-5)


def test_tensors_in_memory_are_known_by_their_content(tmp_path: Path, weights_path: Path) -> None:
    class Images(torch.utils.data.Dataset):
        def __init__(self, images: torch.Tensor) -> None:
            self.images = images

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, index: int) -> torch.Tensor:
            return self.images[index]

    images = torch.rand(8, 3, 16, 16)
    said = []
    for changed in (images, images.clone(), images + 0.01):
        found, printed = evaluation(cycle(torch.utils.data.DataLoader(Images(changed), 4)), tmp_path)
        found.load_or_precalc_dataset_stats()
        said.append(printed[0].split()[0])
    assert said == ["Stacking", "Dataset", str(tmp_path / "dataset_stats.npz")]


def test_gray_images_and_statistics_of_ones_own(tmp_path: Path, weights_path: Path) -> None:
    found, _ = evaluation(iter([]), tmp_path)
    gray, grays = torch.rand(2, 1, 16, 16), evaluation(iter([]), tmp_path, channels=1)[0]
    of_gray = grays.calculate_inception_features(gray)
    assert torch.equal(of_gray, found.calculate_inception_features(gray.repeat(1, 3, 1, 1)))
    found.m2, found.s2, found.dataset_stats_loaded = np.zeros(64), np.eye(64), True
    assert found.fid_score() > 0


def test_errors(tmp_path: Path, weights_path: Path) -> None:
    with pytest.raises(ValueError, match="inception_block_idx: expected one of 64, 192, 768, 2048, got 100"):
        evaluation(iter([]), tmp_path, inception_block_idx=100)
    with pytest.raises(fidfast.StatisticsError):
        evaluation(iter([]), tmp_path)[0].fid_score()
    assert not (tmp_path / "dataset_stats.npz").exists()
    found, _ = evaluation(iter([torch.full((4, 3, 8, 8), float("nan"))]), tmp_path)
    with pytest.raises(ValueError, match="NaN|finite"):
        found.fid_score()


def test_groups() -> None:
    assert num_to_groups(10, 4) == [4, 4, 2] and num_to_groups(8, 4) == [4, 4] and num_to_groups(3, 4) == [3]


class Counted(torch.utils.data.Dataset):
    """Images by number, and whatever else a dataset may hold."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((3, 16, 16), index / 8)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.rand(12, 3, 16, 16))


class Keyed(Counted):
    def __getitem__(self, index: Any) -> torch.Tensor:
        return {"a": torch.rand(3, 16, 16)}[index]


def test_datasets_of_any_kind(folder: Path, tmp_path: Path) -> None:
    """What cannot be looked at is not known, and ends no training."""
    keyed = torch.utils.data.DataLoader(Keyed(names=torch.zeros(3)), 4, sampler=["a"] * 8)
    for loader in (torch.utils.data.DataLoader(Stream(), 4), keyed):
        for _ in range(2):
            found, printed = evaluation(cycle(loader), tmp_path)
            found.load_or_precalc_dataset_stats()
            assert "Stacking Inception features for 10 samples from the real dataset." in printed
    files = np.array([str(path) for path in sorted(folder.iterdir())])
    mapped = np.memmap(tmp_path / "mapped", dtype=np.uint8, mode="w+", shape=(5, 7))
    half, labels = torch.zeros(9, dtype=torch.bfloat16, requires_grad=True), np.array([None, "x"])
    said = []
    for changed in ({}, {}, {"files": files[:3]}, {"mapped": mapped[1:]}, {"half": half[1:]}):
        attributes = {"files": files, "mapped": mapped, "half": half, "labels": labels, **changed}
        found, printed = evaluation(cycle(torch.utils.data.DataLoader(Counted(**attributes), 4)), tmp_path)
        found.load_or_precalc_dataset_stats()
        said.append(printed[0].split()[0])
    assert said == [str(tmp_path / "dataset_stats.npz"), "Dataset", *said[:1] * 3]


def test_the_place_is_printed_as_it_was_given(
    tmp_path: Path, weights_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found, printed = evaluation(iter(torch.rand(3, 4, 3, 20, 20)), "./results")
    found.load_or_precalc_dataset_stats()
    assert printed[-1] == "Dataset stats cached to ./results/dataset_stats.npz for future use."
    assert (tmp_path / "results" / "dataset_stats.npz").is_file()
