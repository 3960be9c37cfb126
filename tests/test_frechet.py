"""The Fréchet distance: closed forms, exact values, singular sets, gradients."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from tolerances import TOLERANCES
from torch import Tensor

from fidfast import factors, reference
from fidfast.frechet import frechet_distance, statistics_distance
from fidfast.statistics import FeatureStatistics, StatisticsError


def _tolerance(name: str, exact: float) -> float:
    row = TOLERANCES[name]
    return row.atol + row.rtol * abs(exact)


def _covariance(spectrum: Tensor, seed: int) -> Tensor:  # (D,) → (D, D)
    generator = torch.Generator().manual_seed(seed)
    size = len(spectrum)
    turn = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))[0]
    covariance = turn * spectrum @ turn.T
    return (covariance + covariance.T) / 2


def _exact_case(spectrum: np.ndarray, seed: int) -> tuple[Tensor, Tensor, float]:
    """Σ1 = A Σ2 A in extended precision, so that tr (Σ1 Σ2)^½ = tr (A Σ2) exactly, without commuting."""
    sigma2 = _covariance(torch.from_numpy(spectrum), seed).numpy().astype(np.longdouble)
    scale = _covariance(torch.linspace(0.5, 2, len(spectrum), dtype=torch.float64), seed + 1)
    scale = scale.numpy().astype(np.longdouble)
    sigma1 = scale @ sigma2 @ scale
    exact = float(np.trace(sigma1) + np.trace(sigma2) - 2 * np.sum(scale * sigma2))
    first, second = (torch.from_numpy(np.asarray((s + s.T) / 2, dtype=np.float64)) for s in (sigma1, sigma2))
    return first, second, exact


def _statistics(features: Tensor) -> FeatureStatistics:
    statistics = FeatureStatistics(features.shape[1])
    statistics.update(features)
    return statistics


def _features(count: int, size: int, seed: int, offset: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=generator) * torch.logspace(0, -1.5, size) + offset


def _twin(first: FeatureStatistics, second: FeatureStatistics) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy's, of singular matrices
        return reference.frechet_distance(
            first.mu.numpy(), first.sigma.numpy(), second.mu.numpy(), second.sigma.numpy()
        )


ZERO = np.zeros(96)


def test_equal_covariances_leave_the_means() -> None:
    sigma = _covariance(torch.logspace(0, -4, 96, dtype=torch.float64), 0).numpy()
    mu = np.linspace(-1, 1, 96)
    assert frechet_distance(mu, sigma, ZERO, sigma) == pytest.approx(float(mu @ mu), abs=_tolerance("frechet/exact", 1))


def test_diagonal_covariances_have_a_closed_form() -> None:
    first, second = np.logspace(0, -6, 96), np.logspace(-3, 1, 96)
    exact = float(((np.sqrt(first) - np.sqrt(second)) ** 2).sum())
    found = frechet_distance(ZERO, np.diag(first), ZERO, np.diag(second))
    assert found == pytest.approx(exact, abs=_tolerance("frechet/exact", exact))


@pytest.mark.parametrize("scale", [1e-6, 0.5, 1e6])
def test_a_scaled_covariance_has_a_closed_form(scale: float) -> None:
    sigma = _covariance(torch.logspace(0, -4, 96, dtype=torch.float64), 0).numpy()
    exact = float((1 - scale**0.5) ** 2 * np.trace(sigma))
    found = frechet_distance(ZERO, scale * sigma, ZERO, sigma)
    assert found == pytest.approx(exact, abs=_tolerance("frechet/exact", exact + scale))


@pytest.mark.parametrize(
    "spectrum",
    [np.linspace(1, 3, 160), np.arange(1, 161) ** -2.0, np.logspace(1, -4, 160), np.logspace(0, -7, 160)],
    ids=["mild", "power", "like Inception", "condition 1e7"],
)
def test_exact_value_at_full_rank(spectrum: np.ndarray) -> None:
    sigma1, sigma2, exact = _exact_case(spectrum, 3)
    mu = torch.zeros(len(spectrum), dtype=torch.float64)
    forward, backward = frechet_distance(mu, sigma1, mu, sigma2), frechet_distance(mu, sigma2, mu, sigma1)
    assert float(forward) == pytest.approx(exact, abs=_tolerance("frechet/exact", exact))
    assert float(backward) == pytest.approx(exact, abs=_tolerance("frechet/exact", exact))


def test_exact_value_at_2048() -> None:
    """A = I + 3 v vᵀ, |v| = 1, in place of a dense A: extended precision has no fast matrix product."""
    size = 2048
    spectrum = np.logspace(1, -4, size).astype(np.longdouble)
    generator = np.random.default_rng(0)
    v = generator.standard_normal(size).astype(np.longdouble)
    v /= np.sqrt((v * v).sum())
    scaled = spectrum * v
    inner = (v * scaled).sum()
    sigma1 = np.diag(spectrum) + 3 * (np.outer(v, scaled) + np.outer(scaled, v)) + 9 * inner * np.outer(v, v)
    exact = float(np.trace(sigma1) + spectrum.sum() - 2 * (spectrum.sum() + 3 * inner))
    mu = torch.zeros(size, dtype=torch.float64)
    sigma2 = torch.diag(torch.from_numpy(spectrum.astype(np.float64)))
    found = frechet_distance(mu, torch.from_numpy(sigma1.astype(np.float64)), mu, sigma2)
    assert float(found) == pytest.approx(exact, abs=_tolerance("frechet/exact", exact))


@pytest.mark.parametrize("count1", [2, 3, 40, 95, 96, 97, 300])
@pytest.mark.parametrize("count2", [60, 96, 400])
def test_against_scipy_below_at_and_above_the_dimension(count1: int, count2: int) -> None:
    first, second = _statistics(_features(count1, 96, 1)), _statistics(_features(count2, 96, 2, 0.1))
    expected = _twin(first, second)
    term = statistics_distance(first, second)
    assert term.raw == pytest.approx(expected, abs=_tolerance("frechet/scipy", expected))
    assert term.raw == pytest.approx(term.mean_term + term.trace_term)
    assert statistics_distance(second, first).raw == pytest.approx(term.raw, abs=_tolerance("frechet/self", 1))
    moments = frechet_distance(first.mu, first.sigma, second.mu, second.sigma)
    # without the rows, rounding in sigma costs what it costs scipy
    assert float(moments) == pytest.approx(expected, abs=_tolerance("frechet/scipy", expected))


@pytest.mark.parametrize("count", [2, 40, 64, 96, 97, 150, 700])
@pytest.mark.parametrize("repeats", [1, 2, 10])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_a_set_against_itself_is_zero(count: int, repeats: int, offset: float) -> None:
    features = _features(count, 96, 4, offset).repeat(repeats, 1)
    shuffled = features[torch.randperm(len(features), generator=torch.Generator().manual_seed(0))]
    term = statistics_distance(_statistics(features), _statistics(shuffled))
    assert abs(term.raw) <= TOLERANCES["frechet/self"].atol
    assert term.value >= 0


def test_singular_values_are_taken_only_where_they_are_needed() -> None:
    full, other = _statistics(_features(3000, 96, 1)), _statistics(_features(2000, 96, 2))
    few = _statistics(_features(40, 96, 3))
    repeated = _statistics(_features(20, 96, 3).repeat(2, 1))
    assert statistics_distance(full, other).route == "cholesky, eigvalsh"
    assert statistics_distance(few, other).route == "rows × cholesky, eigvalsh"
    assert statistics_distance(full, few).route == "rows, eigvalsh"
    assert statistics_distance(repeated, repeated).route == "rows, svdvals"


def test_constant_images_and_dead_features() -> None:
    constant, other = _statistics(torch.full((10, 96), 0.25)), _statistics(_features(300, 96, 2))
    expected = float((other.mu - 0.25).square().sum() + other.sigma.diagonal().sum())
    for found in (statistics_distance(constant, other), statistics_distance(other, constant)):
        assert found.value == pytest.approx(expected, abs=_tolerance("frechet/exact", expected))
    assert statistics_distance(constant, constant).value == 0
    assert frechet_distance(constant.mu, constant.sigma, constant.mu, constant.sigma) == 0

    dead = _features(400, 96, 5)
    dead[:, 30:60] = 0.5
    live = torch.cat([torch.arange(30), torch.arange(60, 96)])
    kept = statistics_distance(_statistics(dead[:, live]), _statistics(_features(300, 96, 2)[:, live]))
    all_features = statistics_distance(_statistics(dead), _statistics(_features(300, 96, 2)))
    rest = _statistics(_features(300, 96, 2)[:, 30:60])
    lost = float((rest.mu - 0.5).square().sum())
    assert all_features.mean_term == pytest.approx(kept.mean_term + lost)
    assert np.isfinite(all_features.value)
    assert abs(statistics_distance(_statistics(dead), _statistics(dead.flip(0))).raw) <= TOLERANCES["frechet/self"].atol


def test_large_offset_changes_nothing() -> None:
    one, two = _features(300, 96, 1), _features(250, 96, 2)
    # the offset is exact in float32 only for rows on its grid
    grid_one, grid_two = ((x * 1024).round() / 1024 for x in (one, two))
    near = statistics_distance(_statistics(grid_one), _statistics(grid_two)).value
    far = statistics_distance(_statistics(grid_one + 4096), _statistics(grid_two + 4096)).value
    assert far == pytest.approx(near, abs=_tolerance("frechet/self", near))


def test_covariance_that_is_not_positive_is_clipped_with_a_warning() -> None:
    spectrum = torch.logspace(0, -3, 96, dtype=torch.float64)
    spectrum[-1] = -0.5
    bad, good = _covariance(spectrum, 1).numpy(), _covariance(spectrum.abs(), 2).numpy()
    clipped = _covariance(spectrum.clamp(min=0), 1).numpy()
    expected = frechet_distance(ZERO, clipped, ZERO, good)
    tolerance = _tolerance("frechet/null", expected)
    with pytest.warns(UserWarning, match=r"sigma1.*sum to -0\.5"):
        assert frechet_distance(ZERO, bad, ZERO, good) == pytest.approx(expected, abs=tolerance)
    with pytest.warns(UserWarning, match=r"sigma2.*sum to -0\.5"):
        assert frechet_distance(ZERO, good, ZERO, bad) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, np.full(96, np.nan), r"mu1: expected finite numbers, got 96"),
        (1, np.full((96, 96), np.inf), r"sigma1: expected finite"),
        (2, np.zeros((96, 1)), r"mu2: expected shape \(D,\), got \(96, 1\)"),
        (3, np.eye(95), r"sigma2: expected shape \(96, 96\)"),
        (3, np.triu(np.ones((96, 96))), r"sigma2: expected a symmetric matrix"),
        (1, np.eye(96) * 1j, r"sigma1: expected real numbers, got dtype complex"),
        (0, np.array(["a"] * 96), r"mu1: expected real numbers"),
    ],
)
def test_bad_arguments_are_named(position: int, value: np.ndarray, message: str) -> None:
    arguments = [ZERO, np.eye(96), ZERO, np.eye(96)]
    arguments[position] = value
    with pytest.raises(StatisticsError, match=message):
        frechet_distance(*arguments)


def test_means_of_different_length_and_overflow_are_errors() -> None:
    with pytest.raises(StatisticsError, match=r"mu2: expected shape \(96,\) as mu1"):
        frechet_distance(ZERO, np.eye(96), np.zeros(4), np.eye(4))
    with pytest.raises(StatisticsError, match=r"sigma2: expected numbers below 1e\+140.*got 1e\+200"):
        frechet_distance(ZERO, np.eye(96), ZERO, np.eye(96) * 1e200)
    huge = frechet_distance(ZERO, np.eye(96) * 1e139, np.full(96, -1e139), np.eye(96) * 1e139)
    assert huge == pytest.approx(96e278, rel=1e-9)


def test_float32_default_dtype_and_autocast_change_nothing() -> None:
    sigma1, sigma2, _ = _exact_case(np.logspace(1, -4, 96), 3)
    mu = torch.zeros(96, dtype=torch.float64)
    expected = frechet_distance(mu, sigma1, mu, sigma2)
    torch.set_default_dtype(torch.float16)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
            found = frechet_distance(mu, sigma1, mu, sigma2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)
    assert found.dtype == torch.float64
    assert frechet_distance(mu.float(), sigma1.float(), mu, sigma2).dtype == torch.float64


def _gradient_case(size: int = 24) -> list[Tensor]:
    first, second = _features(200, size, 1), _features(150, size, 2, 0.2)
    return [
        value.clone().requires_grad_()
        for statistics in (_statistics(first), _statistics(second))
        for value in (statistics.mu, statistics.sigma)
    ]


def test_gradients_agree_with_finite_differences() -> None:
    arguments = _gradient_case()
    frechet_distance(*arguments).backward()
    generator = torch.Generator().manual_seed(7)
    for argument in arguments:
        direction = torch.randn(argument.shape, dtype=torch.float64, generator=generator)
        if direction.ndim == 2:  # keeps the covariance positive
            direction = (argument @ direction).detach()
            direction = (direction + direction.T) / 2
        step = 1e-4
        values = [
            frechet_distance(*[other.detach() + sign * step * direction if other is argument else other.detach()
                               for other in arguments])
            for sign in (-2, -1, 1, 2)
        ]  # fmt: skip
        slope = float(values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
        found = float((argument.grad * direction).sum())
        assert found == pytest.approx(slope, abs=_tolerance("frechet/gradient", slope))


def test_gradcheck_through_the_features() -> None:
    features = _features(12, 6, 3).double().requires_grad_()
    other = _features(30, 6, 4).double()

    def distance(x: Tensor) -> Tensor:
        return frechet_distance(x.mean(dim=0), torch.cov(x.T), other.mean(dim=0), torch.cov(other.T))

    def distance_reversed(x: Tensor) -> Tensor:
        return frechet_distance(other.mean(dim=0), torch.cov(other.T), x.mean(dim=0), torch.cov(x.T))

    assert torch.autograd.gradcheck(distance, features)
    assert torch.autograd.gradcheck(distance_reversed, features)


def test_gradient_of_a_singular_covariance_is_finite_and_vanishes_at_the_minimum() -> None:
    statistics = _statistics(_features(10, 24, 3))
    arguments = [value.clone().requires_grad_() for value in (statistics.mu, statistics.sigma)]
    distance = frechet_distance(*arguments, statistics.mu, statistics.sigma)
    distance.backward()
    assert float(distance.detach()) <= TOLERANCES["frechet/scipy"].atol
    assert all(bool(torch.isfinite(argument.grad).all()) for argument in arguments)
    inside = factors.rows_factor(statistics.features).matrix
    assert float((inside.T @ arguments[1].grad @ inside).abs().max()) < 1e-6


@pytest.mark.parametrize("size", [1, 129, 700, 1100])
def test_triangular_products_skip_only_zeros(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    a = torch.randn(size, size, dtype=torch.float64, generator=generator)
    sigma = a @ a.T
    lower = torch.linalg.cholesky(sigma + torch.eye(size, dtype=torch.float64))
    factor = factors.Factor(lower, "cholesky", lower.square().sum())
    tolerance = 1e-12 * float(sigma.abs().max()) * size
    torch.testing.assert_close(factors.times_factor(a[: size // 2 + 1], factor), a[: size // 2 + 1] @ lower)
    found, expected = factors.congruence(sigma, factor), lower.T @ sigma @ lower
    torch.testing.assert_close(found.tril(), expected.tril(), rtol=1e-10, atol=tolerance)
    torch.testing.assert_close(factors.gram(a).tril(), sigma.tril(), rtol=1e-10, atol=tolerance)


def test_rows_factor_reproduces_the_covariance() -> None:
    features = _features(50, 96, 3, 10.0)
    factor = factors.rows_factor(features)
    assert factor.matrix.shape == (96, 49)
    torch.testing.assert_close(factor.matrix @ factor.matrix.T, torch.cov(features.double().T), rtol=0, atol=1e-12)
    assert float(factor.trace) == pytest.approx(float(torch.cov(features.double().T).trace()))


def test_a_matrix_that_is_no_covariance_is_refused() -> None:
    with pytest.raises(StatisticsError, match=r"sigma2: expected a covariance.*negative eigenvalues sum to -8"):
        frechet_distance(np.zeros(8), np.eye(8), np.zeros(8), -np.eye(8))
