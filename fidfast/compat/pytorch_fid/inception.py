"""pytorch_fid.inception: the FID Inception network as feature maps, differentiable, with pytorch-fid's state_dict keys.

Where no gradient is asked for and the weights are as loaded, the final average pool comes from fidfast's own network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fidfast import FeatureExtractor
from fidfast.inception import BATCH_NORM_EPS, BlockA, BlockB, BlockC, BlockD, BlockE, BlockEMax
from fidfast.weights import RELEASE_URL, WeightsError, open_weights

FID_WEIGHTS_URL = RELEASE_URL


class _Convolution(nn.Module):
    """Convolution, batch norm, ReLU; `same` pads so that stride 1 keeps the size."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int] = 1, *, stride: int = 1,
                 same: bool = True) -> None:  # fmt: skip
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if same else 0
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=BATCH_NORM_EPS)

    def forward(self, x: Tensor, relu: bool = True) -> Tensor:  # (N, I, H, W) -> (N, O, H', W')
        y = self.bn(self.conv(x))
        return functional.relu(y, inplace=True) if relu else y


def _build(block: Any, shapes: dict[str, tuple[Any, ...]]) -> None:
    """The branches of a Mixed block, each (inputs, outputs[, kernel]), in the place of fidfast's folded ones."""
    nn.Module.__init__(block)
    for name, shape in shapes.items():
        halves = name in block.halving
        block.add_module(name, _Convolution(*shape, stride=2 if halves else 1, same=not halves))


class FIDInceptionA(BlockA):
    """Mixed_5b, 5c, 5d."""

    def __init__(self, in_channels: int, pool_features: int) -> None:
        shapes = {
            "branch1x1": (in_channels, 64),
            "branch5x5_1": (in_channels, 48),
            "branch5x5_2": (48, 64, 5),
            "branch3x3dbl_1": (in_channels, 64),
            "branch3x3dbl_2": (64, 96, 3),
            "branch3x3dbl_3": (96, 96, 3),
            "branch_pool": (in_channels, pool_features),
        }
        _build(self, shapes)


class _InceptionB(BlockB):
    """Mixed_6a."""

    def __init__(self, in_channels: int) -> None:
        shapes = {
            "branch3x3": (in_channels, 384, 3),
            "branch3x3dbl_1": (in_channels, 64),
            "branch3x3dbl_2": (64, 96, 3),
            "branch3x3dbl_3": (96, 96, 3),
        }
        _build(self, shapes)


class FIDInceptionC(BlockC):
    """Mixed_6b … 6e."""

    def __init__(self, in_channels: int, channels_7x7: int) -> None:
        inner = channels_7x7
        shapes = {
            "branch1x1": (in_channels, 192),
            "branch7x7_1": (in_channels, inner),
            "branch7x7_2": (inner, inner, (1, 7)),
            "branch7x7_3": (inner, 192, (7, 1)),
            "branch7x7dbl_1": (in_channels, inner),
            "branch7x7dbl_2": (inner, inner, (7, 1)),
            "branch7x7dbl_3": (inner, inner, (1, 7)),
            "branch7x7dbl_4": (inner, inner, (7, 1)),
            "branch7x7dbl_5": (inner, 192, (1, 7)),
            "branch_pool": (in_channels, 192),
        }
        _build(self, shapes)


class _InceptionD(BlockD):
    """Mixed_7a."""

    def __init__(self, in_channels: int) -> None:
        shapes = {
            "branch3x3_1": (in_channels, 192),
            "branch3x3_2": (192, 320, 3),
            "branch7x7x3_1": (in_channels, 192),
            "branch7x7x3_2": (192, 192, (1, 7)),
            "branch7x7x3_3": (192, 192, (7, 1)),
            "branch7x7x3_4": (192, 192, 3),
        }
        _build(self, shapes)


def _shapes_of_e(in_channels: int) -> dict[str, tuple[Any, ...]]:
    return {
        "branch1x1": (in_channels, 320),
        "branch3x3_1": (in_channels, 384),
        "branch3x3_2a": (384, 384, (1, 3)),
        "branch3x3_2b": (384, 384, (3, 1)),
        "branch3x3dbl_1": (in_channels, 448),
        "branch3x3dbl_2": (448, 384, 3),
        "branch3x3dbl_3a": (384, 384, (1, 3)),
        "branch3x3dbl_3b": (384, 384, (3, 1)),
        "branch_pool": (in_channels, 192),
    }


class FIDInceptionE_1(BlockE):
    """Mixed_7b."""

    def __init__(self, in_channels: int) -> None:
        _build(self, _shapes_of_e(in_channels))


class FIDInceptionE_2(BlockEMax):
    """Mixed_7c, which pools by maximum."""

    def __init__(self, in_channels: int) -> None:
        _build(self, _shapes_of_e(in_channels))


class _FIDInception(nn.Module):
    """The whole network: images (N, 3, 299, 299) in [-1, 1] → logits (N, 1008)."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Convolution(3, 32, 3, stride=2, same=False)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3, same=False)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2)
        self.Conv2d_3b_1x1 = _Convolution(64, 80)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3, same=False)
        self.maxpool2 = nn.MaxPool2d(3, stride=2)
        self.Mixed_5b = FIDInceptionA(192, 32)
        self.Mixed_5c = FIDInceptionA(256, 64)
        self.Mixed_5d = FIDInceptionA(288, 64)
        self.Mixed_6a = _InceptionB(288)
        self.Mixed_6b = FIDInceptionC(768, 128)
        self.Mixed_6c = FIDInceptionC(768, 160)
        self.Mixed_6d = FIDInceptionC(768, 160)
        self.Mixed_6e = FIDInceptionC(768, 192)
        self.Mixed_7a = _InceptionD(768)
        self.Mixed_7b = FIDInceptionE_1(1280)
        self.Mixed_7c = FIDInceptionE_2(2048)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout()
        self.fc: nn.Linear | None = nn.Linear(2048, 1008)

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, 299, 299) -> (N, 1008)
        if self.fc is None:
            raise WeightsError(
                "the weight file has no final layer, so there are no logits; pytorch-fid's release "
                f"({RELEASE_URL}) has one"
            )
        for module in self.children():
            x = module(x) if module is not self.fc else module(x.flatten(1))
        return x


def fid_inception_v3() -> _FIDInception:
    """The FID Inception network with its weights, in eval mode, under torchvision's names."""
    _, state = open_weights()
    with torch.inference_mode(False), torch.device("meta"):
        network = _FIDInception()
        network = network.to_empty(device="cpu")
        if not {"fc.weight", "fc.bias"} <= set(state):
            network.fc = None
        for name, buffer in network.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.zero_()
        network.load_state_dict(state, strict=False)
    return network.eval()


class InceptionV3(nn.Module):
    """Feature maps of the FID Inception network at some of four places.

    Args:
        output_blocks: of 0 (N, 64, 73, 73), 1 (N, 192, 35, 35), 2 (N, 768, 17, 17), 3 (N, 2048, 1, 1).
        resize_input: resize to 299 x 299 first, bilinear without antialias.
        normalize_input: images come in [0, 1]; else in [-1, 1].
        requires_grad: of the parameters. Only then does `train()` reach the batch norms, which pytorch-fid leaves in
            training mode until `eval()` is called.
        use_fid_inception: only True; the network of torchvision has other weights and gives no FID.
    """

    DEFAULT_BLOCK_INDEX = 3
    BLOCK_INDEX_BY_DIM = {64: 0, 192: 1, 768: 2, 2048: 3}  # noqa: RUF012  pytorch-fid's name for a constant

    def __init__(
        self,
        output_blocks: Sequence[int] = (DEFAULT_BLOCK_INDEX,),
        resize_input: bool = True,
        normalize_input: bool = True,
        requires_grad: bool = False,
        use_fid_inception: bool = True,
    ) -> None:
        super().__init__()
        if not use_fid_inception:
            raise ValueError(
                "use_fid_inception: expected True, got False: fidfast has the FID Inception network only; for "
                "torchvision's, give it to fidfast.compute_fid as feature_extractor"
            )
        self.output_blocks = sorted(output_blocks)
        if not self.output_blocks or not 0 <= self.output_blocks[0] <= self.output_blocks[-1] <= 3:
            raise ValueError(f"output_blocks: expected some of 0, 1, 2, 3, got {list(output_blocks)}")
        self.last_needed_block = self.output_blocks[-1]
        self.resize_input, self.normalize_input = resize_input, normalize_input
        network = fid_inception_v3()
        names = [name for name, _ in network.named_children() if name not in ("dropout", "fc")]
        ends = [names.index(name) + 1 for name in ("maxpool1", "maxpool2", "Mixed_6e", "avgpool")]
        self.blocks = nn.ModuleList(
            nn.Sequential(*(getattr(network, name) for name in names[start:end]))
            for start, end in zip([0, *ends], ends[: self.last_needed_block + 1], strict=False)
        )
        self.requires_grad_(requires_grad)
        self._trainable = requires_grad
        self._extractors: dict[tuple[int, str], FeatureExtractor] = {}
        self._loaded = self._versions()
        self.eval()

    def forward(self, inp: Tensor) -> list[Tensor]:  # (N, 3, H, W) in [0, 1]
        """The maps of `output_blocks`, by their place in the network."""
        fast = self._fast(inp) if self.output_blocks == [3] else None
        return self._maps(inp) if fast is None else [fast[:, :, None, None]]

    def pooled(self, inp: Tensor) -> Tensor:  # (N, 3, H, W) in [0, 1] -> (N, D)
        """The mean of the first output over its pixels."""
        fast = self._fast(inp)
        return self._maps(inp)[0].mean(dim=(2, 3)) if fast is None else fast

    def _maps(self, x: Tensor) -> list[Tensor]:
        maps = []
        if self.resize_input:
            x = functional.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
        if self.normalize_input:
            x = 2 * x - 1
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.output_blocks:
                maps.append(x)
        return maps

    def extractor(self, dims: int, device: Any) -> FeatureExtractor | None:
        """fidfast's network for the mean of the first output, if it computes the same; else None."""
        usual = self.resize_input and self.normalize_input and not self.training
        parameter = next(self.parameters())
        if not usual or self.BLOCK_INDEX_BY_DIM.get(dims) != self.output_blocks[0]:
            return None
        if parameter.dtype != torch.float32 or self._versions() != self._loaded:
            return None
        key = dims, str(device)
        if key not in self._extractors:
            with torch.inference_mode(False):
                self._extractors[key] = FeatureExtractor(taps=(str(dims),), preset="pytorch-fid", device=device)
        return self._extractors[key]

    def train(self, mode: bool = True) -> InceptionV3:
        """As any module, if requires_grad; else the network stays in eval mode, whatever it is part of."""
        return super().train(mode and self._trainable)

    def _fast(self, inp: Tensor) -> Tensor | None:  # (N, D)
        """fidfast's features, unless a gradient is wanted or the images are far outside [0, 1], where it refuses."""
        parameter = next(self.parameters(), None)  # none in a replica of nn.DataParallel
        if parameter is None or torch.compiler.is_compiling():
            return None
        if torch.is_grad_enabled() and (inp.requires_grad or parameter.requires_grad):
            return None
        if inp.dtype != torch.float32 or inp.device != parameter.device or not len(inp):
            return None
        dims = next(dims for dims, block in self.BLOCK_INDEX_BY_DIM.items() if block == self.output_blocks[0])
        extractor = self.extractor(dims, inp.device)
        if extractor is None or not bool((inp.min() >= -0.25) & (inp.max() <= 1.25)):
            return None
        return extractor.taps(inp, value_range=(0, 1), quantize=None)[str(dims)]

    def _versions(self) -> tuple[int, ...]:
        """What counts every change in place of a weight."""
        tensors = self.state_dict(keep_vars=True).values()
        return tuple(0 if tensor.is_inference() else tensor._version for tensor in tensors)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> InceptionV3:
        untouched = self._versions() == self._loaded
        super()._apply(fn, recurse)  # to another device or dtype
        if untouched:
            self._loaded = self._versions()
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_extractors": {}, "_loaded": self._versions() == self._loaded}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._loaded = self._versions() if state["_loaded"] else ()
