"""fidfast.metrics: each measure against its plain twin, in tiles that do not fit, and at the edges of its formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tolerances import TOLERANCES

from fidfast import reference_metrics as twin
from fidfast.metrics import near, rows
from fidfast.metrics.inception_score import inception_score
from fidfast.metrics.kid import kernel_distance
from fidfast.metrics.memorization import mean_nearest_cosine
from fidfast.metrics.prdc import density_coverage, prdc, precision_recall


@pytest.fixture(params=[7, 1024], autouse=True)
def _tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """Every test in tiles that leave a rest on both sides, and in one tile."""
    monkeypatch.setattr(rows, "CPU_TILE", request.param)


def features(count: int, dims: int, seed: int, offset: float = 0.0) -> np.ndarray:
    """(N, D) float32, as features are: not negative, far from their own mean's origin."""
    rng = np.random.default_rng(seed)
    return (np.abs(rng.normal(size=(count, dims))) + offset).astype(np.float32)


def close(got: Any, expected: Any, row: str) -> None:
    tolerance = TOLERANCES[row]
    np.testing.assert_allclose(got, expected, rtol=tolerance.rtol, atol=tolerance.atol)


# -- KID --------------------------------------------------------------------------------------------------------------


def drawn(m: int, n: int, subsets: int, size: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.RandomState(seed)
    return [
        (generator.choice(m, size, replace=False), generator.choice(n, size, replace=False)) for _ in range(subsets)
    ]


@pytest.mark.parametrize(
    ("options", "kernel"),
    [
        ({}, lambda x, y: twin.polynomial_kernel(x, y, 3, 1 / 12, 1.0)),
        (
            {"degree": 2, "gamma": 0.3, "coef0": 0.5},
            lambda x, y: twin.polynomial_kernel(x, y, 2, 0.3, 0.5),
        ),
        ({"kernel": "rbf", "sigma": 2.0}, lambda x, y: twin.rbf_kernel(x, y, 2.0)),
    ],
)
@pytest.mark.parametrize(("subsets", "size"), [(9, 12), (2, 5)])  # all pairs at once are cheaper, and dearer
def test_kid_is_the_twins(options: dict[str, Any], kernel: Callable[..., Any], subsets: int, size: int) -> None:
    a, b = features(23, 12, 1), features(17, 12, 2, offset=0.1)
    result = kernel_distance(a, b, subsets=subsets, subset_size=size, seed=5, **options)
    expected = [twin.squared_mmd(a[i], b[j], kernel) for i, j in drawn(23, 17, subsets, size, 5)]
    close(result.values, expected, "kid/twin")
    close([result.mean, result.std], [np.mean(expected), np.std(expected)], "kid/twin")
    assert result.subset_size == size


def test_kid_of_all_samples_is_the_twins() -> None:
    a, b = features(23, 12, 1), features(17, 12, 2)
    result = kernel_distance(torch.from_numpy(a), b, subsets=None)
    expected = twin.squared_mmd(a, b, lambda x, y: twin.polynomial_kernel(x, y, 3, 1 / 12, 1.0))
    close(result.mean, expected, "kid/twin")
    assert result.std is None
    assert result.subset_size is None


def test_kid_takes_a_draw_of_the_callers() -> None:
    a, b = features(20, 6, 1), features(15, 6, 2)
    pairs = drawn(20, 15, 4, 8, seed=3)
    indices = np.stack([i for i, _ in pairs]), np.stack([j for _, j in pairs])
    own = kernel_distance(a, b, indices=indices)
    assert np.array_equal(own.values, kernel_distance(a, b, subsets=4, subset_size=8, seed=3).values)
    assert not np.array_equal(own.values, kernel_distance(a, b, subsets=4, subset_size=8, seed=4).values)


def test_kid_is_unbiased() -> None:
    """Sets of one distribution: the mean over many is 0 within its error, where the biased estimate is far above."""
    values = [kernel_distance(features(8, 3, 2 * i), features(8, 3, 2 * i + 1), subsets=None).mean for i in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))
    assert np.min(values) < 0


# -- Inception Score --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("splits", [1, 4, [10, 3, 20]])
def test_inception_score_is_the_twins(splits: Any) -> None:
    logits = np.random.default_rng(0).normal(size=(33, 11)).astype(np.float32) * 3
    sizes = [33 * (i + 1) // splits - 33 * i // splits for i in range(splits)] if isinstance(splits, int) else splits
    plain = inception_score(logits, splits=splits, shuffle=False)
    close(plain.values, twin.inception_scores(logits, sizes), "is/twin")
    shuffled = inception_score(torch.from_numpy(logits), splits=splits, seed=8)
    order = np.random.RandomState(8).permutation(33)
    expected = twin.inception_scores(logits[order], sizes)
    close(shuffled.values, expected, "is/twin")
    close([shuffled.mean, shuffled.std], [expected.mean(), expected.std()], "is/twin")


def test_inception_score_reaches_its_bounds() -> None:
    sure = np.full((30, 10), -1e4, dtype=np.float32)
    sure[np.arange(30), np.arange(30) % 10] = 1e4  # every class as often, each image of one: probabilities are 0 and 1
    assert inception_score(sure, splits=1).mean == pytest.approx(10, rel=1e-12)
    assert inception_score(np.ones((30, 10), dtype=np.float32), splits=3).mean == pytest.approx(1, rel=1e-12)


# -- precision, recall, density, coverage -----------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "n", "dims"), [(40, 31, 3), (16, 45, 20)])
@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_neighbour_counts_are_the_twins(m: int, n: int, dims: int, neighbours: int) -> None:
    real, generated = features(m, dims, 1, offset=10.0), features(n, dims, 2, offset=10.2)
    pr = precision_recall(real, generated, neighbours=neighbours)
    assert pr == twin.precision_recall(real, generated, neighbours)
    dc = density_coverage(real, torch.from_numpy(generated), neighbours=neighbours)
    assert dc == twin.density_coverage(real, generated, neighbours)
    assert 0 < pr.precision < 1
    both = prdc(real, generated, pr_neighbours=neighbours, dc_neighbours=neighbours)
    assert tuple(both) == (*pr, *dc)
    assert prdc(real, generated) == (
        *twin.precision_recall(real, generated, 3),
        *twin.density_coverage(real, generated, 5),
    )


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_ties_are_what_the_formulas_say(offset: float) -> None:
    """Shared, repeated and copied images put distances exactly on radii, where rounding must not decide."""
    real = features(30, 8, 1, offset=offset)
    assert prdc(real, real) == (1.0, 1.0, 1.0, 1.0)
    shared = np.concatenate([real[:20], features(15, 8, 2, offset=offset)])
    repeated = np.concatenate([real, real[:1], real[:1], real[:1], real[:1], real[:1]])
    for a, b in ((real, shared), (repeated, shared), (shared, repeated), (real, real[:1].repeat(9, axis=0))):
        assert precision_recall(a, b) == twin.precision_recall(a, b, 3)
        assert density_coverage(a, b) == twin.density_coverage(a, b, 5)


def clusters(count: int, dims: int, seed: int, spread: float) -> np.ndarray:
    """Images of few kinds: float32 products say nothing of the distances within one."""
    rng = np.random.default_rng(seed)
    centres = 100 * np.random.default_rng(0).normal(size=(3, dims))
    return (centres[rng.integers(0, 3, count)] + spread * rng.normal(size=(count, dims))).astype(np.float32)


@pytest.mark.parametrize("spread", [1e-2, 0.1, 1.0])
def test_what_float32_cannot_tell_float64_does(spread: float) -> None:
    real, generated = clusters(60, 40, 1, spread), clusters(50, 40, 2, spread)
    expected = *twin.precision_recall(real, generated, 3), *twin.density_coverage(real, generated, 5)
    assert prdc(real, generated) == expected
    assert 0 < expected[0] < 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert prdc(real, generated) == expected


@pytest.mark.parametrize("make", [features, lambda *size: clusters(*size, 1.0), lambda *size: 1e5 + features(*size)])
def test_bounds_of_distances_hold_and_are_narrow(make: Callable[..., np.ndarray]) -> None:
    a, b = make(40, 500, 1), make(30, 500, 2)
    a[0] *= 1000
    shift = torch.from_numpy(a.mean(axis=0)).double()
    left, right = (near.Points(torch.from_numpy(side), shift) for side in (a, b))
    exact = torch.from_numpy(twin.squared_distances(a, b))
    lower = torch.empty_like(exact)
    for here, there, bounds in near.lower_bounds(left, right):
        assert bounds.dtype == torch.float32
        lower[here, there] = bounds.double()
    upper = lower + 2 * (left.slack[:, None] + right.slack)
    assert (lower <= exact).all() and (exact <= upper).all()
    assert (upper - lower < 2e-4 * (left.norms[:, None] + right.norms)).all()


def test_nearest_are_the_twins_where_most_distances_are_alike() -> None:
    """More neighbours at nearly one distance than are kept: float32 cannot choose among them."""
    corners = np.eye(60, dtype=np.float32) * (1 + 1e-6 * np.arange(60, dtype=np.float32))[:, None]
    found = near.nearest(near.Points(torch.from_numpy(corners), torch.zeros(60, dtype=torch.float64)), 2)
    close(found[:, 1], twin.neighbour_radii(corners, 2), "nearest/twin")


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e18, 1e36])
def test_shares_do_not_depend_on_the_scale(scale: float) -> None:
    """float32 squares of them vanish or overflow."""
    real, generated = (features(40, 6, seed).astype(np.float64) for seed in (1, 2))
    assert prdc(scale * real, scale * generated) == prdc(real, generated)


@pytest.mark.filterwarnings("error")
def test_arrays_as_files_hold_them(tmp_path: Any) -> None:
    """Mapped, read-only, of the other byte order, from the end."""
    side = features(20, 4, 1)
    expected = kernel_distance(side, side[::-1].copy(), subsets=None)
    np.save(tmp_path / "side.npy", side.astype(">f4"))
    for given in (np.load(tmp_path / "side.npy", mmap_mode="r"), np.load(tmp_path / "side.npy")):
        assert kernel_distance(given, side[::-1], subsets=None).mean == expected.mean


def test_features_of_half_precision_are_numbers_like_others() -> None:
    real, generated = (features(40, 6, seed, offset=3).astype(np.float16) for seed in (1, 2))
    expected = *twin.precision_recall(real, generated, 3), *twin.density_coverage(real, generated, 5)
    assert prdc(real, generated) == expected
    wide = [side.astype(np.float64) for side in (real, generated)]
    assert kernel_distance(real, generated, subsets=None).mean == kernel_distance(*wide, subsets=None).mean


def test_sets_apart_have_nothing_in_common() -> None:
    assert prdc(features(20, 4, 1), features(20, 4, 2, offset=50)) == (0, 0, 0, 0)


def test_dropped_modes_cost_recall_and_coverage_alone() -> None:
    rng = np.random.default_rng(0)
    modes = np.array([[0.0, 0.0], [100.0, 0.0]])
    real = modes[rng.integers(0, 2, 200)] + rng.normal(size=(200, 2))
    result = prdc(real, modes[:1] + rng.normal(size=(200, 2)))
    share = (real[:, 0] < 50).mean()
    assert result.precision > 0.85
    assert result.recall == pytest.approx(share, abs=0.1)
    assert result.coverage == pytest.approx(share, abs=0.1)
    assert result.density == pytest.approx(1, abs=0.2)  # of those there are


# -- memorisation -----------------------------------------------------------------------------------------------------


def test_mean_nearest_cosine_is_the_twins() -> None:
    a, b = features(19, 5, 1), features(23, 5, 2)
    a[3] = 0  # a row that sums to 0 has no direction
    close(mean_nearest_cosine(a, b), twin.mean_nearest_cosine(a, b), "cosine/twin")
    assert mean_nearest_cosine(a, -2 * a) == pytest.approx(0, abs=1e-15)


# -- refusals ---------------------------------------------------------------------------------------------------------

GOOD = features(8, 4, 0)
BAD = GOOD.copy()
BAD[5, 1] = np.nan


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kernel_distance(GOOD, BAD), ValueError, "features_b: .*finite.* row 5"),
        (lambda: kernel_distance(GOOD, GOOD[:, :3]), ValueError, r"features_b: expected \(N, 4\).*\(8, 3\)"),
        (lambda: kernel_distance(GOOD.astype(int), GOOD), TypeError, "features_a: .*floating-point.*int64"),
        (lambda: kernel_distance(GOOD[0], GOOD), ValueError, r"features_a: .*\(N, D\).*\(4,\)"),
        (lambda: kernel_distance(GOOD[:1], GOOD), ValueError, "features_a: expected at least 2 rows, got 1"),
        (lambda: kernel_distance(GOOD, GOOD), ValueError, "subset_size: expected 2 to 8.* got 1000"),
        (lambda: kernel_distance(GOOD, GOOD, subsets=0, subset_size=4), ValueError, "subsets: .*at least 1.* got 0"),
        (lambda: kernel_distance(GOOD, GOOD, kernel="linear"), ValueError, "kernel: .*polynomial.*got 'linear'"),
        (lambda: kernel_distance(GOOD, GOOD, kernel="rbf", sigma=0.0), ValueError, "sigma: .*got 0"),
        (lambda: kernel_distance(GOOD, GOOD, indices=([[0, 8]], [[0, 1]])), ValueError, "indices: .*0 to 7.*to 8"),
        (lambda: kernel_distance(GOOD, GOOD, indices=([[0, 0]], [[0, 1]])), ValueError, "indices: .*once.*twice"),
        (lambda: kernel_distance(GOOD, GOOD, indices=([[0, 1]], [[0, 1, 2]])), ValueError, "indices: .*one shape"),
        (lambda: kernel_distance(GOOD, GOOD, indices=([[0.5, 1]], [[0, 1]])), ValueError, "indices: .*float64"),
        (lambda: inception_score(GOOD, splits=9), ValueError, "splits: expected 1 to 8.*got 9"),
        (lambda: inception_score(GOOD, splits=[4, 3]), ValueError, r"splits: .*add up to 8.*\[4, 3\]"),
        (lambda: inception_score(BAD), ValueError, "logits: .*row 5"),
        (lambda: precision_recall(GOOD, GOOD[:3]), ValueError, "generated: 3 neighbours need at least 4.*got 3"),
        (lambda: density_coverage(GOOD[:5], GOOD), ValueError, "real: 5 neighbours need at least 6.*got 5"),
        (lambda: precision_recall(GOOD, GOOD, neighbours=0), ValueError, "neighbours: .*at least 1, got 0"),
        (lambda: mean_nearest_cosine(0 * GOOD, GOOD), ValueError, "features_a: .*sum to 0"),
    ],
)
def test_refusals_say_what_was_expected(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_density_needs_one_generated_sample_only() -> None:
    """Its balls are about the real samples."""
    assert density_coverage(GOOD, GOOD[:1]) == twin.density_coverage(GOOD, GOOD[:1], 5)


def test_memory_grows_with_n_not_with_its_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor of these measures takes more bytes than the float32 rows: no pairs, and no float64 copy of the rows."""
    monkeypatch.setattr(rows, "CPU_TILE", 32)
    largest = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.untyped_storage().nbytes())
            return result

    a, b = torch.from_numpy(features(600, 64, 1)), torch.from_numpy(features(500, 64, 2))
    with Watch():
        prdc(a, b)
        kernel_distance(a, b, subsets=3, subset_size=200)
        kernel_distance(a, b, subsets=None)
        mean_nearest_cosine(a, b)
    assert 32 * 32 * 8 <= largest <= 600 * 64 * 4
