"""The metrics of ``torchmetrics.image`` that stand on the Inception network."""

from fidfast.compat.torchmetrics.image.fid import FrechetInceptionDistance
from fidfast.compat.torchmetrics.image.inception import InceptionScore
from fidfast.compat.torchmetrics.image.kid import KernelInceptionDistance
from fidfast.compat.torchmetrics.image.mifid import MemorizationInformedFrechetInceptionDistance

__all__ = [
    "FrechetInceptionDistance",
    "InceptionScore",
    "KernelInceptionDistance",
    "MemorizationInformedFrechetInceptionDistance",
]
