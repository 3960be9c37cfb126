"""torchmetrics' image metrics over fidfast's network and arithmetic: FID, KID, Inception Score, MiFID.

``from torchmetrics.image.fid import FrechetInceptionDistance`` becomes
``from fidfast.compat.torchmetrics.image.fid import FrechetInceptionDistance``, and so on. Where torchmetrics is
installed they are ``torchmetrics.Metric``; where it is not, they are modules of the same states that update, compute,
forward, reset, merge and move alike, on all ranks too.
"""

from fidfast.compat.torchmetrics.image import (
    FrechetInceptionDistance,
    InceptionScore,
    KernelInceptionDistance,
    MemorizationInformedFrechetInceptionDistance,
)

__all__ = [
    "FrechetInceptionDistance",
    "InceptionScore",
    "KernelInceptionDistance",
    "MemorizationInformedFrechetInceptionDistance",
]
