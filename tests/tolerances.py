"""The one table of tolerances. A tolerance is a sentence with a number: loosening a row is a reviewed change."""

from __future__ import annotations

from typing import NamedTuple


class Tolerance(NamedTuple):
    rtol: float
    atol: float
    reason: str


TOLERANCES: dict[str, Tolerance] = {
    "fid/peer": Tolerance(1e-4, 1e-4, "another tool, same images and weights: float32 convolutions in another order"),
}
