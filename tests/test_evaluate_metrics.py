"""fidfast.evaluate: several measures from one pass, equal to those of the features themselves; compute_features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_evaluate import make_images, moments
from test_inception import random_state
from torch import Tensor

import fidfast
from fidfast import evaluation, features, weights
from fidfast.features import CallableExtractor
from fidfast.inception import TAPS
from fidfast.kept_features import KeptRows
from fidfast.metrics.inception_score import inception_score
from fidfast.metrics.kid import kernel_distance
from fidfast.metrics.prdc import prdc
from fidfast.weights import FinalLayerError


def images(count: int, seed: int) -> Tensor:  # (N, 3, 40, 40) uint8
    return torch.from_numpy(make_images(count, seed=seed)).permute(0, 3, 1, 2)


def rows_of(batch: Tensor) -> Tensor:  # (N, 8) float32
    """In the chunks of an evaluation: torch's sums over a batch of another size differ in the last bit."""
    return CallableExtractor(moments)(batch)


def distance(a: Tensor, b: Tensor) -> float:
    """The Fréchet distance of few rows: tr (Σ1 Σ2)^½ is the sum of the singular values of A Bᵀ, rows centred."""
    a, b = a.double(), b.double()
    left, right = ((rows - rows.mean(0)) / (len(rows) - 1) ** 0.5 for rows in (a, b))
    root = float(torch.linalg.svdvals(left @ right.T).sum())
    return float((a.mean(0) - b.mean(0)).square().sum() + left.square().sum() + right.square().sum()) - 2 * root


def measured(real: Any, generated: Any, metrics: list[str], **options: Any) -> fidfast.EvaluationResult:
    return fidfast.evaluate(
        real, generated, metrics=metrics, **{"feature_extractor": moments, "progress": False, **options}
    )


# -- with features of the caller's own --------------------------------------------------------------------------------


def test_each_measure_is_that_of_the_features() -> None:
    real, generated = images(43, 1), images(37, 2)
    calls: list[int] = []

    def extractor(chunk: Tensor) -> Tensor:
        calls.append(len(chunk))
        return moments(chunk)

    result = measured(
        real, generated, ["prdc", "fid", "kid"], feature_extractor=extractor, kid_subsets=6, kid_subset_size=20, seed=3
    )
    assert sum(calls) == 8 * -(-43 // 8) + 8 * -(-37 // 8)  # every image once, in whole chunks
    a, b = rows_of(real), rows_of(generated)
    assert list(result) == ["prdc", "fid", "kid"]
    assert result["prdc"] == prdc(a, b)
    expected = kernel_distance(b, a, subsets=6, subset_size=20, seed=3)
    assert np.array_equal(result["kid"].values, expected.values)
    assert (result["kid"].mean, result["kid"].std) == (expected.mean, expected.std)
    assert float(result["fid"]) == float(fidfast.compute_fid(real, generated, feature_extractor=moments))
    assert (result.num_real, result.num_generated) == (43, 37)
    assert {"network", "kid", "prdc"} <= set(result.seconds)


def test_options_reach_their_measures() -> None:
    real, generated = images(43, 1), images(37, 2)
    result = measured(real, generated, ["prdc", "kid"], pr_neighbours=1, dc_neighbours=2, kid_subsets=None)
    a, b = rows_of(real), rows_of(generated)
    assert result["prdc"] == prdc(a, b, pr_neighbours=1, dc_neighbours=2) != prdc(a, b)
    assert result["kid"] == (kernel_distance(b, a, subsets=None).mean, None, result["kid"].values, None)


def test_a_small_side_makes_small_subsets_and_says_so() -> None:
    real, generated = images(43, 1), images(37, 2)
    with pytest.warns(fidfast.FidfastWarning, match="kid: subsets of 37 images.* not 1000") as caught:
        result = measured(real, generated, ["kid"])
    assert result["kid"].subset_size == 37
    assert any("subsets of 37" in note for note in result.notes)
    assert caught[0].filename == __file__  # not a line of the library


def test_results_as_json_and_for_loggers() -> None:
    result = measured(images(43, 1), images(37, 2), ["fid", "kid", "prdc"], kid_subset_size=20)
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain["fid"]["fid"] == float(result["fid"])
    assert plain["kid"]["values"] == result["kid"].values.tolist()
    assert plain["prdc"]["recall"] == result["prdc"].recall
    names = ["fid", "kid_mean", "kid_std", "precision", "recall", "density", "coverage"]
    assert list(result.scalars()) == names
    assert all(type(value) is float for value in result.scalars().values())
    assert f"kid_mean={result['kid'].mean:.6g}" in repr(result)


@pytest.mark.parametrize(
    ("metrics", "options", "message"),
    [
        (["fid", "mind"], {}, r"metrics: expected a list of fid, kid.*got \['fid', 'mind'\]"),
        ("fid", {}, "metrics: expected a list.*got 'fid'"),
        ([], {}, "metrics: expected a list"),
        (["is", "fid"], {}, "metrics: for is the FID Inception network.*feature_extractor"),
        (["sfid"], {}, "metrics: for sfid the FID Inception network"),
        (["kid"], {"kid_subset_size": 1}, "kid_subset_size: .*at least 2, got 1"),
        (["kid"], {"max_features": 1}, "max_features: .*at least 2, got 1"),
        (["prdc"], {"pr_neighbours": 0}, "pr_neighbours: .*at least 1, got 0"),
        (["is"], {"splits": 0}, "splits: .*at least 1, got 0"),
        (["is"], {"splits": []}, r"splits: expected a whole number or a list of sizes, got \[\]"),
        (["is"], {"splits": "10"}, "splits: expected a whole number or a list of sizes, got '10'"),
        (["is"], {"splits": 2.5}, "splits: expected a whole number or a list of sizes, got 2.5"),
        (["kid"], {"seed": -1}, "seed: .*at least 0, got -1"),
        (["kid"], {"seed": None}, "seed: .*whole number.*got None"),
        (["kid"], {"seed": 2**32}, r"seed: expected less than 2\*\*32.*got 4294967296"),
    ],
)
def test_refusals_come_before_any_image(metrics: Any, options: dict[str, Any], message: str) -> None:
    def never() -> Any:
        raise AssertionError("an image was read")
        yield

    if options.get("splits") is not None:
        options = {**options, "feature_extractor": None}
    with pytest.raises(ValueError, match=message):
        measured(never(), never(), metrics, **options)


@pytest.mark.parametrize(
    ("metrics", "counts", "options", "message"),
    [
        (["fid", "prdc"], (5, 20), {}, "real: 5 neighbours need at least 6 samples, got 5"),
        (["prdc"], (20, 3), {}, "generated: 3 neighbours need at least 4 samples, got 3"),
        (["prdc"], (20, 20), {"max_features": 4}, "real: 5 neighbours need at least 6 samples, got 4"),
        (["fid", "is"], (5, 9), {}, "splits: expected 1 to 9, the number of images, got 10"),
        (["is"], (5, 9), {"splits": [5, 5]}, r"splits: .*add up to 9 images, got \[5, 5\]"),
    ],
)
def test_too_few_images_are_refused_before_any_is_read(
    metrics: list[str], counts: tuple[int, int], options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("weights or images were read")

    monkeypatch.setattr(evaluation, "resolve_extractor", never)
    with pytest.raises(ValueError, match=message):
        measured(images(counts[0], 1), images(counts[1], 2), metrics, feature_extractor=None, **options)


def test_metrics_may_come_from_a_generator() -> None:
    result = measured(images(9, 1), images(8, 2), (metric for metric in ("fid", "prdc")))  # type: ignore[arg-type]
    assert list(result) == ["fid", "prdc"]


def test_an_extractor_may_fill_one_buffer_again_and_again() -> None:
    buffer = torch.empty(8, 8)

    def into_buffer(chunk: Tensor) -> Tensor:
        return buffer.copy_(moments(chunk))

    batch = images(21, 1)
    found = fidfast.compute_features(batch, feature_extractor=into_buffer, progress=False)
    assert torch.equal(found["features"], rows_of(batch))


def test_statistics_serve_fid_alone(tmp_path: Path) -> None:
    real, generated = images(20, 1), images(20, 2)
    statistics = fidfast.compute_statistics(real, feature_extractor=moments, progress=False)
    statistics.save(tmp_path / "real.npz")
    assert float(measured(statistics, generated, ["fid"])["fid"]) > 0
    for given in (statistics, tmp_path / "real.npz"):
        with pytest.raises(ValueError, match="real: kid, prdc need every image's features.*got statistics"):
            measured(given, generated, ["fid", "kid", "prdc"])
        with pytest.raises(ValueError, match="generated: kid need"):
            measured(real, given, ["kid"])


def test_neighbours_need_enough_images() -> None:
    with pytest.raises(ValueError, match="generated: 3 neighbours need at least 4 samples, got 3"):
        measured(images(9, 1), images(3, 2), ["prdc"])


# -- the rows that are kept -------------------------------------------------------------------------------------------


def kept(cap: int | None, count: int, batch: int, seed: int = 0, order: Any = None) -> list[int]:
    """Which indices stay; the feature of index i is i."""
    found = KeptRows(cap, seed)
    places = np.arange(count) if order is None else order
    for start in range(0, count, batch):
        part = places[start : start + batch]
        found.add(torch.from_numpy(part).float()[:, None], part)
    return found.all_ranks(fidfast.distributed.Ranks(alone=True)).flatten().int().tolist()


def test_rows_come_in_the_order_of_their_indices() -> None:
    order = np.random.default_rng(0).permutation(50)
    assert kept(None, 50, 7) == list(range(50)) == kept(None, 50, 9, order=order)
    order = np.random.default_rng(0).permutation(2500)  # more than a block
    assert kept(None, 2500, 7) == list(range(2500)) == kept(None, 2500, 90, order=order)


def test_a_capped_sample_depends_on_the_seed_alone() -> None:
    first = kept(20, 500, 7)
    assert len(first) == 20 and first == sorted(set(first))
    order = np.random.default_rng(0).permutation(500)
    assert first == kept(20, 500, 64) == kept(20, 500, 500) == kept(20, 500, 3, order=order)
    assert first != kept(20, 500, 7, seed=1)
    assert kept(1500, 5000, 7) == kept(1500, 5000, 640, order=np.random.default_rng(1).permutation(5000))
    assert kept(20, 15, 7) == list(range(15))


def test_a_capped_sample_is_uniform() -> None:
    counts = np.zeros(40)
    for seed in range(600):
        counts[kept(10, 40, 13, seed=seed)] += 1
    expected = 600 / 4
    chi_squared = float(((counts - expected) ** 2 / (expected * 0.75)).sum())
    assert chi_squared < 39 + 5 * np.sqrt(2 * 39)  # 39 degrees of freedom


def test_a_cap_reaches_the_measures() -> None:
    real, generated = images(43, 1), images(37, 2)
    result = measured(real, generated, ["prdc", "kid"], max_features=30, seed=4, kid_subset_size=10)
    a, b = rows_of(real)[kept(30, 43, 8, seed=4)], rows_of(generated)[kept(30, 37, 8, seed=4)]
    assert result["prdc"] == prdc(a, b)
    assert np.array_equal(result["kid"].values, kernel_distance(b, a, subset_size=10, seed=4).values)
    assert (result.num_real, result.num_generated) == (43, 37)


# -- the network's taps -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_state()


@pytest.fixture
def _random_weights(state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "open_weights", lambda path, **options: (Path("random"), state))


@pytest.mark.usefixtures("_random_weights")
def test_all_measures_from_one_run_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = images(8, 1), images(7, 2)
    runs: list[int] = []
    network = features.FeatureExtractor.network
    monkeypatch.setattr(
        features.FeatureExtractor, "network", lambda self, x: (runs.append(len(x)), network(self, x))[1]
    )
    metrics = ["fid", "kid", "is", "sfid", "prdc"]
    result = measured(real, generated, metrics, feature_extractor=None, kid_subset_size=6, splits=2, seed=5)
    assert sum(runs) == 15
    extractor = features.FeatureExtractor(taps=["2048", "spatial", "logits_unbiased"])
    a, b = extractor.taps(real), extractor.taps(generated)
    assert np.array_equal(result["kid"].values, kernel_distance(b["2048"], a["2048"], subset_size=6, seed=5).values)
    assert result["prdc"] == prdc(a["2048"], b["2048"])
    expected = inception_score(b["logits_unbiased"], splits=2, seed=5)
    assert np.array_equal(result["is"].values, expected.values)
    for metric, tap in (("fid", "2048"), ("sfid", "spatial")):
        assert float(result[metric]) == pytest.approx(distance(a[tap], b[tap]), rel=1e-7)
    assert list(result.scalars())[:6] == ["fid", "kid_mean", "kid_std", "is_mean", "is_std", "sfid"]


@pytest.mark.usefixtures("_random_weights")
def test_the_inception_score_needs_no_real_side() -> None:
    result = measured(None, images(9, 2), ["is"], feature_extractor=None, splits=2)
    assert result.num_real is None
    assert result["is"].mean > 1


@pytest.mark.usefixtures("_random_weights")
def test_an_extractor_of_the_callers_must_have_the_taps() -> None:
    extractor = features.FeatureExtractor(taps=["64", "192"])
    result = measured(images(9, 1), images(8, 2), ["fid"], feature_extractor=extractor, feature_dim=192)
    assert result["fid"].feature_dim == 192
    with pytest.raises(ValueError, match="feature_extractor: expected one with the taps 2048, spatial for fid, sfid"):
        measured(images(9, 1), images(8, 2), ["fid", "sfid"], feature_extractor=extractor)


@pytest.mark.usefixtures("_random_weights")
def test_statistics_are_of_one_tap_of_an_extractor_of_several() -> None:
    """Beside each other, as the network gives them, they would be the statistics of nothing."""
    extractor = features.FeatureExtractor(taps=["64", "192"])
    batch = images(9, 1)
    statistics = fidfast.compute_statistics(batch, feature_extractor=extractor, feature_dim=192, progress=False)
    expected = extractor.taps(batch)["192"].double()
    torch.testing.assert_close(statistics.mu, expected.mean(dim=0))
    with pytest.raises(ValueError, match="feature_extractor: expected one with the taps 2048 for fid"):
        fidfast.compute_statistics(batch, feature_extractor=extractor, progress=False)
    metric = fidfast.FID(batch, feature_extractor=extractor)
    with pytest.raises(ValueError, match="feature_extractor: expected one of a single tap.* of 64, 192"):
        metric.update(batch)


@pytest.mark.usefixtures("_random_weights")
def test_compute_features_gives_every_tap_in_order() -> None:
    batch = images(11, 3)
    found = fidfast.compute_features(batch, taps=["192", "64"], progress=False)
    assert {name: tuple(part.shape) for name, part in found.items()} == {"192": (11, 192), "64": (11, 64)}
    assert torch.equal(found["64"], features.FeatureExtractor(64)(batch))
    extractor = features.FeatureExtractor(taps=["64", "192"])
    again = fidfast.compute_features(batch[:1], feature_extractor=extractor, progress=False)
    assert torch.equal(again["192"], found["192"][:1])
    own = fidfast.compute_features(batch, feature_extractor=moments, progress=False)
    assert torch.equal(own["features"], rows_of(batch))
    with pytest.raises(ValueError, match="taps: expected different ones of 64"):
        fidfast.compute_features(batch, taps=["63"], progress=False)


@pytest.mark.weights
def test_weights_without_the_final_layer_are_refused_before_any_image(weights_path: Path) -> None:
    state = weights.load_weights(weights_path)
    if "fc.weight" in state:
        pytest.skip("these weights have the final layer")

    def never() -> Any:
        raise AssertionError("an image was read")
        yield

    with pytest.raises(FinalLayerError, match="has no final layer.*Inception Score"):
        measured(never(), never(), ["fid", "is"], feature_extractor=None, weights=weights_path)


@pytest.mark.weights
def test_weights_with_a_final_layer_give_the_same_features(weights_path: Path, tmp_path: Path) -> None:
    """The identity ignores it; what it makes of the features is a product with them."""
    state = weights.load_weights(weights_path)
    generator = torch.Generator().manual_seed(0)
    fc = torch.randn(1008, 2048, generator=generator) / 20
    torch.save({**state, "fc.weight": fc, "fc.bias": torch.ones(1008)}, tmp_path / "with-fc.pth")
    batch = images(5, 3)
    taps = fidfast.compute_features(
        batch, taps=["2048", "logits", "logits_unbiased"], weights=tmp_path / "with-fc.pth", progress=False
    )
    assert torch.equal(taps["2048"], features.FeatureExtractor(weights=weights_path)(batch))
    expected = taps["2048"].double() @ fc.double().T
    torch.testing.assert_close(taps["logits_unbiased"].double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(taps["logits"].double(), expected + 1, rtol=0, atol=1e-5)


def test_taps_have_the_widths_they_say() -> None:
    assert {name: width for name, (_, width) in TAPS.items()} == {
        **{"64": 64, "192": 192, "768": 768, "2048": 2048},
        **{"spatial": 2023, "logits_unbiased": 1008, "logits": 1008},
    }
