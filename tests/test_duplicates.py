from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from fidfast.duplicates import (
    ContentHashes,
    DuplicateImagesError,
    FirstImages,
    count_duplicates,
    count_shared,
    describe_duplicates,
    report_duplicates,
)


def hashes_of(*rows: tuple[int, int]) -> ContentHashes:
    hashes = ContentHashes()
    hashes.extend(torch.tensor(rows, dtype=torch.int64).reshape(-1, 2))
    return hashes


def test_counts():
    hashes = hashes_of((1, 2), (1, 3), (1, 2), (-5, 2), (1, 2))
    assert count_duplicates(hashes.array()) == {"num_images": 5, "num_unique": 3, "largest_multiplicity": 3}


def test_both_words_of_the_hash_count():
    assert count_duplicates(hashes_of((1, 2), (1, 3), (4, 2)).array())["num_unique"] == 3


def test_empty():
    assert count_duplicates(hashes_of().array()) == {"num_images": 0, "num_unique": 0, "largest_multiplicity": 0}
    assert count_shared(hashes_of().array(), hashes_of((1, 1)).array()) == 0


def test_shared_counts_every_generated_image_that_is_also_real():
    generated = hashes_of((1, 2), (1, 2), (3, 4), (9, 9))
    assert count_shared(generated.array(), hashes_of((1, 2), (9, 9), (9, 8), (2, 1)).array()) == 3


def test_against_sets_on_random_hashes():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-20, 20, (500, 2)) for _ in range(2))
    first, second = hashes_of(*map(tuple, a)), hashes_of(*map(tuple, b))
    as_set = {tuple(row) for row in b.tolist()}
    assert count_duplicates(first.array())["num_unique"] == len({tuple(row) for row in a.tolist()})
    assert count_shared(first.array(), second.array()) == sum(tuple(row) in as_set for row in a.tolist())


def test_extending_in_pieces_is_the_same_and_costs_16_bytes_an_image():
    pieces = ContentHashes()
    for i in range(1000):
        pieces.extend(torch.tensor([[i, -i]]))
    assert len(pieces) == 1000
    assert len(pieces._bytes) == 16_000
    assert count_duplicates(pieces.array())["num_unique"] == 1000


def test_a_sentence_above_one_in_a_thousand_and_none_below():
    assert describe_duplicates("real", {"num_images": 1000, "num_unique": 999, "largest_multiplicity": 2}) is None
    sentence = describe_duplicates("generated", {"num_images": 1000, "num_unique": 250, "largest_multiplicity": 4})
    assert sentence is not None and "generated: only 250 of 1000" in sentence and "4 times" in sentence


# -- of several ranks -------------------------------------------------------------------------------------------------


def images_of(*numbers: int) -> np.ndarray:
    return np.array([(number, -number) for number in numbers], dtype=np.int64).reshape(-1, 2)


def test_report_of_ranks_against_sets():
    rng = np.random.default_rng(0)
    by_rank = [images_of(*rng.integers(0, 60, count)) for count in (40, 0, 25, 60)]
    report = report_duplicates(by_rank)
    sets = [{tuple(row) for row in hashes.tolist()} for hashes in by_rank]
    every = [tuple(row) for hashes in by_rank for row in hashes.tolist()]
    assert report["overlap"] == [[len(a & b) for b in sets] for a in sets]
    assert report["num_images"] == 125 and report["num_unique"] == len(set(every))
    assert report["largest_multiplicity"] == max(map(every.count, every))
    assert report["num_effective"] == 125**2 // sum(every.count(one) for one in every)  # Σ m² over images
    assert report["images_by_rank"] == [40, 0, 25, 60]


def test_ranks_with_one_seed_are_named():
    same = images_of(*range(100))
    report = report_duplicates([same, images_of(*range(500, 600)), same, same])
    assert report["same_images"] == [0, 2, 3]
    assert report["overlap"][0] == [100, 0, 100, 100]
    assert report["num_effective"] == 400**2 // (100 * 9 + 100)


@pytest.mark.parametrize(
    "by_rank",
    [
        [images_of(*range(10)) for _ in range(1)],
        [images_of(*range(10)), images_of(*range(10, 20))],
        [images_of(0, *range(1, 10)), images_of(0, *range(10, 20))],  # one black image each
        [images_of(*[7] * 50), images_of(*[7] * 50)],  # a collapsed generator
        [images_of(*[1, 2, 3] * 20), images_of(*[1, 2, 3] * 20)],
        [images_of(*range(5000)), images_of(*range(4996, 10000))],  # 4 of 5,000: below 0.1 %
        [images_of(), images_of(1, 2)],
    ],
)
def test_no_accusation_without_evidence(by_rank):
    assert report_duplicates(by_rank)["same_images"] == []


def test_first_images_find_a_rank_with_the_same_images_in_any_batch_size():
    first = FirstImages()
    first.learn(2, FirstImages.pack(images_of(*range(16)), None))
    first.learn(3, FirstImages.pack(images_of(*range(100, 116)), None))
    assert first.knows(2) and not first.knows(1)
    assert first.alike(images_of(*range(16)), None) == [2]
    assert first.alike(images_of(*range(200)), None) == [2, 3]
    assert first.alike(images_of(*range(8)), None) == [2]
    assert first.alike(images_of(0, *range(300, 330)), None) == []
    assert first.alike(images_of(*[5] * 40), None) == []
    assert first.alike(images_of(0), None) == []
    assert len(FirstImages.pack(images_of(*range(1000)), None)) == 24 * FirstImages.LIMIT


def test_padding_under_the_same_index_is_no_duplicate():
    first = FirstImages()
    first.learn(0, FirstImages.pack(images_of(*range(16)), np.arange(16) * 4))
    assert first.alike(images_of(*range(16)), np.arange(16) * 4) == []
    assert first.alike(images_of(*range(16)), np.arange(16) * 4 + 1) == [0]


def test_the_error_keeps_its_report_through_a_pickle():
    error = DuplicateImagesError("ranks 0–1 produced identical images", {"num_images": 4})
    copied = pickle.loads(pickle.dumps(error))
    assert (str(copied), copied.report) == (str(error), {"num_images": 4})
    assert isinstance(copied, ValueError)
