"""Features of named inputs on disk, in files whose names hold all that they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fidfast.compat.torch_fidelity.helpers import get_kwarg, vassert, vprint
from fidfast.statistics_io import write_statistics

# Beside the input's name and the network's: torch-fidelity's own cache leaves these out, and so returns the features of
# other weights or sizes.
_SETTINGS = (
    "feature_extractor_weights_path",
    "feature_extractor_internal_dtype",
    "samples_resize_and_crop",
    "samples_find_deep",
    "samples_find_ext",
    "rng_seed",
)


def settings_key(input_id: int, kwargs: Mapping[str, Any]) -> str:
    """A digest of what changes the features of an input of a given name."""
    names = (
        *_SETTINGS,
        *(f"input{input_id}_model_{what}" for what in ("z_type", "z_size", "num_classes", "num_samples")),
    )
    values: dict[str, Any] = {name.replace(f"input{input_id}", "input"): get_kwarg(name, kwargs) for name in names}
    given = get_kwarg(f"input{input_id}", kwargs)
    values["input"] = os.path.realpath(given) if isinstance(given, (str, os.PathLike)) else type(given).__qualname__
    weights = values["feature_extractor_weights_path"]
    if weights is not None:
        status = os.stat(weights)
        values["feature_extractor_weights_path"] = [os.path.realpath(weights), status.st_size, status.st_mtime_ns]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def cached_features(
    prefix: str,
    names: Sequence[str],
    key: str,
    root: str | os.PathLike[str] | None,
    compute: Callable[[], dict[str, Tensor]],
    *,
    verbose: bool,
) -> dict[str, Tensor]:
    """{feature: (N, D) float32} from ``{prefix}-features-{name}-{key}.npz``, all of them, or computed and written."""
    vassert(os.path.basename(prefix) == prefix, f"cache_name: expected a name without path delimiters, got {prefix!r}")
    folder = Path(os.path.dirname(torch.hub.get_dir())) / "fidelity_cache" if root is None else Path(root).expanduser()
    files = {name: folder / f"{prefix}-features-{name}-{key}.npz" for name in names}
    if all(file.is_file() for file in files.values()):
        vprint(verbose, f"Loading cached {', '.join(map(str, files.values()))}")
        found = {}
        for name, file in files.items():
            try:
                with np.load(file, allow_pickle=False) as archive:
                    found[name] = torch.from_numpy(archive["features"])
            except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                raise ValueError(
                    f"{file}: expected cached features, got a damaged file ({error}); delete it"
                ) from error
        return found
    features = compute()
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in files.items():
        vprint(verbose, f"Caching {file}")
        write_statistics(file, {"features": features[name].cpu().numpy()})
    return features
