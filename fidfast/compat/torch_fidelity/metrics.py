"""``calculate_metrics``: torch-fidelity's one function."""

from __future__ import annotations

import warnings
from typing import Any

import fidfast
from fidfast.compat.reference import load_reference
from fidfast.compat.torch_fidelity.defaults import DEFAULTS, DEPRECATED
from fidfast.compat.torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from fidfast.compat.torch_fidelity.helpers import get_kwarg, vassert, vprint
from fidfast.compat.torch_fidelity.metric_fid import features_statistics, fid_statistics_to_metric
from fidfast.compat.torch_fidelity.metric_isc import isc_features_to_metric
from fidfast.compat.torch_fidelity.metric_kid import kid_features_to_metric
from fidfast.compat.torch_fidelity.metric_prc import prc_features_to_metric
from fidfast.compat.torch_fidelity.utils import (
    create_feature_extractor,
    extract_featuresdict_from_input_id_cached,
    get_cacheable_input_name,
    image_source,
    is_plain_inception,
    resolve_feature_extractor,
    resolve_feature_layer_for_metric,
)
from fidfast.inception import FEATURE_DIMS, TAPS

_METRICS = ("isc", "fid", "kid", "prc")
_REFUSED = {
    "ppl": "Perceptual Path Length (it needs LPIPS, which fidfast has not)",
    "mind": "MIND",
}


def calculate_metrics(**kwargs: Any) -> dict[str, float]:
    """ISC, FID, KID and PRC of one or two inputs: torch-fidelity's keywords, defaults and result keys.

    ``input1`` and ``input2`` are a folder, a registered name, a Dataset of uint8 images (3, H, W), a generator
    (:class:`GenerativeModelModuleWrapper`) or the TorchScript file of one. :data:`DEFAULTS` lists the keywords; with
    ``fid_statistics_file``, an ``.npz`` of mu and sigma, FID needs no ``input2``. Subsets, splits and noise are those
    of the same ``rng_seed`` in torch-fidelity. ``feature_extractor_internal_dtype="float64"`` computes in float64.

    Returns:
        inception_score_mean, inception_score_std, frechet_inception_distance, kernel_inception_distance_mean,
        kernel_inception_distance_std, precision, recall, f_score: those that were asked for.

    Raises:
        ValueError: naming the keyword; ppl and mind, which fidfast does not compute. WeightsError, ImagesError.
    """
    kwargs = _with_new_names(kwargs)
    for name, what in _REFUSED.items():
        vassert(
            not get_kwarg(name, kwargs), f"{name}: fidfast does not compute {what}; call torch_fidelity itself for that"
        )
    wanted = [metric for metric in _METRICS if get_kwarg(metric, kwargs)]
    vassert(wanted, f"expected at least one metric: {', '.join(_METRICS)}, got none")
    vassert(get_kwarg("input1", kwargs) is not None, "input1: expected images for every metric, got None")
    binary = [metric for metric in wanted if metric != "isc"]
    reference = get_kwarg("fid_statistics_file", kwargs)
    vassert(
        get_kwarg("input2", kwargs) is not None or not binary or (reference is not None and binary == ["fid"]),
        f"input2: expected images for {', '.join(binary)}, got None",
    )
    found: dict[str, float] = {}
    one_network = get_kwarg("feature_extractor", kwargs) is not None
    groups = [wanted] if one_network else [[m for m in wanted if m != "prc"], [m for m in wanted if m == "prc"]]
    for group in groups:
        if group:
            chosen = {**kwargs, **{metric: metric in group for metric in _METRICS}}
            found.update(_of_one_network(group, chosen))
    return found


def _with_new_names(kwargs: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(kwargs) - set(DEFAULTS) - set(DEPRECATED))
    if unknown:
        warnings.warn(
            f"calculate_metrics takes no {', '.join(unknown)}: ignored, as torch-fidelity does without a word",
            fidfast.FidfastWarning,
            stacklevel=3,
        )
    renamed = {}
    for name, value in kwargs.items():
        if name in DEPRECATED:
            warnings.warn(f"{name} is deprecated since 0.4.0, use {DEPRECATED[name]}", FutureWarning, stacklevel=3)
        renamed[DEPRECATED.get(name, name)] = value
    return renamed


def _of_one_network(wanted: list[str], kwargs: dict[str, Any]) -> dict[str, float]:
    verbose = get_kwarg("verbose", kwargs)
    layers = {metric: resolve_feature_layer_for_metric(metric, **kwargs) for metric in wanted}
    extractor = create_feature_extractor(resolve_feature_extractor(**kwargs), sorted(set(layers.values())), **kwargs)
    inputs = [1] if get_kwarg("input2", kwargs) is None else [1, 2]
    preset = "tensorflow" if type(extractor) is FeatureExtractorInceptionV3 else None
    reference, stored = get_kwarg("fid_statistics_file", kwargs), []
    if "fid" in wanted and reference is not None and inputs == [1]:  # now: its faults are said before the work
        size = None if preset is None else TAPS[layers["fid"]][1]
        stored.append(load_reference(reference, preset=preset, feature_dim=size))
    found: dict[str, float] = {}
    if wanted == ["fid"] and _can_stream(extractor, layers["fid"], inputs, kwargs):
        sides = [_stream(extractor, input_id, kwargs) for input_id in inputs] + stored
        return fid_statistics_to_metric(sides[0], sides[1], verbose)
    features = {}
    for input_id in inputs:
        vprint(verbose, f"Extracting features from input{input_id}")
        features[input_id] = extract_featuresdict_from_input_id_cached(input_id, extractor, **kwargs)
    sets = {metric: [features[input_id][layer] for input_id in inputs] for metric, layer in layers.items()}
    if "isc" in wanted:
        splits, shuffle = get_kwarg("isc_splits", kwargs), get_kwarg("samples_shuffle", kwargs)
        found |= isc_features_to_metric(sets["isc"][0], splits, shuffle, get_kwarg("rng_seed", kwargs))
    if "fid" in wanted:
        sides = [features_statistics(values, preset) for values in sets["fid"]] + stored
        found |= fid_statistics_to_metric(sides[0], sides[1], False)
    if "kid" in wanted:
        found |= kid_features_to_metric(*sets["kid"], **kwargs)
    if "prc" in wanted:
        found |= prc_features_to_metric(*sets["prc"], **kwargs)
    for name, value in found.items():
        vprint(verbose, f"{name}: {value:.7g}")
    return found


def _can_stream(extractor: Any, layer: str, inputs: list[int], kwargs: dict[str, Any]) -> bool:
    """Whether statistics suffice, in constant memory: no cache wants the features, the network is fidfast's."""
    cached = get_kwarg("cache", kwargs) and any(get_cacheable_input_name(one, **kwargs) for one in inputs)
    return is_plain_inception(extractor) and layer in map(str, FEATURE_DIMS) and not cached


def _stream(extractor: Any, input_id: int, kwargs: dict[str, Any]) -> fidfast.FeatureStatistics:
    source, workers = image_source(input_id, extractor, **kwargs)
    return fidfast.compute_statistics(
        source,
        feature_extractor=extractor.network(),
        preset=extractor.preset,
        batch_size=get_kwarg("batch_size", kwargs),
        num_workers=workers,
        progress=get_kwarg("verbose", kwargs),
    )
