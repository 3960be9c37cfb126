"""The FID Inception-v3 (TensorFlow graph of 2015-12-05) with its batch norms folded into the convolutions.

What sets it apart from the Inception-v3 of torchvision: average pools count only valid pixels, the last block pools
by maximum, batch-norm eps is 1e-3. Features are means over the pixels of four places: after the first and the second max pool (64, 192), before Mixed_7a (768), after Mixed_7c (2048), as in pytorch-fid.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

FEATURE_DIMS = (64, 192, 768, 2048)
BATCH_NORM_EPS = 1e-3


def fold_batch_norm(state_dict: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Weight (O, I, kh, kw) and bias (O,) of convolution `name` with its batch norm folded in; float64 inside."""
    weight = state_dict[f"{name}.conv.weight"].double()
    gamma, beta, mean, var = (
        state_dict[f"{name}.bn.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / (var + BATCH_NORM_EPS).sqrt()
    return (weight * scale[:, None, None, None]).float(), (beta - mean * scale).float()


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

    def forward(self, x: Tensor) -> Tensor:  # (N, I, H, W) -> (N, O, H', W')
        return functional.conv2d(x, self.weight, self.bias, self.stride, self.padding).relu_()


def _average_pool(x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C, H, W)
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _halve(x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C, (H-1)//2, (W-1)//2)
    return functional.max_pool2d(x, 3, stride=2)


class _Block(nn.Module):
    """One Mixed block: its convolutions, looked up by pytorch-fid's branch names."""

    def __init__(self, state_dict: Mapping[str, Tensor], name: str, stride_two: tuple[str, ...] = ()) -> None:
        super().__init__()
        prefix = f"{name}."
        names = {key[len(prefix) :].split(".")[0] for key in state_dict if key.startswith(prefix)}
        for branch in sorted(names):
            halves = branch in stride_two
            convolution = Convolution(state_dict, f"{name}.{branch}", stride=2 if halves else 1, same=not halves)
            self.add_module(branch, convolution)


class BlockA(_Block):
    """Mixed_5b, 5c, 5d: 1×1, 5×5, double 3×3 and pooled branches at 35×35."""

    def forward(self, x: Tensor) -> Tensor:  # (N, C, 35, 35) -> (N, 224 + pool, 35, 35)
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch5x5_2(self.branch5x5_1(x)),
                self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
                self.branch_pool(_average_pool(x)),
            ],
            dim=1,
        )


class BlockB(_Block):
    """Mixed_6a: 35×35 to 17×17."""

    def forward(self, x: Tensor) -> Tensor:  # (N, 288, 35, 35) -> (N, 768, 17, 17)
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, _halve(x)], dim=1)


class BlockC(_Block):
    """Mixed_6b … 6e: 7×7 factored into 1×7 and 7×1, at 17×17."""

    def forward(self, x: Tensor) -> Tensor:  # (N, 768, 17, 17) -> (N, 768, 17, 17)
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
                self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
                self.branch_pool(_average_pool(x)),
            ],
            dim=1,
        )


class BlockD(_Block):
    """Mixed_7a: 17×17 to 8×8."""

    def forward(self, x: Tensor) -> Tensor:  # (N, 768, 17, 17) -> (N, 1280, 8, 8)
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), self.branch7x7x3_4(seven), _halve(x)], dim=1)


class BlockE(_Block):
    """Mixed_7b and 7c: 3×3 split into 1×3 beside 3×1, at 8×8; 7b pools by mean, 7c by maximum."""

    def __init__(self, state_dict: Mapping[str, Tensor], name: str, pool: str) -> None:
        super().__init__(state_dict, name)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:  # (N, C, 8, 8) -> (N, 2048, 8, 8)
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = _average_pool(x) if self.pool == "mean" else functional.max_pool2d(x, 3, stride=1, padding=1)
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(three),
                self.branch3x3_2b(three),
                self.branch3x3dbl_3a(double),
                self.branch3x3dbl_3b(double),
                self.branch_pool(pooled),
            ],
            dim=1,
        )


class Inception(nn.Module):
    """(N, 3, 299, 299) normalised images → (N, feature_dim) float32; only the layers that `feature_dim` needs."""

    def __init__(self, state_dict: Mapping[str, Tensor], feature_dim: int = 2048) -> None:
        super().__init__()
        if feature_dim not in FEATURE_DIMS:
            raise ValueError(f"feature_dim: expected one of {FEATURE_DIMS}, got {feature_dim!r}")
        self.feature_dim = feature_dim
        layers: list[nn.Module] = [
            Convolution(state_dict, "Conv2d_1a_3x3", stride=2, same=False),  # (N, 32, 149, 149)
            Convolution(state_dict, "Conv2d_2a_3x3", same=False),  # (N, 32, 147, 147)
            Convolution(state_dict, "Conv2d_2b_3x3"),  # (N, 64, 147, 147)
            nn.MaxPool2d(3, stride=2),  # (N, 64, 73, 73)
        ]
        if feature_dim >= 192:
            layers += [
                Convolution(state_dict, "Conv2d_3b_1x1"),  # (N, 80, 73, 73)
                Convolution(state_dict, "Conv2d_4a_3x3", same=False),  # (N, 192, 71, 71)
                nn.MaxPool2d(3, stride=2),  # (N, 192, 35, 35)
            ]
        if feature_dim >= 768:
            layers += [
                BlockA(state_dict, "Mixed_5b"),  # (N, 256, 35, 35)
                BlockA(state_dict, "Mixed_5c"),  # (N, 288, 35, 35)
                BlockA(state_dict, "Mixed_5d"),  # (N, 288, 35, 35)
                BlockB(state_dict, "Mixed_6a", ("branch3x3", "branch3x3dbl_3")),  # (N, 768, 17, 17)
                *(BlockC(state_dict, f"Mixed_6{letter}") for letter in "bcde"),  # (N, 768, 17, 17)
            ]
        if feature_dim == 2048:
            layers += [
                BlockD(state_dict, "Mixed_7a", ("branch3x3_2", "branch7x7x3_4")),  # (N, 1280, 8, 8)
                BlockE(state_dict, "Mixed_7b", pool="mean"),  # (N, 2048, 8, 8)
                BlockE(state_dict, "Mixed_7c", pool="max"),  # (N, 2048, 8, 8)
            ]
        self.layers = nn.Sequential(*layers)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, 299, 299) -> (N, D) float32
        return self.layers(x).mean(dim=(2, 3), dtype=torch.float32)
