"""The FID Inception-v3 (TensorFlow graph of 2015-12-05) with its batch norms folded into the convolutions.

What sets it apart from the Inception-v3 of torchvision: average pools count only valid pixels, the last block pools
by maximum, batch-norm eps is 1e-3. Features are means over the pixels of four places: after the first and the second
max pool (64, 192), before Mixed_7a (768), after Mixed_7c (2048), as in pytorch-fid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fidfast import ops

FEATURE_DIMS = (64, 192, 768, 2048)
# What the network can give of an image: (how many layers lead to it, how many numbers it is).
TAPS = {
    "64": (4, 64),
    "192": (7, 192),
    "spatial": (14, 17 * 17 * 7),
    "768": (15, 768),
    "2048": (18, 2048),
    "logits_unbiased": (18, 1008),
    "logits": (18, 1008),
}
BATCH_NORM_EPS = 1e-3
STEM_LAYERS = 4  # up to the first pool
STEM_IMAGES = 2  # at a time: their activations stay in the cache, and in memory that malloc keeps


def fold_batch_norm(state_dict: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Weight (O, I, kh, kw) and bias (O,) of convolution `name` with its batch norm folded in; float64 inside.

    They are float32, and float64 where the state dict is: a network in float64 throughout.
    """
    weight = state_dict[f"{name}.conv.weight"].double()
    gamma, beta, mean, var = (
        state_dict[f"{name}.bn.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / (var + BATCH_NORM_EPS).sqrt()
    dtype = torch.promote_types(state_dict[f"{name}.conv.weight"].dtype, torch.float32)
    return (weight * scale[:, None, None, None]).to(dtype), (beta - mean * scale).to(dtype)


class Convolution(nn.Module):
    """Convolution with folded batch norm, then ReLU. `same` pads so that stride 1 keeps the size."""

    weight: Tensor  # (O, I, kh, kw)
    bias: Tensor  # (O,)

    def __init__(self, state_dict: Mapping[str, Tensor], name: str, *, stride: int = 1, same: bool = True) -> None:
        super().__init__()
        weight, bias = fold_batch_norm(state_dict, name)
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)
        self.stride = (stride, stride)
        self.padding = (weight.shape[2] // 2, weight.shape[3] // 2) if same else (0, 0)
        self._winograd: Tensor | None = None  # the weight transformed for ops.winograd_conv_relu
        self._packed: Tensor | None = None  # the weight in oneDNN's own layout

    def prepare_winograd(self) -> bool:
        """Transform the weight of a convolution of stride 1 once; False where there is no kernel for it."""
        if self.stride == (1, 1):
            self._winograd = ops.winograd_weight(self.weight)
        return self._winograd is not None

    def prepack(self, input_shape: Sequence[int]) -> None:
        """Reorder the weight once for inputs of this shape; torch's conv2d would do it at every call."""
        self._packed = torch.ops.mkldnn._reorder_convolution_weight(
            self.weight, self.padding, self.stride, (1, 1), 1, list(input_shape)
        )

    def forward(self, x: Tensor, relu: bool = True) -> Tensor:  # (N, I, H, W) -> (N, O, H', W')
        if self._winograd is not None:
            taps = self.weight.shape[2:]
            return torch.ops.fidfast.winograd_conv_relu(x, self._winograd, self.bias, taps, self.padding)
        if self._packed is not None:
            return torch.ops.mkldnn._convolution_pointwise(
                x, self._packed, self.bias, self.padding, self.stride, (1, 1), 1, "relu" if relu else "none", [], ""
            )
        y = functional.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        return y.relu_() if relu else y


def _average_pool(x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C, H, W)
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _halve(x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C, (H-1)//2, (W-1)//2)
    return functional.max_pool2d(x, 3, stride=2)


class _Block(nn.Module):
    """One Mixed block: its convolutions under pytorch-fid's branch names."""

    branches: tuple[str, ...]
    halving: tuple[str, ...] = ()  # branches of stride 2
    branch1x1: Convolution
    branch3x3: Convolution
    branch3x3_1: Convolution
    branch3x3_2a: Convolution
    branch3x3_2b: Convolution
    branch3x3dbl_3a: Convolution
    branch3x3dbl_3b: Convolution
    branch_pool: Convolution

    def __init__(self, state_dict: Mapping[str, Tensor], name: str) -> None:
        super().__init__()
        for branch in self.branches:
            halves = branch in self.halving
            convolution = Convolution(state_dict, f"{name}.{branch}", stride=2 if halves else 1, same=not halves)
            self.add_module(branch, convolution)

    def _chain(self, x: Tensor, *branches: str) -> Tensor:  # (N, C, H, W) -> (N, C', H', W')
        for branch in branches:
            x = getattr(self, branch)(x)
        return x

    def _pooled(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C', H, W)
        """1×1 convolution of the average pool, in the other order: the pool is linear, and then has fewer channels."""
        return _average_pool(self.branch_pool(x, relu=False)).relu_()


class BlockA(_Block):
    """Mixed_5b, 5c, 5d: 1×1, 5×5, double 3×3 and pooled branches at 35×35."""

    branches = (
        *("branch1x1", "branch5x5_1", "branch5x5_2"),
        *("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3", "branch_pool"),
    )

    def forward(self, x: Tensor) -> Tensor:  # (N, C, 35, 35) -> (N, 224 + pool, 35, 35)
        return torch.cat(
            [
                self.branch1x1(x),
                self._chain(x, "branch5x5_1", "branch5x5_2"),
                self._chain(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
                self._pooled(x),
            ],
            dim=1,
        )


class BlockB(_Block):
    """Mixed_6a: 35×35 to 17×17."""

    branches = ("branch3x3", "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
    halving = ("branch3x3", "branch3x3dbl_3")

    def forward(self, x: Tensor) -> Tensor:  # (N, 288, 35, 35) -> (N, 768, 17, 17)
        double = self._chain(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
        return torch.cat([self.branch3x3(x), double, _halve(x)], dim=1)


class BlockC(_Block):
    """Mixed_6b … 6e: 7×7 factored into 1×7 and 7×1, at 17×17."""

    seven = ("branch7x7_1", "branch7x7_2", "branch7x7_3")
    seven_twice = ("branch7x7dbl_1", "branch7x7dbl_2", "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5")
    branches = ("branch1x1", *seven, *seven_twice, "branch_pool")

    def forward(self, x: Tensor) -> Tensor:  # (N, 768, 17, 17) -> (N, 768, 17, 17)
        seven, twice = self._chain(x, *self.seven), self._chain(x, *self.seven_twice)
        return torch.cat([self.branch1x1(x), seven, twice, self._pooled(x)], dim=1)


class BlockD(_Block):
    """Mixed_7a: 17×17 to 8×8."""

    three = ("branch3x3_1", "branch3x3_2")
    seven = ("branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4")
    branches = (*three, *seven)
    halving = ("branch3x3_2", "branch7x7x3_4")

    def forward(self, x: Tensor) -> Tensor:  # (N, 768, 17, 17) -> (N, 1280, 8, 8)
        return torch.cat([self._chain(x, *self.three), self._chain(x, *self.seven), _halve(x)], dim=1)


class BlockE(_Block):
    """Mixed_7b: 3×3 split into 1×3 beside 3×1, at 8×8."""

    branches = (
        *("branch1x1", "branch3x3_1", "branch3x3_2a", "branch3x3_2b"),
        *("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a", "branch3x3dbl_3b", "branch_pool"),
    )

    def forward(self, x: Tensor) -> Tensor:  # (N, C, 8, 8) -> (N, 2048, 8, 8)
        three, double = self.branch3x3_1(x), self._chain(x, "branch3x3dbl_1", "branch3x3dbl_2")
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(three),
                self.branch3x3_2b(three),
                self.branch3x3dbl_3a(double),
                self.branch3x3dbl_3b(double),
                self._pooled(x),
            ],
            dim=1,
        )


class BlockEMax(BlockE):
    """Mixed_7c: as 7b, but pooled by maximum."""

    def _pooled(self, x: Tensor) -> Tensor:  # (N, C, 8, 8) -> (N, C', 8, 8)
        return self.branch_pool(functional.max_pool2d(x, 3, stride=1, padding=1))


def check_taps(taps: Sequence[str]) -> tuple[str, ...]:
    """At least one name of TAPS, none twice; ValueError."""
    if isinstance(taps, str) or not taps or any(tap not in TAPS for tap in taps) or len(set(taps)) < len(taps):
        raise ValueError(f"taps: expected different ones of {', '.join(TAPS)}, got {taps!r}")
    return tuple(taps)


class Inception(nn.Module):
    """(N, 3, 299, 299) normalised images → (N, feature_dim) float32, or several taps beside each other.

    It has only the layers that these need. Beside the features there are "spatial", the first 7 channels of Mixed_6d
    in the order (y, x, channel), which sFID is of (Nash et al. 2021; ADM's evaluator), and the logits of the 1008
    classes, as TensorFlow's graph has them and without the bias, as the Inception Score is commonly taken.
    """

    class_weight: Tensor  # (1008, 2048)
    class_bias: Tensor  # (1008,)

    def __init__(
        self, state_dict: Mapping[str, Tensor], feature_dim: int = 2048, taps: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        if taps is None and feature_dim not in FEATURE_DIMS:
            raise ValueError(f"feature_dim: expected one of {FEATURE_DIMS}, got {feature_dim!r}")
        self.taps = check_taps((str(feature_dim),) if taps is None else taps)
        self.feature_dim = sum(TAPS[tap][1] for tap in self.taps)
        depth = max(TAPS[tap][0] for tap in self.taps)
        layers: list[nn.Module] = [
            Convolution(state_dict, "Conv2d_1a_3x3", stride=2, same=False),  # (N, 32, 149, 149)
            Convolution(state_dict, "Conv2d_2a_3x3", same=False),  # (N, 32, 147, 147)
            Convolution(state_dict, "Conv2d_2b_3x3"),  # (N, 64, 147, 147)
            nn.MaxPool2d(3, stride=2),  # (N, 64, 73, 73)
        ]
        if depth > 4:
            layers += [
                Convolution(state_dict, "Conv2d_3b_1x1"),  # (N, 80, 73, 73)
                Convolution(state_dict, "Conv2d_4a_3x3", same=False),  # (N, 192, 71, 71)
                nn.MaxPool2d(3, stride=2),  # (N, 192, 35, 35)
            ]
        if depth > 7:
            layers += [
                BlockA(state_dict, "Mixed_5b"),  # (N, 256, 35, 35)
                BlockA(state_dict, "Mixed_5c"),  # (N, 288, 35, 35)
                BlockA(state_dict, "Mixed_5d"),  # (N, 288, 35, 35)
                BlockB(state_dict, "Mixed_6a"),  # (N, 768, 17, 17)
                *(BlockC(state_dict, f"Mixed_6{letter}") for letter in "bcde"),  # (N, 768, 17, 17)
            ]
        if depth > 15:
            layers += [
                BlockD(state_dict, "Mixed_7a"),  # (N, 1280, 8, 8)
                BlockE(state_dict, "Mixed_7b"),  # (N, 2048, 8, 8)
                BlockEMax(state_dict, "Mixed_7c"),  # (N, 2048, 8, 8)
            ]
        self.layers = nn.Sequential(*layers[:depth])
        if any(tap.startswith("logits") for tap in self.taps):
            self.register_buffer("class_weight", state_dict["fc.weight"])  # (1008, 2048)
            self.register_buffer("class_bias", state_dict["fc.bias"] if "logits" in self.taps else None)
        self._stem_in_parts = False
        self.eval()

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, 299, 299) -> (N, D) float32, the taps in their order
        done = STEM_LAYERS if self._stem_in_parts and len(x) else 0
        if done:
            x = torch.cat([self.layers[:done](part) for part in x.split(STEM_IMAGES)])  # (N, 64, 73, 73)
        found = {}
        for depth in sorted({TAPS[tap][0] for tap in self.taps}):
            x, done = self.layers[done:depth](x), depth
            for tap in self.taps:
                if TAPS[tap][0] == depth:
                    found[tap] = self._tap(x, tap)
        return torch.cat([found[tap] for tap in self.taps], dim=1) if len(found) > 1 else found[self.taps[0]]

    def _tap(self, x: Tensor, tap: str) -> Tensor:  # (N, C, H, W) -> (N, D) float32, or float64 of a float64 network
        real = torch.promote_types(x.dtype, torch.float32)
        if tap == "spatial":
            return x[:, :7].permute(0, 2, 3, 1).flatten(1).to(real)
        features = x.mean(dim=(2, 3), dtype=real)
        if not tap.startswith("logits"):
            return features
        bias = self.class_bias.to(real) if tap == "logits" else None
        return functional.linear(features, self.class_weight.to(real), bias)

    def prepare(self, chunk_size: int, *, onednn: bool = True) -> list[str]:
        """Lay the weights out for the fastest CPU kernels here, for chunks of this size; returns their names."""
        convolutions = [module for module in self.modules() if isinstance(module, Convolution)]
        weight = convolutions[0].weight
        if weight.device.type != "cpu":
            return []
        self._stem_in_parts = True
        rest = [convolution for convolution in convolutions if not convolution.prepare_winograd()]
        names = ["Winograd convolution + ReLU"] if len(rest) < len(convolutions) else []
        if onednn and _has_onednn_pointwise():
            hooks = [module.register_forward_pre_hook(partial(_prepack, chunk_size=chunk_size)) for module in rest]
            x = torch.zeros(1, 3, 299, 299, dtype=weight.dtype, device=weight.device)
            self(x.contiguous(memory_format=torch.channels_last))
            for hook in hooks:
                hook.remove()
            names.append("oneDNN convolution + ReLU, prepacked")
        return names


def _prepack(convolution: Any, inputs: tuple[Tensor, ...], *, chunk_size: int) -> None:
    convolution.prepack((chunk_size, *inputs[0].shape[1:]))


def _has_onednn_pointwise() -> bool:
    """Whether torch has the private ops that torch.compile's freezing uses (all releases since 2.0 on x86-64 do)."""
    mkldnn = torch.ops.mkldnn
    names = ("_convolution_pointwise", "_reorder_convolution_weight")
    return torch.backends.mkldnn.is_available() and all(hasattr(mkldnn, name) for name in names)
