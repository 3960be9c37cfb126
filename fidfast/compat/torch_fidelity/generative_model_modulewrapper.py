"""Any module as a generator."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from fidfast.compat.torch_fidelity.generative_model_base import GenerativeModelBase
from fidfast.compat.torch_fidelity.helpers import vassert
from fidfast.compat.torch_fidelity.registry import NOISE_SOURCE_REGISTRY


class GenerativeModelModuleWrapper(GenerativeModelBase):
    """A module that makes uint8 images (N, 3, H, W) of noise (N, z_size), and of labels where it has classes.

    Args:
        make_copy: keep a copy of the module rather than the module.
        make_eval: put it into evaluation mode now.
        cuda: True moves it to CUDA, False to the CPU, None leaves it where it is.
    """

    def __init__(
        self,
        module: nn.Module,
        z_size: int,
        z_type: str,
        num_classes: int,
        make_copy: bool = False,
        make_eval: bool = True,
        cuda: bool | None = None,
    ) -> None:
        super().__init__()
        vassert(isinstance(module, nn.Module), f"module: expected a torch.nn.Module, got {type(module).__name__}")
        vassert(type(z_size) is int and z_size > 0, f"z_size: expected a positive whole number, got {z_size!r}")
        known = ", ".join(NOISE_SOURCE_REGISTRY)
        vassert(z_type in NOISE_SOURCE_REGISTRY, f"z_type: expected one of {known}, got {z_type!r}")
        vassert(
            type(num_classes) is int and num_classes >= 0,
            f"num_classes: expected a whole number of at least 0, got {num_classes!r}",
        )
        self.module = copy.deepcopy(module) if make_copy else module
        if make_eval:
            self.module.eval()
        if cuda is not None:
            self.module = self.module.cuda() if cuda else self.module.cpu()
        self._z_size, self._z_type, self._num_classes = z_size, z_type, num_classes

    @property
    def z_size(self) -> int:
        return self._z_size

    @property
    def z_type(self) -> str:
        return self._z_type

    @property
    def num_classes(self) -> int:
        return self._num_classes

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)
