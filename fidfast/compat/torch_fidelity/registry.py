"""The names that :func:`calculate_metrics` knows: inputs, networks, noise, interpolations, similarities."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from fidfast.compat.torch_fidelity.datasets import torchvision_dataset
from fidfast.compat.torch_fidelity.feature_extractor_base import FeatureExtractorBase
from fidfast.compat.torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from fidfast.compat.torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16
from fidfast.compat.torch_fidelity.helpers import vassert
from fidfast.compat.torch_fidelity.noise import (
    batch_lerp,
    batch_slerp_any,
    batch_slerp_unit,
    random_normal,
    random_uniform_0_1,
    random_unit,
)
from fidfast.compat.torch_fidelity.sample_similarity_base import SampleSimilarityBase

DATASETS_REGISTRY: dict[str, Callable[..., Any]] = {}
FEATURE_EXTRACTORS_REGISTRY: dict[str, type[FeatureExtractorBase]] = {}
SAMPLE_SIMILARITY_REGISTRY: dict[str, type[SampleSimilarityBase]] = {}
NOISE_SOURCE_REGISTRY: dict[str, Callable[..., Any]] = {}
INTERPOLATION_REGISTRY: dict[str, Callable[..., Any]] = {}


def _check_name(kind: str, name: Any, registry: dict[str, Any]) -> None:
    vassert(type(name) is str, f"{kind}: expected a string as its name, got {type(name).__name__}")
    vassert(name.strip() == name, f"{kind}: expected a name without blanks around it, got {name!r}")
    vassert(os.path.sep not in name, f"{kind}: expected a name without path delimiters, got {name!r}")
    vassert(name not in registry, f"{kind} {name!r} is already registered")


def register_dataset(name: str, fn_create: Callable[[str, bool], Any]) -> None:
    """An input by name; ``fn_create(root, download)`` makes the Dataset of uint8 images (3, H, W).

    Other images too, for a network of one's own (:func:`register_feature_extractor`).
    """
    _check_name("dataset", name, DATASETS_REGISTRY)
    vassert(callable(fn_create), f"dataset {name!r}: expected a callable (root, download), got {fn_create!r}")
    DATASETS_REGISTRY[name] = fn_create


def register_feature_extractor(name: str, cls: type[FeatureExtractorBase]) -> None:
    """A network by name: a subclass of :class:`FeatureExtractorBase`."""
    _check_name("feature extractor", name, FEATURE_EXTRACTORS_REGISTRY)
    vassert(
        isinstance(cls, type) and issubclass(cls, FeatureExtractorBase),
        f"feature extractor {name!r}: expected a subclass of FeatureExtractorBase, got {cls!r}",
    )
    FEATURE_EXTRACTORS_REGISTRY[name] = cls


def register_sample_similarity(name: str, cls: type[SampleSimilarityBase]) -> None:
    """A similarity by name: a subclass of :class:`SampleSimilarityBase`."""
    _check_name("sample similarity", name, SAMPLE_SIMILARITY_REGISTRY)
    vassert(
        isinstance(cls, type) and issubclass(cls, SampleSimilarityBase),
        f"sample similarity {name!r}: expected a subclass of SampleSimilarityBase, got {cls!r}",
    )
    SAMPLE_SIMILARITY_REGISTRY[name] = cls


def register_noise_source(name: str, fn_generate: Callable[..., Any]) -> None:
    """Noise by name: ``fn_generate(rng, shape)``, rng a numpy RandomState, gives a float32 tensor of that shape."""
    _check_name("noise source", name, NOISE_SOURCE_REGISTRY)
    vassert(callable(fn_generate), f"noise source {name!r}: expected a callable (rng, shape), got {fn_generate!r}")
    NOISE_SOURCE_REGISTRY[name] = fn_generate


def register_interpolation(name: str, fn_interpolate: Callable[..., Any]) -> None:
    """An interpolation by name: ``fn_interpolate(a, b, t)`` of two batches, t in [0, 1]."""
    _check_name("interpolation", name, INTERPOLATION_REGISTRY)
    vassert(callable(fn_interpolate), f"interpolation {name!r}: expected a callable (a, b, t), got {fn_interpolate!r}")
    INTERPOLATION_REGISTRY[name] = fn_interpolate


for _name, _class, _options in (
    ("cifar10-train", "CIFAR10", {"train": True}),
    ("cifar10-val", "CIFAR10", {"train": False}),
    ("cifar100-train", "CIFAR100", {"train": True}),
    ("cifar100-val", "CIFAR100", {"train": False}),
    ("stl10-train", "STL10", {"split": "train"}),
    ("stl10-test", "STL10", {"split": "test"}),
    ("stl10-unlabeled", "STL10", {"split": "unlabeled"}),
):
    register_dataset(_name, partial(torchvision_dataset, _class, _options))

register_feature_extractor("inception-v3-compat", FeatureExtractorInceptionV3)
register_feature_extractor("vgg16", FeatureExtractorVGG16)

register_noise_source("normal", random_normal)
register_noise_source("unit", random_unit)
register_noise_source("uniform_0_1", random_uniform_0_1)

register_interpolation("lerp", batch_lerp)
register_interpolation("slerp_any", batch_slerp_any)
register_interpolation("slerp_unit", batch_slerp_unit)
