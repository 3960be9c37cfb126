"""KID, Inception Score, precision and recall beside torch-fidelity's and torchmetrics': same features, same images."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_measures import features
from test_peers import assert_same_fid, image_sets
from tolerances import TOLERANCES

import fidfast
from fidfast.inception import TAPS
from fidfast.metrics.inception_score import inception_score
from fidfast.metrics.kid import kernel_distance
from fidfast.metrics.memorization import mean_nearest_cosine
from fidfast.metrics.prdc import precision_recall
from fidfast.weights import load_weights

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("torch_fidelity", "torchmetrics")),
        reason="torch_fidelity and torchmetrics are not installed here: see benchmarks/README.md",
    ),
]


def same(got: Any, theirs: Any) -> None:
    tolerance = TOLERANCES["measures/peer"]
    np.testing.assert_allclose(got, theirs, rtol=tolerance.rtol, atol=tolerance.atol)


@pytest.fixture(scope="module")
def sides() -> tuple[np.ndarray, np.ndarray]:
    """Features as large as Inception's, 0.4 on average."""
    return 0.5 * features(230, 64, 1), 0.5 * features(210, 64, 2, offset=0.05)


@pytest.mark.parametrize("options", [{}, {"kid_kernel": "rbf"}, {"kid_kernel_poly_degree": 2, "rng_seed": 7}])
def test_kid_of_torch_fidelity(sides: tuple[np.ndarray, np.ndarray], options: dict[str, Any]) -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    first, second = map(torch.from_numpy, sides)
    theirs = kid_features_to_metric(first, second, kid_subsets=12, kid_subset_size=100, verbose=False, **options)
    ours = kernel_distance(
        first,
        second,
        subsets=12,
        subset_size=100,
        kernel="rbf" if "kid_kernel" in options else "polynomial",
        degree=options.get("kid_kernel_poly_degree", 3),
        seed=options.get("rng_seed", 2020),
    )
    same([ours.mean, ours.std], list(theirs.values()))


def test_kid_of_torchmetrics(sides: tuple[np.ndarray, np.ndarray]) -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    first, second = map(torch.from_numpy, sides)
    metric = KernelInceptionDistance(torch.nn.Identity(), subsets=12, subset_size=100)
    metric.update(first, real=True)
    metric.update(second, real=False)
    torch.manual_seed(3)
    theirs = [float(value) for value in metric.compute()]
    torch.manual_seed(3)
    drawn = [torch.randperm(len(side))[:100].numpy() for _ in range(12) for side in sides]
    ours = kernel_distance(first, second, indices=(np.stack(drawn[::2]), np.stack(drawn[1::2])))
    same([ours.mean, ours.std], theirs)


def test_inception_score_of_torch_fidelity_and_torchmetrics() -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torchmetrics.image.inception import InceptionScore

    logits = torch.randn(107, 50, generator=torch.Generator().manual_seed(1)) * 3
    theirs = isc_features_to_metric(logits)
    ours = inception_score(logits)
    same([ours.mean, ours.std], list(theirs.values()))

    metric = InceptionScore(torch.nn.Identity(), splits=4)
    metric.update(logits)
    torch.manual_seed(3)
    mean, deviation = (float(value) for value in metric.compute())
    torch.manual_seed(3)
    shuffled = logits[torch.randperm(107)]
    ours = inception_score(shuffled, splits=[len(part) for part in shuffled.chunk(4)], shuffle=False)
    same([ours.mean, ours.values.std(ddof=1)], [mean, deviation])


@pytest.mark.parametrize("neighbours", [1, 3])
def test_precision_and_recall_of_torch_fidelity(neighbours: int) -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    real, generated = (torch.from_numpy(features(150, 8, seed, offset=0.1 * seed)) for seed in (1, 2))
    theirs = prc_features_to_metric(generated, real, prc_neighborhood=neighbours, verbose=False)
    ours = precision_recall(real, generated, neighbours=neighbours)
    assert 0 < ours.precision < 1
    same(ours, [theirs["precision"], theirs["recall"]])


def test_cosine_distance_of_torchmetrics(sides: tuple[np.ndarray, np.ndarray]) -> None:
    from torchmetrics.image.mifid import _compute_cosine_distance

    theirs = _compute_cosine_distance(*map(torch.from_numpy, sides), cosine_distance_eps=1.0)
    same(mean_nearest_cosine(*sides), float(theirs))


@pytest.fixture(scope="module")
def weights_with_logits(weights_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real weights and a final layer of random numbers: its own is not in the package that has the others."""
    generator = torch.Generator().manual_seed(0)
    final = {"fc.weight": torch.randn(1008, 2048, generator=generator) / 8, "fc.bias": torch.randn(1008)}
    path = tmp_path_factory.mktemp("weights") / "with-fc.pth"
    torch.save({**load_weights(weights_path), **final}, path)
    return path


def test_all_measures_of_torch_fidelity_on_images(weights_with_logits: Path) -> None:
    """One call of theirs and one of ours, on photographs: input1 is the generated side."""
    import torch_fidelity

    real, generated = image_sets("photographs", 24, 64)
    theirs = torch_fidelity.calculate_metrics(
        input1=generated,
        input2=real,
        **dict.fromkeys(("isc", "fid", "kid", "prc"), True),
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights_with_logits),
        kid_subsets=10,
        kid_subset_size=20,
        isc_splits=3,
        cuda=False,
        cache=False,
        verbose=False,
    )
    ours = fidfast.evaluate(
        real,
        generated,
        metrics=["fid", "kid", "is", "prdc"],
        preset="tensorflow",
        weights=weights_with_logits,
        kid_subsets=10,
        kid_subset_size=20,
        splits=3,
        progress=False,
    )
    assert_same_fid(float(ours["fid"]), theirs["frechet_inception_distance"], "torch-fidelity")
    same(
        [ours["kid"].mean, ours["kid"].std, ours["is"].mean, ours["is"].std, *ours["prdc"][:2]],
        [
            theirs["kernel_inception_distance_mean"],
            theirs["kernel_inception_distance_std"],
            theirs["inception_score_mean"],
            theirs["inception_score_std"],
            theirs["precision"],
            theirs["recall"],
        ],
    )


def test_every_tap_of_torch_fidelitys_network(weights_with_logits: Path) -> None:
    """And the first channels of its Mixed_6d, which is mixed_6/conv of TensorFlow's graph, for sFID."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    names = [name for name in TAPS if name != "spatial"]
    network = FeatureExtractorInceptionV3("inception-v3-compat", names, str(weights_with_logits)).eval()
    seen: list[torch.Tensor] = []
    network.Mixed_6d.register_forward_hook(lambda module, inputs, output: seen.append(output))
    images = torch.randint(0, 256, (3, 3, 70, 90), dtype=torch.uint8)
    with torch.no_grad():
        theirs = dict(zip(names, network(images), strict=True))
    theirs["spatial"] = seen[0][:, :7].permute(0, 2, 3, 1).reshape(3, -1)
    ours = fidfast.compute_features(
        images, taps=list(TAPS), preset="tensorflow", weights=weights_with_logits, progress=False
    )
    tolerance = TOLERANCES["taps/peer"]
    for name, expected in theirs.items():
        scale = float(expected.abs().max())
        torch.testing.assert_close(ours[name], expected, rtol=tolerance.rtol, atol=tolerance.atol * scale)
