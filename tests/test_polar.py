"""The polar route, on the CPU in float64: schedules, brackets against exact values, hostile inputs, gradients."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from test_frechet import ZERO, _covariance, _exact_case, _features, _gradient_case, _statistics, _tolerance
from tolerances import TOLERANCES
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import fidfast
from fidfast import factors, frechet, polar, polar_distance, reference
from fidfast.frechet import frechet_distance, statistics_distance
from fidfast.polar_distance import CERTIFIED, NOT_FINITE, UNFACTORED, WIDE, Rung, distance_bracket
from fidfast.quintic import QUINTIC, schedule
from fidfast.statistics import FeatureStatistics, StatisticsError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def on_polar(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a CUDA device does, here."""
    monkeypatch.setattr(frechet, "takes_polar", lambda device: True)


@pytest.fixture
def float32_iterates(on_polar: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet, "iterate_dtype", lambda device: torch.float32)


class NothingRead(TorchDispatchMode):
    """Refuses what copies a number from the device to the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), func
        return func(*args, **(kwargs or {}))


def _apply(steps: Any, x: np.ndarray) -> np.ndarray:
    for a, b, c in steps:
        x = x * (a + x * x * (b + c * x * x))
    return x


@pytest.mark.parametrize("smallest", list(QUINTIC))
def test_schedules_are_what_their_generator_gives_and_take_everything_to_1(smallest: float) -> None:
    steps = QUINTIC[smallest]
    np.testing.assert_allclose(steps, schedule(smallest), rtol=TOLERANCES["polar/schedule"].rtol)
    resolved = np.geomspace(smallest, 1, 100_001)
    assert np.abs(1 - _apply(steps, resolved)).max() <= TOLERANCES["polar/flat"].atol
    below = _apply(steps, np.geomspace(smallest * 1e-6, smallest, 10_001))
    assert below.min() >= 0
    assert below.max() <= 1 + 1e-14
    above = _apply(steps, np.linspace(1, 1.005, 1001))  # where rounding may put the largest
    assert np.abs(1 - above).max() <= TOLERANCES["polar/flat"].atol


def test_schedules_are_as_short_as_the_optimum() -> None:
    assert {smallest: len(steps) for smallest, steps in QUINTIC.items()} == {1e-6: 13, 1e-8: 16, 1e-11: 21}


@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (40, 40), (129, 64)])
def test_polar_factor_and_inverse_root_against_singular_vectors(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    m = torch.randn(shape, dtype=torch.float64, generator=generator) * torch.logspace(0, -3, shape[1]) * 1e5
    found = polar.polar(m, inverse_root=True)
    atol = TOLERANCES["polar/twin"].atol
    torch.testing.assert_close(found.factor, reference.polar(m), rtol=0, atol=atol)
    torch.testing.assert_close(m @ found.inverse_root, found.factor, rtol=0, atol=atol)


def test_iterates_survive_any_scale_and_zero() -> None:
    m = torch.randn(20, 12, dtype=torch.float64)
    for scale in (1e-250, 1e-12, 1e12, 1e140):
        bracket = polar.nuclear_bracket(m * scale, polar.polar(m * scale).factor)
        exact = float(torch.linalg.svdvals(m).sum()) * scale
        assert float(bracket.value) == pytest.approx(exact, rel=1e-12)
        assert float(bracket.lower) <= exact <= float(bracket.upper) <= exact * (1 + 1e-8)
    zero = torch.zeros(20, 12, dtype=torch.float64)
    assert [float(x) for x in polar.nuclear_bracket(zero, polar.polar(zero).factor)] == [0, 0, 0]


def test_bracket_holds_for_any_factor() -> None:
    """Also for one that is no polar factor: the bracket is then wide, never wrong."""
    m = torch.randn(30, 20, dtype=torch.float64)
    exact = float(torch.linalg.svdvals(m).sum())
    best = polar.polar(m).factor
    for u in (best, best * 0.3, best * 1.7, -best, best * 1e9, torch.randn(30, 20, dtype=torch.float64),
              torch.zeros_like(m), torch.full_like(m, torch.nan)):  # fmt: skip
        bracket = polar.nuclear_bracket(m, u)
        assert float(bracket.lower) <= exact <= float(bracket.upper)


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e-30, 1e30, 1e140])
def test_bounds_hold_at_any_scale(scale: float) -> None:
    """Also where the product of the traces is below the smallest number."""
    sigma1, sigma2, exact = _exact_case(np.arange(1, 17) ** -1.0, 1)
    zero = torch.zeros(16, dtype=torch.float64)
    for first, second, expected in (
        (scale * sigma1, scale * sigma2, scale * exact),
        (scale * sigma1, scale * sigma1, 0.0),
    ):
        found = frechet_distance(zero, first, zero, second, sync=False)
        traces = float(first.trace() + second.trace())
        assert float(found.lower) <= expected <= float(found.upper) <= expected + 1e-6 * traces
        assert float(found.value) == pytest.approx(expected, rel=1e-9, abs=1e-12 * traces)


@functools.cache
def _random_case(seed: int) -> tuple[Tensor, Tensor, float]:
    """Σ1 = A Σ2 A, of random size, spectrum and scale, and the exact tr (Σ1 Σ2)^½."""
    random = np.random.default_rng(seed)
    size = int(random.integers(8, 65))
    spectrum = [
        np.linspace(1, 3, size),
        np.arange(1, size + 1) ** -2.0,
        np.geomspace(10, 1e-4, size),
        np.geomspace(1, 1e-7, size),
        random.uniform(0, 1, size) ** 6,
        np.where(np.arange(size) < size // 2, np.arange(1, size + 1) ** -1.0, 0),
        np.where(np.arange(size) < 3, 1.0, 1e-6),
    ][seed % 7]
    sigma1, sigma2, exact = _exact_case(spectrum * 10.0 ** random.uniform(-2, 2), seed)
    return sigma1, sigma2, exact


def _bracket(sigma1: Tensor, sigma2: Tensor, rung: Rung, tolerance: float = 1e-8) -> polar_distance.Distance:
    first, second = factors.covariance_factor(sigma1, "1"), factors.covariance_factor(sigma2, "2")
    zero = torch.zeros(len(sigma1), dtype=torch.float64)
    return distance_bracket(zero, first, zero, second, rung=rung, tolerance=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bracket_holds_the_exact_value_and_is_narrow(dtype: torch.dtype) -> None:
    within = []
    for seed in range(210):
        sigma1, sigma2, exact = _random_case(seed)
        bracket = _bracket(sigma1, sigma2, Rung(1e-8, dtype)).bracket
        assert float(bracket.lower) <= exact <= float(bracket.upper), seed
        tolerance = max(1e-6, 1e-8 * float(sigma1.trace() + sigma2.trace()))
        within.append(float(bracket.upper - bracket.lower) <= tolerance)
        assert int(bracket.status) == (CERTIFIED if within[-1] else WIDE)
    assert np.mean(within) >= (0.95 if dtype == torch.float64 else 0.3)


def test_bracket_holds_to_the_last_digit() -> None:
    """Factors that have nothing in common; the exact nuclear norm is that of 50 digits."""
    for seed in range(24):
        random = np.random.default_rng(seed)
        size = int(random.integers(2, 9))
        first, second = (
            factors.covariance_factor(_covariance(torch.from_numpy(10.0 ** random.uniform(-8, 1, size)), seed + k), "")
            for k in (0, 100)
        )
        m = first.matrix.T @ second.matrix
        with mpmath.workdps(50):
            exact = mpmath.fsum(mpmath.svd_r(mpmath.matrix(m.tolist()), compute_uv=False))
            for dtype in (torch.float64, torch.float32):
                bracket = polar.nuclear_bracket(m, polar.polar(m, dtype=dtype).factor)
                assert mpmath.mpf(float(bracket.lower)) <= exact <= mpmath.mpf(float(bracket.upper)), seed


@pytest.mark.parametrize(
    "spectrum",
    [
        np.linspace(1, 3, 160),
        np.arange(1, 161) ** -2.0,
        np.geomspace(10, 1e-4, 160),
        np.geomspace(1, 1e-7, 160),
        np.where(np.arange(160) < 80, np.arange(1, 161) ** -1.0, 0),
    ],
    ids=["mild", "power", "like Inception", "condition 1e7", "rank-deficient"],
)
def test_exact_value_by_every_schedule(spectrum: np.ndarray) -> None:
    sigma1, sigma2, exact = _exact_case(spectrum, 3)
    for smallest in (1e-8, 1e-11):
        found = _bracket(sigma1, sigma2, Rung(smallest, torch.float64))
        assert float(found.raw) == pytest.approx(exact, abs=_tolerance("frechet/exact", exact))
        assert float(_bracket(sigma2, sigma1, Rung(smallest, torch.float64)).raw) == pytest.approx(
            exact, abs=_tolerance("frechet/exact", exact)
        )
    single = _bracket(sigma1, sigma2, Rung(1e-8, torch.float32))
    assert float(single.raw) == pytest.approx(exact, abs=_tolerance("polar/float32", exact))


def test_too_coarse_a_schedule_is_noticed(on_polar: None) -> None:
    """One value in 100 is below 1e-6 of the largest: the loss shows in the bracket, and the next rung repairs it."""
    sigma1, sigma2, exact = _exact_case(np.geomspace(1, 1e-9, 100), 3)
    coarse = _bracket(sigma1, sigma2, Rung(1e-6, torch.float64), 1e-6).bracket
    assert float(coarse.value) - exact > 1e-7
    assert float(coarse.lower) <= exact <= float(coarse.upper)
    sides = [FeatureStatistics.from_moments(ZERO[:1].repeat(100), sigma) for sigma in (sigma1, sigma2)]
    loose, tight = (statistics_distance(*sides, tolerance=tolerance) for tolerance in (1e-6, 1e-8))
    assert "l=1e-6, certified" in loose.route
    assert "l=1e-8, certified" in tight.route
    for term in (loose, tight):
        assert abs(term.raw - exact) <= term.error_bound
    assert abs(tight.raw - exact) < abs(loose.raw - exact) / 10
    tightest = statistics_distance(*sides, tolerance=1e-11)
    assert "l=1e-11, certified" in tightest.route
    assert tightest.raw == pytest.approx(exact, abs=_tolerance("frechet/exact", exact))


@pytest.mark.parametrize(("count1", "count2"), [(n1, n2) for n1 in (2, 3, 40, 96, 97, 300) for n2 in (60, 400)])
def test_statistics_distance_agrees_with_the_lapack_route(
    count1: int, count2: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = _statistics(_features(count1, 96, 1)), _statistics(_features(count2, 96, 2, 0.1))
    plain = statistics_distance(first, second)
    assert plain.error_bound is None
    monkeypatch.setattr(frechet, "takes_polar", lambda device: True)
    for sides in ((first, second), (second, first)):
        term = statistics_distance(*sides)
        assert "polar quintic l=1e-8, certified ±" in term.route
        assert term.raw == pytest.approx(plain.raw, abs=_tolerance("frechet/exact", plain.raw))
        assert abs(term.raw - plain.raw) <= term.error_bound < 1e-6
        assert term.raw == pytest.approx(term.mean_term + term.trace_term)


def test_a_mean_far_away_asks_for_no_longer_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding of a mean term of 1e13 is wider than any tolerance for traces of 40, and no iteration makes it less."""
    first, second = _statistics(_features(300, 24, 1)), _statistics(_features(200, 24, 2) + 1e6)
    plain = statistics_distance(first, second)
    monkeypatch.setattr(frechet, "takes_polar", lambda device: True)
    term = statistics_distance(first, second)
    assert "polar quintic l=1e-8, certified" in term.route
    assert abs(term.raw - plain.raw) <= term.error_bound < 1e-14 * 24 * plain.raw
    assert term.trace_term == pytest.approx(plain.trace_term, abs=term.error_bound)


def test_numbers_are_read_once() -> None:
    """The first rung waits for the device in one place: the list of its numbers."""
    first, second = _statistics(_features(300, 24, 1)), _statistics(_features(200, 24, 2))
    few = _statistics(_features(10, 24, 3))
    second.factor()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frechet, "takes_polar", lambda device: True)
        with NothingRead():
            assert "certified" in statistics_distance(first, second).route
            assert "certified" in statistics_distance(few, second).route
        with pytest.raises(AssertionError, match="_local_scalar_dense"), NothingRead():
            float(first.mu[0])


def _hostile() -> Iterator[tuple[str, Tensor, Tensor]]:
    plain = _features(300, 48, 2)
    dead = _features(400, 48, 5)
    dead[:, 10:30] = 0.5
    yield "below the dimension", _features(20, 48, 1), plain
    yield "both below", _features(20, 48, 1), _features(30, 48, 2)
    yield "dead features", dead, plain
    yield "dead on both sides", dead, dead.flip(0)
    yield "repeated images", _features(20, 48, 3).repeat(4, 1), _features(20, 48, 3).repeat(3, 1)
    yield "itself", plain, plain.flip(0)
    yield "nearly itself", plain, plain + 1e-6 * _features(300, 48, 9)
    yield "constant", torch.full((60, 48), 0.25), plain
    yield "constant, few", torch.full((4, 48), 0.25), plain
    yield "both constant", torch.full((60, 48), 0.25), torch.full((4, 48), 0.5)
    yield "large offset", _features(300, 48, 1, 1e4), _features(250, 48, 2, 1e4)
    yield "one dimension", _features(20, 1, 1), _features(30, 1, 2)
    yield "one dimension, constant", torch.ones(20, 1), _features(30, 1, 2)
    yield "tiny", 1e-12 * plain, 1e-12 * _features(200, 48, 7)


@pytest.mark.parametrize("case", list(_hostile()), ids=lambda case: case[0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_hostile_sets(case: tuple[str, Tensor, Tensor], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = _statistics(case[1]), _statistics(case[2])
    expected = statistics_distance(first, second)
    monkeypatch.setattr(frechet, "takes_polar", lambda device: True)
    monkeypatch.setattr(frechet, "iterate_dtype", lambda device: dtype)
    term = statistics_distance(first, second)
    assert term.value >= 0
    assert "certified" in term.route
    assert term.raw == pytest.approx(expected.raw, abs=_tolerance("polar/float32", 1 + expected.raw))
    assert abs(term.raw - expected.raw) <= term.error_bound + TOLERANCES["frechet/self"].atol
    found = statistics_distance(first, second, sync=False)
    assert all(bool(torch.isfinite(number)) for number in found)
    assert float(found.lower) - 1e-9 <= expected.value <= float(found.upper) + 1e-9
    assert float(found.lower) <= float(found.value) <= float(found.upper) + 1e-12


def test_float32_iterates_are_certified_where_they_can_be_and_float64_follows(float32_iterates: None) -> None:
    full, few = _statistics(_features(3000, 96, 1)), _statistics(_features(40, 96, 3))
    assert "l=1e-8, float32 iterates, certified" in statistics_distance(full, few).route
    sigma1, sigma2, exact = _exact_case(np.geomspace(100, 1e-9, 64), 3)  # float32 holds seven of these eleven decades
    term = statistics_distance(*[FeatureStatistics.from_moments(ZERO[:64], sigma) for sigma in (sigma1, sigma2)])
    assert "l=1e-11, certified" in term.route
    assert abs(term.raw - exact) <= term.error_bound


def test_covariance_that_is_not_positive_is_clipped_with_a_warning(on_polar: None) -> None:
    spectrum = torch.logspace(0, -3, 96, dtype=torch.float64)
    good = _covariance(spectrum, 2)
    spectrum[-1] = -0.5
    bad, clipped = _covariance(spectrum, 1), _covariance(spectrum.clamp(min=0), 1)
    zero = torch.zeros(96, dtype=torch.float64)
    expected = float(frechet_distance(zero, clipped, zero, good))
    with pytest.warns(UserWarning, match=r"sigma1.*sum to -0\.5"):
        found = float(frechet_distance(zero, bad, zero, good))
    assert found == pytest.approx(expected, abs=_tolerance("frechet/null", expected))


def test_what_no_iteration_certifies_falls_back_to_eigenvalues(on_polar: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def widened(m: Tensor, u: Tensor) -> polar.NuclearBracket:
        tried.append(len(m))
        return polar.NuclearBracket(m.new_zeros(()), m.new_zeros(()), m.new_full((), torch.inf))

    monkeypatch.setattr(polar_distance, "nuclear_bracket", widened)
    first, second = _statistics(_features(300, 24, 1)), _statistics(_features(200, 24, 2))
    term = statistics_distance(first, second)
    assert (term.route, term.error_bound) == ("cholesky, eigvalsh", None)
    assert len(tried) == 2
    moments = (first.mu, first.sigma, second.mu, second.sigma)
    assert float(frechet_distance(*moments)) == pytest.approx(term.value)
    assert len(tried) == 4


def test_without_sync_nothing_depends_on_a_value() -> None:
    first, second = _statistics(_features(300, 24, 1)), _statistics(_features(200, 24, 2, 0.3))
    moments = [first.mu, first.sigma, second.mu, second.sigma]
    expected = float(frechet_distance(*moments))

    def distance(*arguments: Tensor) -> tuple[Tensor, ...]:
        return tuple(frechet_distance(*arguments, sync=False))

    with NothingRead():
        eager = distance(*moments)
    compiled = torch.compile(distance, fullgraph=True, backend="aot_eager")(*moments)
    for found in (eager, compiled):
        value, lower, upper, status = (float(number) for number in found)
        assert value == pytest.approx(expected, abs=_tolerance("frechet/exact", expected))
        assert lower <= expected <= upper
        assert status == CERTIFIED
    second.factor()
    few = _statistics(_features(10, 24, 3))
    with NothingRead():
        bracket = statistics_distance(first, second, sync=False)
        rows = statistics_distance(few, second, sync=False)
    assert float(bracket.value) == pytest.approx(expected, abs=_tolerance("frechet/exact", expected))
    assert int(rows.status) == CERTIFIED
    with pytest.raises(StatisticsError, match="sync: expected True for numpy"):
        frechet_distance(ZERO, np.eye(96), ZERO, np.eye(96), sync=False)  # type: ignore[call-overload]


def test_status_of_singular_and_of_broken_covariances() -> None:
    rows = _features(10, 24, 3).double()
    other = _statistics(_features(200, 24, 2))
    mean, singular = rows.mean(dim=0), torch.cov(rows.T)
    bracket = frechet_distance(mean, singular, other.mu, other.sigma, sync=False)
    exact = float(frechet_distance(mean, singular, other.mu, other.sigma))
    assert int(bracket.status) == UNFACTORED
    assert float(bracket.lower) <= min(exact, float(bracket.value))
    assert max(exact, float(bracket.value)) <= float(bracket.upper)
    for broken in (singular * torch.nan, singular * torch.inf):
        bracket = frechet_distance(mean, broken, other.mu, other.sigma, sync=False)
        assert int(bracket.status) == NOT_FINITE
        assert [float(bracket.lower), float(bracket.upper), float(bracket.value)] == [0, np.inf, np.inf]
    negative = frechet_distance(mean, -other.sigma, other.mu, other.sigma, sync=False)
    assert int(negative.status) == UNFACTORED
    assert 0 <= float(negative.lower) <= float(negative.value) <= float(negative.upper) < np.inf
    hidden = other.sigma.clone()
    hidden[3, 5] = torch.nan
    bracket = frechet_distance(mean, hidden, other.mu, other.sigma, sync=False)
    assert int(bracket.status) == UNFACTORED
    assert not any(bool(torch.isnan(number)) for number in bracket)


def test_gradients_are_those_of_finite_differences(on_polar: None) -> None:
    arguments = _gradient_case()
    for sync in (True, False):
        for argument in arguments:
            argument.grad = None
        found = frechet_distance(*arguments, sync=sync)
        (found if sync else found.value).backward()
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
            gradient = float((argument.grad * direction).sum())
            assert gradient == pytest.approx(slope, abs=_tolerance("frechet/gradient", slope))


@pytest.mark.parametrize("count", [4, 12], ids=["n below D", "n above D"])
def test_gradcheck_through_the_features(on_polar: None, count: int) -> None:
    features = _features(count, 6, 3).double().requires_grad_()
    other = _features(30, 6, 4).double()

    def distance(x: Tensor) -> Tensor:
        return frechet_distance(x.mean(dim=0), torch.cov(x.T), other.mean(dim=0), torch.cov(other.T))

    def distance_reversed(x: Tensor) -> Tensor:
        return frechet_distance(other.mean(dim=0), torch.cov(other.T), x.mean(dim=0), torch.cov(x.T))

    assert torch.autograd.gradcheck(distance, features, atol=1e-6, rtol=1e-6)
    assert torch.autograd.gradcheck(distance_reversed, features, atol=1e-6, rtol=1e-6)


def test_gradients_agree_with_those_of_eigenvectors_where_a_covariance_is_singular(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    statistics, other = _statistics(_features(10, 24, 3)), _statistics(_features(60, 24, 4))
    gradients = []
    for route in (False, True):
        monkeypatch.setattr(frechet, "takes_polar", lambda device, route=route: route)
        sigma1, sigma2 = (side.sigma.clone().requires_grad_() for side in (statistics, other))
        frechet_distance(statistics.mu, sigma1, other.mu, sigma2).backward()
        gradients.append((sigma1.grad, sigma2.grad))
    row = TOLERANCES["frechet/gradient"]
    for by_eigenvectors, by_polar in zip(*gradients, strict=True):
        torch.testing.assert_close(by_polar, by_eigenvectors, rtol=row.rtol, atol=1e-6)


def test_iterates_are_float32_where_float64_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    for capability, expected in {
        (8, 0): torch.float64, (9, 0): torch.float64, (10, 0): torch.float64,
        (7, 5): torch.float32, (8, 6): torch.float32, (8, 9): torch.float32, (10, 3): torch.float32,
        (12, 0): torch.float32,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, capability=capability: capability)
        monkeypatch.setattr(torch.version, "hip", None)
        assert polar.iterate_dtype(device) == expected
    monkeypatch.setattr(torch.version, "hip", "6.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 4))
    assert polar.iterate_dtype(device) == torch.float64
    assert polar.iterate_dtype(torch.device("cpu")) == torch.float64
    assert polar.takes_polar(device)
    assert not polar.takes_polar(torch.device("cpu"))


def test_float32_iterates_ignore_lowered_precision_and_autocast() -> None:
    m = torch.randn(64, 48, dtype=torch.float64)
    expected = polar.polar(m, dtype=torch.float32).factor
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = polar.polar(m, dtype=torch.float32).factor
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(found, expected)


def test_factors_are_copied_to_a_device_once() -> None:
    factor = factors.rows_factor(_features(5, 8, 1))
    assert factor.on(torch.device("cpu")) is factor
    moved = factor.on(torch.device("meta"))
    assert moved.matrix.device.type == "meta"
    assert factor.on(torch.device("meta")) is moved


@pytest.mark.cuda
@pytest.mark.parametrize("count", [30, 300], ids=["n below D", "n above D"])
def test_cuda_distance_is_that_of_the_cpu(count: int) -> None:
    first, second = _features(count, 96, 1), _features(400, 96, 2, 0.1)
    expected = statistics_distance(_statistics(first), _statistics(second))
    term = statistics_distance(_statistics(first.cuda()), _statistics(second))  # the reference may be elsewhere
    assert "polar quintic" in term.route
    assert abs(term.raw - expected.raw) <= term.error_bound < 1e-6
    moments = [_statistics(rows.cuda()) for rows in (first, second)]
    arguments = [value.clone().requires_grad_() for side in moments for value in (side.mu, side.sigma)]
    host = [value.detach().cpu().requires_grad_() for value in arguments]
    for values in (arguments, host):
        frechet_distance(*values).backward()
    for on_device, on_host in zip(arguments, host, strict=True):
        torch.testing.assert_close(on_device.grad.cpu(), on_host.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.cuda
def test_cuda_graph_replays_the_distance() -> None:
    moments = [value.cuda() for seed in (1, 2) for side in [_statistics(_features(300, 96, seed))]
               for value in (side.mu, side.sigma)]  # fmt: skip
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        frechet_distance(*moments, sync=False)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        bracket = frechet_distance(*moments, sync=False)
    moments[0].add_(0.5)
    graph.replay()
    expected = frechet_distance(*[value.cpu() for value in moments])
    assert float(bracket.value) == pytest.approx(float(expected), abs=_tolerance("polar/float32", float(expected)))
    assert int(bracket.status) == CERTIFIED


def test_public_names() -> None:
    assert fidfast.matrix_sqrt is fidfast.square_root.matrix_sqrt
    assert fidfast.FrechetBracket is polar_distance.FrechetBracket
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(frechet_distance(*[torch.eye(3)[0], torch.eye(3)] * 2, sync=False), fidfast.FrechetBracket)
