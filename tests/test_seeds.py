from __future__ import annotations

import pytest
import torch

from fidfast.seeds import image_seeds, randn_per_image, rank_seed


def pairs_of_ranks(num_samples: int, seed: int, world_size: int) -> list[list[tuple[int, int]]]:
    return [list(image_seeds(num_samples, seed, rank=rank, world_size=world_size)) for rank in range(world_size)]


@pytest.mark.parametrize("num_samples", [0, 1, 3, 101])
def test_all_ranks_together_yield_every_index_once_with_the_same_seed(num_samples):
    alone = dict(image_seeds(num_samples, 7))
    assert list(alone) == list(range(num_samples))
    for world_size in (1, 2, 4):
        pairs = [pair for rank in pairs_of_ranks(num_samples, 7, world_size) for pair in rank]
        assert len(pairs) == num_samples
        assert dict(pairs) == alone


def test_latents_are_bit_equal_for_one_two_and_four_ranks_and_any_batch():
    expected = randn_per_image((3, 4, 4), [seed for _, seed in image_seeds(24, 3)])
    for world_size, batch in ((1, 5), (2, 4), (4, 6), (4, 1)):
        found = torch.zeros_like(expected)
        for pairs in pairs_of_ranks(24, 3, world_size):
            for start in range(0, len(pairs), batch):
                indices, seeds = zip(*pairs[start : start + batch], strict=True)
                found[list(indices)] = randn_per_image((3, 4, 4), seeds, "cpu")
        assert torch.equal(found, expected)
    assert len({tuple(image.flatten().tolist()) for image in expected}) == 24


def test_noise_is_normal_and_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    noise = randn_per_image((1000,), [seed for _, seed in image_seeds(50, 0)], dtype=torch.float64)
    assert torch.equal(torch.get_rng_state(), state)
    assert noise.dtype == torch.float64 and noise.shape == (50, 1000)
    assert abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 1) < 0.02
    assert float(torch.corrcoef(noise).fill_diagonal_(0).abs().max()) < 0.2


def test_no_two_images_share_the_32_bits_that_the_cpu_generator_takes():
    low = {seed & 0xFFFFFFFF for _, seed in image_seeds(200_000, 0)}
    assert len(low) == 200_000  # independent 32-bit numbers would collide 5 times
    seeds = [seed for _, seed in image_seeds(1000, 5)]
    assert min(seeds) >= 0 and max(seeds) < 2**63
    assert not set(seeds) & {seed for _, seed in image_seeds(1000, 6)}


def test_rank_seed_differs_by_rank_and_seed_and_from_image_seeds(monkeypatch):
    seeds = {rank_seed(seed, rank=rank) for seed in (-1, 0, 1) for rank in range(100)}
    assert len(seeds) == 300
    assert not seeds & {seed for base in (-1, 0, 1) for _, seed in image_seeds(1000, base)}
    monkeypatch.setenv("RANK", "3")
    assert rank_seed(0) == rank_seed(0, rank=3)
    monkeypatch.delenv("RANK")
    assert rank_seed(0) == rank_seed(0, rank=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": -1, "seed": 0}, "num_samples: expected a whole number of at least 0, got -1"),
        ({"num_samples": 5, "seed": 0.5}, "seed: expected a whole number, got 0.5"),
        ({"num_samples": 5, "seed": 0, "rank": 1}, "rank and world_size: expected both or neither"),
        ({"num_samples": 5, "seed": 0, "rank": 2, "world_size": 2}, "rank: expected 0 to 1"),
        ({"num_samples": 5, "seed": 0, "rank": 0, "world_size": 0}, "world_size: expected a whole number of at least"),
    ],
)
def test_wrong_arguments_are_refused_at_the_call(arguments, message):
    with pytest.raises(ValueError, match=message):
        image_seeds(**arguments)
