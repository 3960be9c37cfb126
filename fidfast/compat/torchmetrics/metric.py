"""The base class: torchmetrics' own where it is installed, else one of the same interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fidfast.compat.torchmetrics.standalone import Metric
else:
    try:
        # not from torchmetrics itself, which imports torchmetrics.image, which install() may have made ours
        from torchmetrics.metric import Metric
    except ModuleNotFoundError as error:
        if error.name not in ("torchmetrics", "torchmetrics.metric"):
            raise  # it is here, but lacks something
        from fidfast.compat.torchmetrics.standalone import Metric

__all__ = ["Metric"]
