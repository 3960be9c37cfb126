from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from tolerances import TOLERANCES

from fidfast import reference
from fidfast.groups import TAIL_ROWS, GroupedStatistics
from fidfast.moments import StatisticsError, moments_of_sums
from fidfast.statistics import FeatureStatistics

D = 24
TOLERANCE = TOLERANCES["statistics/groups"]


def features_of(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(D, D, generator=generator)
    return torch.randn(count, D, generator=generator) @ mix + 3.0


def grouped(features: torch.Tensor, groups: torch.Tensor, batch: int, **options) -> GroupedStatistics:
    made = GroupedStatistics(D, groups=10, **options)
    for start in range(0, len(features), batch):
        made.add(features[start : start + batch], groups[start : start + batch])
    return made


def assert_moments(sums, rows: torch.Tensor) -> None:
    mean, covariance = moments_of_sums(sums)
    expected_mean, expected = reference.covariance(rows)
    np.testing.assert_allclose(mean, expected_mean, rtol=TOLERANCE.rtol, atol=TOLERANCE.atol)
    np.testing.assert_allclose(covariance, expected, rtol=TOLERANCE.rtol, atol=TOLERANCE.atol)
    assert sums.count == len(rows)


@pytest.mark.parametrize("count", [2, 600, 1024, 1025, 3000])
def test_each_group_and_the_whole_have_the_moments_of_their_rows(count):
    features, groups = features_of(count), torch.randint(0, 4, (count,))
    made = grouped(features, groups, 100)
    shift = features[:7].mean(dim=0)
    assert_moments(made.sums(shift), features)
    parts = [made.sums(shift, group=group) for group in range(10)]
    for group in range(4):
        if (groups == group).sum() > 1:
            assert_moments(parts[group], features[groups == group])
    assert sum(part.count for part in parts) == count
    torch.testing.assert_close(sum(part.scatter for part in parts), made.sums(shift).scatter, rtol=1e-13, atol=1e-9)


def test_bits_do_not_depend_on_the_batch_and_one_group_is_the_plain_stream():
    features = features_of(3000)
    groups = torch.arange(3000) % 10
    shift = torch.full((D,), 3.0)
    expected = grouped(features, groups, 3000).sums(shift, group=3)
    for batch in (1, 513):
        found = grouped(features, groups, batch).sums(shift, group=3)
        assert torch.equal(found.scatter, expected.scatter) and torch.equal(found.total, expected.total)
    one = GroupedStatistics(D, shift=shift)
    one.add(features)
    plain = FeatureStatistics(D, shift=shift)
    plain.update(features)
    assert torch.equal(moments_of_sums(one.sums(shift))[1], plain.sigma)


@pytest.mark.parametrize("count", [40, 1024, 2600])
def test_held_rows_can_be_left_out(count):
    features, groups = features_of(count), torch.arange(count) % 10
    made = grouped(features, groups, 64)
    assert made.num_held >= min(count, TAIL_ROWS)
    keep = torch.ones(made.num_held, dtype=torch.bool)
    keep[[-1, -7, 1 - min(count, TAIL_ROWS)]] = False
    kept = torch.cat([torch.ones(count - made.num_held, dtype=torch.bool), keep])
    shift = torch.zeros(D)
    assert_moments(made.sums(shift, keep=keep), features[kept])
    assert_moments(made.sums(shift, group=2, keep=keep), features[kept & (groups == 2)])
    assert_moments(made.sums(shift), features)  # nothing was taken for good
    assert torch.equal(made.held_rows(keep), features[kept][-int(keep.sum()) :])


def test_a_far_shift_is_rebased():
    features = features_of(2000)
    made = grouped(features, torch.arange(2000) % 10, 2000, shift=torch.full((D,), 50.0))
    mean, covariance = moments_of_sums(made.sums(torch.full((D,), 3.0)))
    expected_mean, expected = reference.covariance(features)
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-12)
    np.testing.assert_allclose(covariance, expected, rtol=1e-8, atol=1e-8)  # (50 / 5)² · 1e-16 · n lost by the shift


@pytest.mark.parametrize("count", [0, 30, 2500])
def test_a_saved_state_goes_on_bit_for_bit(count):
    first, rest = features_of(count, 1), features_of(1500, 2)
    groups = torch.arange(5000) % 10
    made = grouped(first, groups, 77)
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    file.seek(0)
    other = GroupedStatistics.from_state(torch.load(file, weights_only=True))
    for statistics in (made, other):
        statistics.add(rest, groups[count : count + 1500])
    shift = torch.zeros(D)
    assert other.num_samples == made.num_samples == count + 1500
    assert torch.equal(made.sums(shift, group=4).scatter, other.sums(shift, group=4).scatter)
    state = made.state_dict()
    state["num_samples"] += 1
    with pytest.raises(StatisticsError, match=f"of {count + 1501} samples"):
        GroupedStatistics.from_state(state)


def test_a_bad_row_adds_nothing():
    made = GroupedStatistics(D, groups=10)
    made.add(features_of(5), torch.arange(5))
    bad = features_of(9)
    bad[4, 3] = float("nan")
    for wrong in (bad, features_of(9)[:, :5], features_of(9).long()):
        with pytest.raises(StatisticsError, match="features: expected"):
            made.add(wrong, torch.zeros(9, dtype=torch.int64))
    assert made.num_samples == made.num_held == 5


def test_memory_is_constant_and_a_group_without_rows_takes_none():
    made = GroupedStatistics(D, groups=10)
    for _ in range(40):
        made.add(features_of(400), torch.arange(400) % 2)
    assert made._rows is not None and len(made._rows) == 512 + TAIL_ROWS
    assert [own is not None for own in made._sums] == [True, True] + [False] * 8
