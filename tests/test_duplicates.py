from __future__ import annotations

import numpy as np
import torch

from fidfast.duplicates import ContentHashes, count_duplicates, count_shared, describe_duplicates


def hashes_of(*rows: tuple[int, int]) -> ContentHashes:
    hashes = ContentHashes()
    hashes.extend(torch.tensor(rows, dtype=torch.int64).reshape(-1, 2))
    return hashes


def test_counts():
    hashes = hashes_of((1, 2), (1, 3), (1, 2), (-5, 2), (1, 2))
    assert count_duplicates(hashes) == {"num_images": 5, "num_unique": 3, "largest_multiplicity": 3}


def test_both_words_of_the_hash_count():
    assert count_duplicates(hashes_of((1, 2), (1, 3), (4, 2)))["num_unique"] == 3


def test_empty():
    assert count_duplicates(hashes_of()) == {"num_images": 0, "num_unique": 0, "largest_multiplicity": 0}
    assert count_shared(hashes_of(), hashes_of((1, 1))) == 0


def test_shared_counts_every_generated_image_that_is_also_real():
    generated = hashes_of((1, 2), (1, 2), (3, 4), (9, 9))
    assert count_shared(generated, hashes_of((1, 2), (9, 9), (9, 8), (2, 1))) == 3


def test_against_sets_on_random_hashes():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-20, 20, (500, 2)) for _ in range(2))
    first, second = hashes_of(*map(tuple, a)), hashes_of(*map(tuple, b))
    as_set = {tuple(row) for row in b.tolist()}
    assert count_duplicates(first)["num_unique"] == len({tuple(row) for row in a.tolist()})
    assert count_shared(first, second) == sum(tuple(row) in as_set for row in a.tolist())


def test_extending_in_pieces_is_the_same_and_costs_16_bytes_an_image():
    pieces = ContentHashes()
    for i in range(1000):
        pieces.extend(torch.tensor([[i, -i]]))
    assert len(pieces) == 1000
    assert len(pieces._bytes) == 16_000
    assert count_duplicates(pieces)["num_unique"] == 1000


def test_a_sentence_above_one_in_a_thousand_and_none_below():
    assert describe_duplicates("real", {"num_images": 1000, "num_unique": 999, "largest_multiplicity": 2}) is None
    sentence = describe_duplicates("generated", {"num_images": 1000, "num_unique": 250, "largest_multiplicity": 4})
    assert sentence is not None and "generated: only 250 of 1000" in sentence and "4 times" in sentence
