"""FIDResult: the FID as a number that remembers how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class FIDResult(float):
    """The Fréchet Inception Distance (squared form, no unit; 0 is equal, lower is closer) of two image sets.

    It is a ``float``: it compares, formats, sorts, pickles and serialises as one. It cannot be changed, and carries:

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

    _FIELDS = (
        "raw", "num_real", "num_generated", "preset", "feature_dim", "precision", "device", "route", "error_bound",
        "duplicates", "kernels", "seconds", "notes", "skipped", "weights",
    )  # fmt: skip

    def __new__(cls, fid: float, **fields: Any) -> FIDResult:
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
        return (
            f"FIDResult({float(self)!r}, num_real={self.num_real}, num_generated={self.num_generated}, "
            f"{how}feature_dim={self.feature_dim}, {precision}on {self.device})"
        )

    __str__ = float.__repr__


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _rebuild(fid: float, fields: dict[str, Any]) -> FIDResult:
    return FIDResult(fid, **fields)
