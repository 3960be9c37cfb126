"""Error bars of an FID of Gaussians, whose true value is known: the bias that is left, and the spread that is seen."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from fidfast.error_bars import GROUPS, jackknife, perfect_model_floor, refusal, without_group
from fidfast.frechet import statistics_distance
from fidfast.groups import GroupedStatistics
from fidfast.statistics import FeatureStatistics

D, REPEATS = 64, 250


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Thousands of tiny decompositions: on a busy machine more threads would wait for each other, 50 times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def reference_of(variances: torch.Tensor) -> FeatureStatistics:
    return FeatureStatistics.from_moments(torch.zeros(D, dtype=torch.float64), variances.diag(), 10**9)


def one_estimate(rows: torch.Tensor, reference: FeatureStatistics) -> tuple[float, float, float]:
    """raw, corrected, standard error as fidfast computes them from rows (n, D)."""
    grouped = GroupedStatistics(D, groups=GROUPS, shift=reference.mu)
    grouped.add(rows, torch.arange(len(rows)) % GROUPS)
    total = grouped.sums(reference.mu.float())
    parts = [grouped.sums(reference.mu.float(), group=group) for group in range(GROUPS)]
    whole = FeatureStatistics(D)
    whole.update(rows)
    raw = statistics_distance(whole, reference).raw
    values = [statistics_distance(without_group(total, part, reference.metadata), reference).raw for part in parts]
    return raw, *jackknife(raw, [part.count for part in parts], values)


@pytest.mark.parametrize("per_dimension", [5, 10])
@pytest.mark.parametrize("scale", [1.0, 1.5], ids=["equal", "different"])
def test_bias_after_correction_and_standard_error(per_dimension, scale):
    variances = torch.linspace(0.5, 1.5, D, dtype=torch.float64)
    reference = reference_of(variances)
    true = float(((scale - 1) ** 2 * variances).sum())  # |√Σ1 - √Σ2|² of covariances that commute
    generator = torch.Generator().manual_seed(3)
    estimates = []
    for _ in range(REPEATS):
        rows = torch.randn(per_dimension * D, D, generator=generator, dtype=torch.float64) * scale
        estimates.append(one_estimate((rows * variances.sqrt()).float(), reference))
    raw, corrected, error = torch.tensor(estimates, dtype=torch.float64).T
    bias = float(raw.mean()) - true
    assert bias > 0
    left = (float(corrected.mean()) - true) / bias
    assert abs(left) <= 0.05  # 0.033 at 5·D and 0.014 at 10·D, known here to 0.007
    assert 0.85 <= float(error.mean() / corrected.std()) <= 1.5
    if scale == 1.0:
        floor = perfect_model_floor(variances, per_dimension * D)
        assert floor == pytest.approx(float(raw.mean()), rel=0.05)  # 0.97 and 0.99 of it
        assert (corrected < 0).any()  # of a true 0 half of the unbiased estimates are negative, and stay so


def test_jackknife_of_equal_groups_is_the_usual_one():
    values = [3.0, 3.5, 2.5, 3.25]
    corrected, error = jackknife(2.0, [7, 7, 7, 7], values)
    mean = sum(values) / 4
    assert corrected == pytest.approx(4 * 2.0 - 3 * mean)
    assert error == pytest.approx(math.sqrt(3 / 4 * sum((value - mean) ** 2 for value in values)))


def test_jackknife_removes_a_bias_of_one_over_n_for_groups_of_any_sizes():
    counts = [50, 3, 20, 1, 11]
    corrected, error = jackknife(
        5.0 + 7.0 / sum(counts), counts, [5.0 + 7.0 / (sum(counts) - count) for count in counts]
    )
    assert corrected == pytest.approx(5.0, rel=1e-12)
    assert error < 0.3


def test_groups_sum_to_the_whole_and_without_one_is_the_rest():
    rows = torch.randn(300, D)
    grouped = GroupedStatistics(D, groups=GROUPS)
    grouped.add(rows, torch.arange(300) % GROUPS)
    shift = grouped.first_shift()
    rest = without_group(grouped.sums(shift), grouped.sums(shift, group=4), reference_of(torch.ones(D)).metadata)
    expected = FeatureStatistics(D)
    expected.update(rows[torch.arange(300) % GROUPS != 4])
    torch.testing.assert_close(rest.sigma, expected.sigma, rtol=1e-11, atol=1e-13)
    assert rest.num_samples == 270


def test_floor_closed_form():
    one = perfect_model_floor(torch.tensor([4.0], dtype=torch.float64), 100)
    assert one == pytest.approx((4 + 0.5 * (4 / 2 + 0.5 * 4)) / 100)  # D = 1: 3/2 σ²/n
    assert perfect_model_floor(torch.zeros(3, dtype=torch.float64), 100) == 0.0
    values = torch.tensor([1.0, 0.0, -1e-18], dtype=torch.float64)
    assert perfect_model_floor(values, 10) == pytest.approx(1.5 / 10)


def test_refusals_say_why():
    assert refusal([32] * 10, 64) is None
    assert "319 images are too few for 64 features (they need 320)" in (refusal([32] * 9 + [31], 64) or "")
    assert "mod 10 take only 4 values" in (refusal([100] * 4 + [0] * 6, 64) or "")
