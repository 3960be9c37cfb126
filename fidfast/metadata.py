"""What made a set of statistics: kept with them, and compared before they are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from fidfast.moments import StatisticsError


@dataclass(frozen=True)
class StatisticsMetadata:
    """What made the statistics; None where it is not known."""

    feature_dim: int
    preset: str | None = None
    precision: str | None = None
    weights: str | None = None
    ddof: int = 1
    dtype: str = "float64"
    version: str | None = None


def parse_metadata(values: Mapping[str, Any], size: int, name: str) -> StatisticsMetadata:
    """Metadata from a file or state, of ``size`` features; what a newer version added is left out."""
    known = {field.name: values[field.name] for field in fields(StatisticsMetadata) if field.name in values}
    if known.get("feature_dim", size) != size:
        raise StatisticsError(f"{name}: feature_dim: expected {size}, got {known['feature_dim']!r}")
    if known.get("ddof", 1) != 1:
        raise StatisticsError(f"{name}: ddof: expected 1, an unbiased covariance, got {known['ddof']!r}")
    for key, value in known.items():
        if key not in ("feature_dim", "ddof") and value is not None and not isinstance(value, str):
            raise StatisticsError(f"{name}: {key}: expected a string, got {value!r}")
    return StatisticsMetadata(**{**known, "feature_dim": size})


def compare_metadata(first: StatisticsMetadata, second: StatisticsMetadata, names: tuple[str, str]) -> None:
    """Raise where feature_dim, preset or weights differ; warn where the precision does, or where one is not known."""
    for name in ("feature_dim", "preset", "weights", "precision"):
        left, right = getattr(first, name), getattr(second, name)
        if left == right:
            continue
        if left is None or right is None:
            unknown = names[0] if left is None else names[1]
            warnings.warn(f"{unknown} does not say its {name}; it is taken as {right or left!r}", stacklevel=4)
        elif name == "precision":
            warnings.warn(
                f"the precision of the features differs: {names[0]} has {left!r}, {names[1]} has {right!r}; "
                "the distance then holds the difference of the precisions as well",
                stacklevel=4,
            )
        else:
            raise StatisticsError(f"the {name} differs: {names[0]} has {left!r}, {names[1]} has {right!r}")


def join_metadata(first: StatisticsMetadata, second: StatisticsMetadata) -> StatisticsMetadata:
    """Of comparable statistics that become one: what either knows; two precisions become "mixed"."""
    known = {name: getattr(first, name) or getattr(second, name) for name in ("preset", "weights", "precision")}
    if second.precision is not None and known["precision"] != second.precision:
        known["precision"] = "mixed"
    return replace(first, **known)
