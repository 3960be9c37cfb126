"""Streaming, merging and keeping statistics."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tolerances import TOLERANCES
from torch import Tensor

from fidfast import reference
from fidfast.statistics import FeatureStatistics, StatisticsError, check_comparable

D = 96


def _features(count: int, seed: int = 0, offset: float = 0.0, size: int = D) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=generator) * torch.logspace(0, -1, size) + offset


def _statistics(features: Tensor, batch: int = 100, **options: object) -> FeatureStatistics:
    statistics = FeatureStatistics(features.shape[1], **options)
    for part in features.split(batch):
        statistics.update(part)
    return statistics


def _assert_covariance(statistics: FeatureStatistics, features: Tensor) -> None:
    mu, sigma = reference.covariance(features)
    row = TOLERANCES["statistics/covariance"]
    scale = float(np.abs(sigma).max())
    np.testing.assert_allclose(statistics.mu.numpy(), mu, rtol=row.rtol, atol=row.atol * max(scale, 1))
    np.testing.assert_allclose(statistics.sigma.numpy(), sigma, rtol=row.rtol, atol=row.atol * max(scale, 1))
    assert statistics.num_samples == len(features)


@pytest.mark.parametrize("count", [2, 3, 95, 96, 97, 511, 512, 513, 1024, 1500])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_agrees_with_numpy(count: int, offset: float) -> None:
    features = _features(count, 1, offset)
    _assert_covariance(_statistics(features), features)


@pytest.mark.parametrize("count", [60, 96, 300, 1024, 3000])
def test_bit_equal_for_every_batch_size(count: int) -> None:
    features = _features(count, 2, 3.0)
    first, *others = (_statistics(features, batch) for batch in (1, 7, 64, 1000))
    for other in others:
        assert torch.equal(first.mu, other.mu)
        assert torch.equal(first.sigma, other.sigma)


def test_reading_in_between_changes_nothing() -> None:
    features = _features(1500, 2)
    read, unread = FeatureStatistics(D), _statistics(features)
    for part in features.split(70):
        read.update(part)
        if read.num_samples > 1:
            assert torch.isfinite(read.sigma).all()
    assert torch.equal(read.sigma, unread.sigma)


def test_permutation_changes_only_rounding() -> None:
    features = _features(1500, 3)
    _assert_covariance(_statistics(features[torch.randperm(1500)]), features)


def test_rows_are_kept_while_they_are_few_and_never_longer() -> None:
    statistics = FeatureStatistics(D)
    features = _features(97)
    statistics.update(features[:90])
    assert torch.equal(statistics.features, features[:90])
    statistics.update(features[90:96])
    assert torch.equal(statistics.features, features[:96])
    assert statistics.factor().kind == "rows"
    statistics.update(features[96:])
    assert statistics.features is None
    assert statistics.factor().kind == "cholesky"


def test_features_are_a_copy() -> None:
    statistics = _statistics(_features(10))
    sigma = statistics.sigma.clone()
    statistics.features.zero_()
    statistics.update(_features(1))
    statistics = _statistics(_features(10))
    assert torch.equal(statistics.sigma, sigma)


def test_memory_does_not_grow_with_n() -> None:
    few, many = _statistics(_features(600)), FeatureStatistics(D)
    for _ in range(40):
        many.update(_features(600))
    sizes = [len(pickle.dumps(statistics)) for statistics in (few, many)]
    assert max(sizes) <= (512 * D * 4) + (D * D * 8) + (2 * D * 8) + 8192


@pytest.mark.parametrize("sizes", [(40, 50), (40, 60), (96, 1), (10, 700), (700, 10), (600, 1300), (2000, 1)])
@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_merge_is_exact(sizes: tuple[int, int], offset: float) -> None:
    first, second = _features(sizes[0], 1), _features(sizes[1], 2, offset)
    together = torch.cat([first, second])
    merged, reversed_ = _statistics(first), _statistics(second)
    other_way = _statistics(first)
    merged.merge(_statistics(second))
    reversed_.merge(other_way)
    _assert_covariance(merged, together)
    _assert_covariance(reversed_, together)
    assert (merged.features is not None) == (sum(sizes) <= D)


def test_merge_leaves_the_other_alone_and_shares_no_memory() -> None:
    features, more = _features(1500, 1), _features(1500, 2)
    source, target = _statistics(features), FeatureStatistics(D)
    before = source.sigma.clone()
    target.merge(source)
    target.update(more)
    target.update(more)
    source.update(features[:1])  # drops what was cached
    again = _statistics(features)
    again.update(features[:1])
    assert torch.equal(source.sigma, again.sigma)
    assert torch.equal(before, _statistics(features).sigma)
    twice = _statistics(features)
    twice.merge(twice)
    _assert_covariance(twice, features.repeat(2, 1))


def test_merge_with_the_same_shift_adds_sums() -> None:
    features = _features(4000, 1)
    shift = features.mean(dim=0)
    parts = [_statistics(part, shift=shift) for part in features.split(1024)]
    merged = FeatureStatistics(D, shift=shift)
    for part in parts:
        merged.merge(part)
    _assert_covariance(merged, features)


def test_merge_of_known_moments() -> None:
    first, second = _features(700, 1), _features(300, 2, 1.0)
    mu, sigma = reference.covariance(first)
    merged = FeatureStatistics.from_moments(mu, sigma, 700)
    merged.merge(_statistics(second))
    _assert_covariance(merged, torch.cat([first, second]))
    merged = FeatureStatistics.from_moments(mu, sigma, 700)
    merged.update(second)
    _assert_covariance(merged, torch.cat([first, second]))

    given = torch.from_numpy(sigma.copy()).requires_grad_()
    unknown = FeatureStatistics.from_moments(mu, given)
    given.detach().zero_()
    assert np.array_equal(unknown.sigma.numpy(), (sigma + sigma.T) / 2)
    assert unknown.num_samples is None
    with pytest.raises(StatisticsError, match="does not say how many samples"):
        unknown.merge(_statistics(second))
    with pytest.raises(StatisticsError, match="number of samples is not known"):
        unknown.update(second)


def test_a_shift_far_from_the_mean_costs_digits_not_correctness() -> None:
    features = _features(2000, 1, 1000.0)
    _assert_covariance(_statistics(features), features)
    shifted = _statistics(features, shift=torch.zeros(D))
    np.testing.assert_allclose(shifted.sigma.numpy(), reference.covariance(features)[1], atol=1e-7)


def _by_pickle(statistics: FeatureStatistics) -> FeatureStatistics:
    return pickle.loads(pickle.dumps(statistics))


def _by_state_dict(statistics: FeatureStatistics) -> FeatureStatistics:
    file = io.BytesIO()
    torch.save(statistics.state_dict(), file)
    file.seek(0)
    made = FeatureStatistics(D)
    made.load_state_dict(torch.load(file, weights_only=True))
    return made


@pytest.mark.parametrize("copied", [copy.deepcopy, _by_pickle, _by_state_dict])
@pytest.mark.parametrize("count", [0, 1, 50, 600, 1500])
def test_a_copy_goes_on_bit_for_bit(copied: Callable[[FeatureStatistics], FeatureStatistics], count: int) -> None:
    first, rest = _features(count, 1), _features(1200, 2)
    original = FeatureStatistics(D, preset="clean-fid", precision="fp32", weights="abc")
    original.update(first)
    copy_ = copied(original)
    original.update(rest)
    copy_.update(rest)
    assert torch.equal(copy_.sigma, original.sigma)
    assert torch.equal(copy_.mu, original.mu)
    assert copy_.metadata == original.metadata


def test_a_loaded_state_is_not_written_to() -> None:
    state = _statistics(_features(1500)).state_dict()
    kept = copy.deepcopy(state)
    statistics = FeatureStatistics(D)
    statistics.load_state_dict(state)
    statistics.update(_features(1500, 2))
    assert torch.equal(state["sums"][3], kept["sums"][3])
    assert torch.equal(state["rows"], kept["rows"])
    with pytest.raises(StatisticsError, match="feature_dim: expected 5, got 96"):
        FeatureStatistics(5).load_state_dict(state)
    with pytest.raises(StatisticsError, match="none named rows"):
        statistics.load_state_dict({name: value for name, value in state.items() if name != "rows"})


def test_precision_and_modes_of_the_caller_change_nothing() -> None:
    features = _features(1500, 1)
    expected = _statistics(features)
    statistics = FeatureStatistics(D)
    torch.set_default_dtype(torch.float16)
    try:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            statistics.update(features[:700].clone())
        with torch.device("meta"):
            statistics.update(features[700:].requires_grad_())
            sigma = statistics.sigma
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(sigma, expected.sigma)
    assert sigma.dtype == torch.float64
    assert not sigma.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_taken_in_float32(dtype: torch.dtype) -> None:
    features = _features(300).to(dtype)
    assert torch.equal(_statistics(features).sigma, _statistics(features.float()).sigma)
    assert torch.equal(_statistics(torch.from_numpy(_features(300).numpy())).sigma, _statistics(_features(300)).sigma)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(4, 95), r"features: expected shape \(N, 96\), got \(4, 95\)"),
        (torch.zeros(96), r"got \(96,\)"),
        (torch.zeros(4, 96, 1, 1), r"got \(4, 96, 1, 1\)"),
        (torch.zeros(4, 96, dtype=torch.int64), "expected a float type, got torch.int64"),
        (torch.zeros(4, 96, dtype=torch.complex64), "expected a float type"),
        (torch.full((4, 96), 1e300, dtype=torch.float64), "NaN or infinity in 4 of 4 rows"),
    ],
)
def test_wrong_features_are_errors(features: Tensor, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        FeatureStatistics(D).update(features)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_is_named_and_nothing_is_lost(bad: float) -> None:
    features = _features(700)
    statistics = _statistics(features)
    sigma = statistics.sigma.clone()
    broken = _features(20, 5)
    broken[7, 11] = bad
    with pytest.raises(StatisticsError, match="in 1 of 20 rows, the first at index 707 of all rows"):
        statistics.update(broken)
    assert torch.equal(statistics.sigma, sigma)
    assert statistics.num_samples == 700


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("use", ["mu", "sigma", "factor", "save", "describe"])
def test_too_few_samples_is_an_error_where_they_are_used(count: int, use: str, tmp_path: object) -> None:
    statistics = _statistics(_features(count)) if count else FeatureStatistics(D)
    assert statistics.num_samples == count
    with pytest.raises(StatisticsError, match=f"at least 2 samples, got {count}"):
        value = getattr(statistics, use)
        value(f"{tmp_path}/x.npz") if use == "save" else value()
    statistics.update(_features(2))
    assert bool(torch.isfinite(statistics.sigma).all())


def test_empty_update_and_merge_change_nothing() -> None:
    statistics = _statistics(_features(700))
    sigma = statistics.sigma.clone()
    statistics.update(torch.empty(0, D))
    statistics.merge(FeatureStatistics(D))
    assert torch.equal(statistics.sigma, sigma)


def test_constant_rows_have_exactly_no_covariance() -> None:
    for count in (10, 1500):
        statistics = _statistics(torch.full((count, D), 0.3))
        assert float(statistics.sigma.abs().max()) == 0
        assert torch.equal(statistics.mu, torch.full((D,), 0.3).double())


@pytest.mark.parametrize("size", [0, -1, 2.5, True, None])
def test_feature_dim_must_be_a_number(size: object) -> None:
    with pytest.raises(StatisticsError, match="feature_dim: expected a whole number"):
        FeatureStatistics(size)  # type: ignore[arg-type]


def test_bad_shift_and_moments_are_errors() -> None:
    with pytest.raises(StatisticsError, match="shift: expected 96 finite numbers"):
        FeatureStatistics(D, shift=torch.zeros(5))
    with pytest.raises(StatisticsError, match="shift: expected 96 finite numbers"):
        FeatureStatistics(D, shift=torch.full((D,), float("nan")))
    with pytest.raises(StatisticsError, match="num_samples: a covariance needs at least 2 samples, got 1"):
        FeatureStatistics.from_moments(np.zeros(3), np.eye(3), 1)


@pytest.mark.parametrize(("name", "values"), [("preset", ("clean-fid", "tensorflow")), ("weights", ("aaa", "bbb"))])
def test_statistics_of_other_features_are_not_compared(name: str, values: tuple[str, str]) -> None:
    first, second = (_statistics(_features(10), **{name: value}) for value in values)
    for use in (check_comparable, FeatureStatistics.merge):
        with pytest.raises(StatisticsError, match=f"the {name} differs: .*'{values[0]}'.*'{values[1]}'"):
            use(first, second)
    with pytest.raises(StatisticsError, match="the feature_dim differs"):
        check_comparable(first, FeatureStatistics(5))


def test_other_precision_and_missing_metadata_warn() -> None:
    first, second = (_statistics(_features(10), precision=value, preset="clean-fid") for value in ("fp32", "bf16"))
    with pytest.warns(UserWarning, match="precision of the features differs: .*'fp32'.*'bf16'"):
        check_comparable(first, second)
    with pytest.warns(UserWarning, match="precision"):
        first.merge(second)
    assert first.metadata.precision == "mixed"
    unknown = _statistics(_features(10), precision="bf16")
    with pytest.warns(UserWarning, match="does not say its preset; it is taken as 'clean-fid'"):
        unknown.merge(second)
    assert unknown.metadata.preset == "clean-fid"


def test_repr_tells_shapes() -> None:
    assert repr(_statistics(_features(10), preset="clean-fid")) == (
        "FeatureStatistics(n=10, mu (96,), sigma (96, 96), features (10, 96), preset='clean-fid')"
    )
    assert repr(FeatureStatistics(5)) == "FeatureStatistics(n=0, mu (5,), sigma (5, 5))"


@pytest.mark.cuda
def test_on_a_gpu() -> None:
    features = _features(3000, 1)
    statistics = _statistics(features.cuda())
    assert statistics.sigma.is_cuda
    torch.testing.assert_close(statistics.sigma.cpu(), _statistics(features).sigma, rtol=1e-12, atol=1e-13)
    merged = _statistics(features)
    merged.merge(statistics)
    assert not merged.sigma.is_cuda
