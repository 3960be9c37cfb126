"""Repeated images of several sets, against a plain count; what is shown of them is what stands there."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fidfast.gallery import ImageSet, Place, repeated_images, shared_counts, side_by_side, spread
from fidfast.images import ImagesError


def array_set(folder: Path, name: str, values: list[int]) -> ImageSet:
    """One image of each value, which stands in every pixel."""
    images = np.broadcast_to(np.array(values, dtype=np.uint8)[:, None, None, None], (len(values), 5, 4, 3))
    np.save(folder / f"{name}.npy", images)
    return ImageSet(folder / f"{name}.npy", name=name, progress=False)


def test_repeated_images_are_all_found_the_widest_spread_first(tmp_path):
    rng = np.random.default_rng(0)
    values = [rng.integers(0, 40, n).tolist() for n in (30, 1, 25)]
    sets = [array_set(tmp_path, f"set{i}", some) for i, some in enumerate(values)]
    expected = defaultdict(list)
    for group, some in enumerate(values):
        for number, value in enumerate(some):
            expected[value].append(Place(group, number))
    found = repeated_images(sets)
    assert sorted(found) == sorted(places for places in expected.values() if len(places) > 1)
    keys = [(-len({place.group for place in places}), -len(places)) for places in found]
    assert keys == sorted(keys) and len(set(keys)) > 2
    pairs = [(i, j, sum(value in values[i] for value in values[j])) for j in range(3) for i in range(j)]
    assert shared_counts(sets) == [pair for pair in pairs if pair[2]]
    for place in found[0]:
        shown = sets[place.group].show([place.number])[place.number]
        assert shown.shape == (5, 4, 3) and (shown == values[place.group][place.number]).all()


def test_of_many_places_the_first_of_every_set_is_shown():
    places = [Place(0, 3), Place(0, 4), Place(0, 9), Place(1, 2), Place(1, 7), Place(2, 5)]
    assert side_by_side(places, 4) == [Place(0, 3), Place(0, 4), Place(1, 2), Place(2, 5)]
    assert side_by_side(places, 9) == places


@pytest.mark.parametrize(("count", "wanted", "expected"), [(3, 5, [0, 1, 2]), (10, 4, [0, 2, 5, 7]), (0, 4, [])])
def test_a_spread_is_even(count, wanted, expected):
    assert spread(count, wanted) == expected


def test_an_unreadable_file_shifts_no_name(tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    for name, value in (("a", 10), ("c", 30)):
        Image.fromarray(np.full((4, 4, 3), value, dtype=np.uint8)).save(folder / f"{name}.png")
    (folder / "b.png").write_bytes(b"no image")
    some = ImageSet(folder, name="some", progress=False)
    assert len(some) == 2 and some.skipped[0][0].endswith("b.png")
    assert [some.label(number) for number in range(2)] == ["a.png", "c.png"]
    assert [int(image[0, 0, 0]) for image in some.show([0, 1]).values()] == [10, 30]


def test_float_images_need_their_range(tmp_path):
    np.save(tmp_path / "floats.npy", np.linspace(-1, 1, 2 * 48, dtype=np.float32).reshape(2, 4, 4, 3))
    with pytest.raises(ValueError, match="floats: .*value_range"):
        ImageSet(tmp_path / "floats.npy", name="floats", progress=False)
    some = ImageSet(tmp_path / "floats.npy", name="floats", value_range=(-1, 1), progress=False)
    shown = some.show([0, 1])
    assert shown[0].min() == 0 and shown[1].max() == 255


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(ImagesError, match="some: no images in "):
        ImageSet(tmp_path, name="some", progress=False)
