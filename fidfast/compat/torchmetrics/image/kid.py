"""``KernelInceptionDistance`` of torchmetrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fidfast.compat.torchmetrics.image.lists import FeatureLists
from fidfast.compat.torchmetrics.image.network import LAYERS, check_bool, check_positive, make_network
from fidfast.metrics.kid import kernel_distance

__all__ = ["KernelInceptionDistance", "maximum_mean_discrepancy", "poly_kernel", "poly_mmd"]


def maximum_mean_discrepancy(k_xx: Tensor, k_xy: Tensor, k_yy: Tensor) -> Tensor:  # (m, m) each → ()
    """Unbiased MMD² of two sets of m from the kernel of all their pairs."""
    m = len(k_xx)
    inside = sum(kernel.sum() - kernel.trace() for kernel in (k_xx, k_yy))
    return inside / (m * (m - 1)) - 2 * k_xy.sum() / m**2


def poly_kernel(f1: Tensor, f2: Tensor, degree: int = 3, gamma: float | None = None, coef: float = 1.0) -> Tensor:
    """(gamma x·y + coef)^degree of all pairs of (M, D) and (N, D): (M, N)."""
    return (f1 @ f2.T * (1.0 / f1.shape[1] if gamma is None else gamma) + coef) ** degree


def poly_mmd(
    f_real: Tensor, f_fake: Tensor, degree: int = 3, gamma: float | None = None, coef: float = 1.0
) -> Tensor:  # (m, D) each → ()
    pairs = ((f_real, f_real), (f_real, f_fake), (f_fake, f_fake))
    return maximum_mean_discrepancy(*(poly_kernel(x, y, degree, gamma, coef) for x, y in pairs))


class KernelInceptionDistance(FeatureLists):
    """The KID of images that come in batches, as a metric of torchmetrics: its arguments, methods and states.

    The subsets are those that torchmetrics draws from torch's random state (``torch.manual_seed``). All features are
    kept: 8 kB an image.

    Args:
        feature: 64, 192, 768, 2048 or "logits_unbiased" of the FID Inception, or a module: images → (N, D).
        subsets, subset_size: how many are drawn, of how many images each.
        degree, gamma, coef: of the kernel (gamma x·y + coef)^degree; gamma None is 1/D.
        reset_real_features: whether ``reset`` also forgets the real images.
        normalize: images are float in [0, 1], which become uint8 by truncation; else they are uint8.
        kwargs: of ``torchmetrics.Metric``.
    """

    higher_is_better: bool = False
    is_differentiable: bool = False
    full_state_update: bool = False
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0
    feature_network: str = "inception"

    real_features: list[Tensor]
    fake_features: list[Tensor]

    def __init__(
        self,
        feature: str | int | nn.Module = 2048,
        subsets: int = 100,
        subset_size: int = 1000,
        degree: int = 3,
        gamma: float | None = None,
        coef: float = 1.0,
        reset_real_features: bool = True,
        normalize: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.inception, self.used_custom_model = make_network(feature, LAYERS)
        self.subsets, self.subset_size = check_positive("subsets", subsets), check_positive("subset_size", subset_size)
        self.degree = check_positive("degree", degree)
        if gamma is not None and not (isinstance(gamma, float) and gamma > 0):
            raise ValueError("Argument `gamma` expected to be `None` or float larger than 0")
        if not (isinstance(coef, float) and coef > 0):
            raise ValueError("Argument `coef` expected to be float larger than 0")
        self.gamma, self.coef = gamma, coef
        self.reset_real_features = check_bool("reset_real_features", reset_real_features)
        self.normalize = check_bool("normalize", normalize)
        self._add_lists(("real_features", "fake_features"))

    def update(self, imgs: Tensor, real: bool) -> None:
        """Add images (N, 3, H, W) to the real or the generated side."""
        self._append("real_features" if real else "fake_features", imgs)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (ddof 0) over the subsets. ValueError: fewer images than ``subset_size``."""
        sides = {"real": self._rows("real_features"), "fake": self._rows("fake_features")}
        if self.subset_size < 2:
            raise ValueError(f"Argument `subset_size` should be at least 2 to compute KID, got {self.subset_size}")
        for name, rows in sides.items():
            if len(rows) < self.subset_size:
                raise ValueError(
                    "Argument `subset_size` should be smaller than the number of samples, got "
                    f"{self.subset_size} for {len(rows)} {name} ones"
                )
        drawn: list[list[Tensor]] = [[], []]
        for _ in range(self.subsets):  # in torchmetrics' order
            for indices, rows in zip(drawn, sides.values(), strict=True):
                indices.append(torch.randperm(len(rows), device="cpu")[: self.subset_size])
        distance = kernel_distance(
            *sides.values(),
            degree=self.degree,
            gamma=self.gamma,
            coef0=self.coef,
            indices=(torch.stack(drawn[0]).numpy(), torch.stack(drawn[1]).numpy()),
        )
        return tuple(sides["real"].new_tensor(float(value)) for value in (distance.mean, distance.values.std()))  # type: ignore[return-value]

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """One or several values as torchmetrics plots them; by default the mean."""
        return self._plot(self.compute()[0] if val is None else val, ax)
