"""FIDResult: the FID as a number that remembers how it was made."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any


class FidfastWarning(UserWarning):
    """Something about a result that its reader should know."""


class FIDResult(float):
    """The Fréchet Inception Distance (squared form, no unit; 0 is equal, lower is closer) of two image sets.

    It is a ``float``: it compares, formats, sorts, pickles and serialises as one. It cannot be changed. Ordering two
    results of different ``num_generated`` warns (:class:`FidfastWarning`): FID falls as n grows. It carries:

    ====================  ==============================================================================================
    ``raw``               the value before it was clamped at 0 (rounding can leave −1e-12 for equal sets)
    ``num_real``          images (or stored samples) behind the reference side; None where a file does not say
    ``num_generated``     images behind the generated side
    ``preset``            preprocessing (:data:`fidfast.PRESETS`); None with a custom feature extractor
    ``feature_dim``       D of the features
    ``precision``         of the network: fp32, tf32, fp16 or bf16; None with a custom feature extractor
    ``device``            where the network ran
    ``route``             how the Fréchet distance was computed (:mod:`fidfast.frechet`)
    ``error_bound``       the arithmetic of the Fréchet distance is off by at most this, which a CUDA device certifies
                          (docs/numerics.md 2); None on the CPU, where LAPACK gives no bound (about 1e-12 of the FID)
    ``duplicates``        side → number of images, number of different ones, largest multiplicity; and ``shared``: how
                          many generated images are also in the real set. Only sides that came as images are counted
    ``kernels``           stage → implementation that ran
    ``seconds``           stage → wall time: setup, decode (waiting for images), preprocess, network, statistics,
                          distance, total
    ``notes``             sentences that a careful reader of the number should know
    ``skipped``           (path, reason) of images left out with ``on_error="skip"``
    ``weights``           sha256 identity of the network's weights; None with a custom feature extractor
    ``standard_error``    of the FID, from leaving out each tenth of the generated images in turn (fidfast.error_bars);
                          None without ``error_bars=True`` or where n < 5·D
    ``corrected``         the FID without the bias of a finite n, from the same; may be negative; None likewise
    ``floor``             what a perfect model would score at this n, on average; None likewise
    ``num_effective``     how many different generated images the FID is as good as: n²/Σm² for images that stand m
                          times; None where the images were not seen
    ====================  ==============================================================================================
    """

    raw: float
    num_real: int | None
    num_generated: int | None
    preset: str | None
    feature_dim: int
    precision: str | None
    device: str
    route: str
    error_bound: float | None
    duplicates: Mapping[str, Any]
    kernels: Mapping[str, str]
    seconds: Mapping[str, float]
    notes: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    weights: str | None
    standard_error: float | None
    corrected: float | None
    floor: float | None
    num_effective: int | None

    _FIELDS = (
        "raw", "num_real", "num_generated", "preset", "feature_dim", "precision", "device", "route", "error_bound",
        "duplicates", "kernels", "seconds", "notes", "skipped", "weights", "standard_error", "corrected", "floor",
        "num_effective",
    )  # fmt: skip
    _OPTIONAL = ("standard_error", "corrected", "floor", "num_effective")

    def __new__(cls, fid: float, **fields: Any) -> FIDResult:
        fields = {**dict.fromkeys(cls._OPTIONAL), **fields}
        if set(fields) != set(cls._FIELDS):
            differing = ", ".join(sorted(set(fields) ^ set(cls._FIELDS)))
            raise TypeError(f"FIDResult takes exactly the fields it documents; missing or unknown: {differing}")
        self = super().__new__(cls, fid)
        self.__dict__.update(fields)
        return self

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"FIDResult cannot be changed: tried to set {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"FIDResult cannot be changed: tried to delete {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (float(self), dict(self.__dict__))

    def __lt__(self, other: float) -> bool:
        self._warn_of_other_count(other)
        return super().__lt__(other)

    def __le__(self, other: float) -> bool:
        self._warn_of_other_count(other)
        return super().__le__(other)

    def __gt__(self, other: float) -> bool:
        self._warn_of_other_count(other)
        return super().__gt__(other)

    def __ge__(self, other: float) -> bool:
        self._warn_of_other_count(other)
        return super().__ge__(other)

    def _warn_of_other_count(self, other: float) -> None:
        if isinstance(other, FIDResult) and self.num_generated != other.num_generated:
            warnings.warn(
                f"an FID of {self.num_generated} images is compared with one of {other.num_generated}: FID falls as "
                "the number of images grows, so they are not comparable",
                FidfastWarning,
                stacklevel=3,
            )

    @property
    def fid(self) -> float:
        """The FID as a plain float."""
        return float(self)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON types; the number under ``fid``."""
        fields = {name: getattr(self, name) for name in self._FIELDS}
        fields["duplicates"] = {key: _plain(value) for key, value in self.duplicates.items()}
        fields["kernels"], fields["seconds"] = dict(self.kernels), dict(self.seconds)
        fields["notes"], fields["skipped"] = list(self.notes), [list(pair) for pair in self.skipped]
        return {"fid": float(self), **fields}

    def __repr__(self) -> str:
        how = f"{self.preset}, " if self.preset else ""
        precision = f"{self.precision} " if self.precision else ""
        error = "" if self.standard_error is None else f"standard_error={self.standard_error:.3g}, "
        return (
            f"FIDResult({float(self)!r}, {error}num_real={self.num_real}, num_generated={self.num_generated}, "
            f"{how}feature_dim={self.feature_dim}, {precision}on {self.device})"
        )

    __str__ = float.__repr__


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _rebuild(fid: float, fields: dict[str, Any]) -> FIDResult:
    return FIDResult(fid, **fields)
