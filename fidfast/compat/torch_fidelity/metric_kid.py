"""The Kernel Inception Distance under torch-fidelity's names."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fidfast.compat.torch_fidelity.helpers import get_kwarg, vassert
from fidfast.compat.torch_fidelity.utils import (
    create_feature_extractor,
    extract_featuresdict_from_input_id_cached,
    resolve_feature_extractor,
    resolve_feature_layer_for_metric,
)
from fidfast.metrics.kid import kernel_distance

KEY_METRIC_KID_MEAN = "kernel_inception_distance_mean"
KEY_METRIC_KID_STD = "kernel_inception_distance_std"
_KERNELS: dict[str, str] = {"poly": "polynomial", "rbf": "rbf"}


def kid_features_to_metric(features_1: Tensor, features_2: Tensor, **kwargs: Any) -> dict[str, float]:  # (N, D) each
    """Over the subsets that torch-fidelity would draw for the same ``rng_seed``."""
    size, kernel = get_kwarg("kid_subset_size", kwargs), get_kwarg("kid_kernel", kwargs)
    vassert(kernel in _KERNELS, f"kid_kernel: expected one of {', '.join(_KERNELS)}, got {kernel!r}")
    for number, features in enumerate((features_1, features_2), 1):
        vassert(
            len(features) >= size,
            f"kid_subset_size: expected at most {len(features)}, the number of samples in input{number}, got {size}",
        )
    distance = kernel_distance(
        features_1,
        features_2,
        subsets=get_kwarg("kid_subsets", kwargs),
        subset_size=size,
        kernel=_KERNELS[kernel],
        degree=get_kwarg("kid_kernel_poly_degree", kwargs),
        gamma=get_kwarg("kid_kernel_poly_gamma", kwargs),
        coef0=get_kwarg("kid_kernel_poly_coef0", kwargs),
        sigma=get_kwarg("kid_kernel_rbf_sigma", kwargs),
        seed=get_kwarg("rng_seed", kwargs),
    )
    return {KEY_METRIC_KID_MEAN: distance.mean, KEY_METRIC_KID_STD: float(distance.values.std())}


def kid_featuresdict_to_metric(
    featuresdict_1: dict[str, Tensor], featuresdict_2: dict[str, Tensor], feat_layer_name: str, **kwargs: Any
) -> dict[str, float]:
    return kid_features_to_metric(featuresdict_1[feat_layer_name], featuresdict_2[feat_layer_name], **kwargs)


def calculate_kid(**kwargs: Any) -> dict[str, float]:
    """KID alone, of the keywords of ``calculate_metrics``."""
    kwargs["kid"] = True
    layer = resolve_feature_layer_for_metric("kid", **kwargs)
    extractor = create_feature_extractor(resolve_feature_extractor(**kwargs), [layer], **kwargs)
    first, second = (extract_featuresdict_from_input_id_cached(number, extractor, **kwargs) for number in (1, 2))
    return kid_featuresdict_to_metric(first, second, layer, **kwargs)
