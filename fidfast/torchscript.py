"""TorchScript archives of the FID Inception network (NVIDIA's port of the TensorFlow graph): read, never run."""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from typing import Any

import numpy as np
import torch
from torch import Tensor


def _names(theirs: str, ours: str) -> dict[str, str]:
    return dict(zip(theirs.split(), ours.split(), strict=True))


# TorchScript names (NVIDIA's port of the TensorFlow graph) -> pytorch-fid's names, block by block.
_STEM = _names(
    "conv conv_1 conv_2 conv_3 conv_4",
    "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 Conv2d_3b_1x1 Conv2d_4a_3x3",
)
_A = _names(
    "conv tower.conv tower.conv_1 tower_1.conv tower_1.conv_1 tower_1.conv_2 tower_2.conv",
    "branch1x1 branch5x5_1 branch5x5_2 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3 branch_pool",
)
_B = _names(
    "conv tower.conv tower.conv_1 tower.conv_2",
    "branch3x3 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3",
)
_C = _names(
    "conv tower.conv tower.conv_1 tower.conv_2 "
    "tower_1.conv tower_1.conv_1 tower_1.conv_2 tower_1.conv_3 tower_1.conv_4 tower_2.conv",
    "branch1x1 branch7x7_1 branch7x7_2 branch7x7_3 "
    "branch7x7dbl_1 branch7x7dbl_2 branch7x7dbl_3 branch7x7dbl_4 branch7x7dbl_5 branch_pool",
)
_D = _names(
    "tower.conv tower.conv_1 tower_1.conv tower_1.conv_1 tower_1.conv_2 tower_1.conv_3",
    "branch3x3_1 branch3x3_2 branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4",
)
_E = _names(
    "conv tower_conv tower_mixed_conv tower_mixed_conv_1 "
    "tower_1_conv tower_1_conv_1 tower_1_mixed_conv tower_1_mixed_conv_1 tower_2_conv",
    "branch1x1 branch3x3_1 branch3x3_2a branch3x3_2b "
    "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3a branch3x3dbl_3b branch_pool",
)
_MIXED = zip(
    ["mixed", *(f"mixed_{i}" for i in range(1, 11))],
    ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"],
    [_A, _A, _A, _B, _C, _C, _C, _C, _D, _E, _E],
    strict=True,
)
NAMES = _STEM | {
    f"{theirs}.{inner}": f"Mixed_{ours}.{branch}"
    for theirs, ours, branches in _MIXED
    for inner, branch in branches.items()
}
CONVOLUTIONS = tuple(NAMES.values())  # the 94 convolutions, each followed by a batch norm
BATCH_NORM = {"beta": "bias", "mean": "running_mean", "var": "running_var"}  # gamma is 1: the graph has none


class _ScriptObject:
    """Stands for any TorchScript module: unpickling fills its __dict__, nothing runs."""


class _TorchScriptUnpickler(pickle.Unpickler):
    """Reads data.pkl of a TorchScript archive: tensors, OrderedDict and modules as plain attribute holders."""

    DTYPES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "DoubleStorage": "<f8", "LongStorage": "<i8"}  # noqa: RUF012

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in self.DTYPES:
            return self.DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._rebuild_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch.jit._pickle" and name.startswith("build_"):  # typed lists of plain values
            return list
        if module.startswith("__torch__."):
            return _ScriptObject
        raise ValueError(f"a TorchScript archive of weights has no use for {module}.{name}")

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, dtype, key, _, _ = pid
        return np.frombuffer(self._archive.read(f"{self._root}/data/{key}"), dtype=dtype)

    @staticmethod
    def _rebuild_tensor(storage: np.ndarray, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
        return torch.from_numpy(storage.copy()).as_strided(tuple(size), tuple(stride), offset)


def read_torchscript(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    root = archive.namelist()[0].split("/")[0]
    found: dict[str, Tensor] = {}

    def collect(module: _ScriptObject, prefix: str) -> None:
        for name, value in vars(module).items():
            if isinstance(value, _ScriptObject):
                collect(value, f"{prefix}{name}.")
            elif isinstance(value, Tensor):
                found[f"{prefix}{name}"] = value

    collect(_TorchScriptUnpickler(archive, root).load(), "")
    renamed = {}
    for name, tensor in found.items():
        convolution, _, leaf = name.rpartition("layers.")[2].rpartition(".")
        if convolution in NAMES:
            part = f"bn.{BATCH_NORM[leaf]}" if leaf in BATCH_NORM else f"conv.{leaf}"
            renamed[f"{NAMES[convolution]}.{part}"] = tensor
        elif name in ("output.weight", "output.bias"):
            renamed[name.replace("output", "fc")] = tensor
    return renamed
