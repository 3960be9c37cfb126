"""Statistics files as façades read them: of a tool's own preset, which other tools' files leave out."""

from __future__ import annotations

import os
from dataclasses import replace

from fidfast import FeatureStatistics, StatisticsError
from fidfast.weights import FID_WEIGHTS_SHA256


def load_reference(
    path: str | os.PathLike[str], *, preset: str | None, feature_dim: int | None, allow_pickle: bool = False
) -> FeatureStatistics:
    """A statistics file made with ``preset`` and the FID network; one that does not say is taken as that.

    Args:
        preset: None: of a network of the caller's, and nothing is supposed of the file.

    Raises:
        StatisticsError: naming the file; another preset or feature_dim.
    """
    loaded = FeatureStatistics.load(path, feature_dim=feature_dim, allow_pickle=allow_pickle)
    made_with = loaded.metadata.preset or loaded.metadata.weights  # a network of one's own has a name but no preset
    if preset is not None and made_with is None:
        loaded.metadata = replace(loaded.metadata, preset=preset, precision="fp32", weights=FID_WEIGHTS_SHA256)
    elif preset is not None and made_with != preset:
        raise StatisticsError(f"{path}: expected statistics of preset {preset!r}, got those of {made_with!r}")
    return loaded
