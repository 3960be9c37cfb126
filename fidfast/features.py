"""Images to features: the FID Inception network in fixed-size chunks, or any module or callable in its place."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from fidfast import ops
from fidfast.chunk_graph import ChunkGraph
from fidfast.inception import FEATURE_DIMS, TAPS, Inception, check_taps
from fidfast.precision import DTYPES, network_switches, resolve_precision
from fidfast.preprocessing import get_preset
from fidfast.weights import FID_WEIGHTS_SHA256, open_weights

CPU_CHUNK = 8
CUDA_CHUNK = 64


class FeatureExtractor:
    """uint8 images → float32 features of the FID Inception network; feature_dim 64, 192, 768 or 2048 as in pytorch-fid.

    `taps`, in its place, are several outputs from one run, beside each other: those of feature_dim as "64" … "2048",
    "spatial" (sFID's), "logits_unbiased" and "logits" (the Inception Score's); see :meth:`split`.

    The network always sees `chunk_size` images (the last chunk is padded), so a feature does not depend on how callers
    batch. Gradients, autocast, TF32 and inference mode are set for each call and left as found. `compile=True` compiles
    in the constructor, which `compile_seconds` reports. Errors: ValueError naming the argument; WeightsError.
    """

    def __init__(
        self,
        feature_dim: int = 2048,
        *,
        preset: str = "pytorch-fid",
        device: str | torch.device | None = None,
        precision: str = "fp32",
        compile: bool = False,
        weights: str | os.PathLike[str] | None = None,
        taps: Sequence[str] | None = None,
    ) -> None:
        if taps is None and feature_dim not in FEATURE_DIMS:
            raise ValueError(f"feature_dim: expected one of {FEATURE_DIMS}, got {feature_dim!r}")
        self.tap_names = check_taps((str(feature_dim),) if taps is None else taps)
        self.feature_dim = sum(TAPS[tap][1] for tap in self.tap_names)
        self.preset: str | None = get_preset(preset).name
        self.device = resolve_device(device)
        self.precision: str | None = resolve_precision(precision, self.device)
        self.compile = compile
        self.identity = FID_WEIGHTS_SHA256
        self.chunk_size = CPU_CHUNK if self.device.type == "cpu" else CUDA_CHUNK
        self.compile_seconds = 0.0
        self._dtype = DTYPES[self.precision]
        logits = any(tap.startswith("logits") for tap in self.tap_names)
        _, state_dict = open_weights(weights, final_layer=True) if logits else open_weights(weights)
        with self._switches():
            network = Inception(state_dict, taps=self.tap_names).to(self.device, self._dtype)
            self._network: Callable[[Tensor], Tensor] = network
            kernels = network.prepare(self.chunk_size, onednn=not compile)
            if compile:
                kernels.append("torch.compile with frozen weights")
                self._compile()
            if self.device.type == "cuda":
                self._network = ChunkGraph(self._network)
                kernels = [*(kernels or ["torch conv2d"]), "CUDA graph"]
            self.kernels = {"network": "; ".join(kernels) or "torch conv2d"}

    def preprocess(
        self,
        images: Sequence[Tensor],  # n x (3, H, W) uint8 or float
        *,
        value_range: tuple[float, float] | None = None,
        quantize: str | None = "round",
        content_hash: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """((n, 3, 299, 299) normalised in the network's dtype on its device, (n, 2) int64 content hashes or None)."""
        x, hashes = ops.resize_normalize(
            images,
            self.preset or "",
            value_range=value_range,
            quantize=quantize,
            dtype=self._dtype,
            channels_last=True,
            content_hash=content_hash,
            device=self.device,
        )
        return x, hashes if content_hash else None

    def network(self, x: Tensor) -> Tensor:  # (n, 3, 299, 299) -> (n, D) float32
        """Features of at most `chunk_size` preprocessed images, computed as a full chunk."""
        with self._switches():
            return _run_chunk(self._network, x, self.chunk_size)

    def split(self, features: Tensor) -> dict[str, Tensor]:  # (N, D) -> (N, width of each tap)
        """The columns of each tap."""
        return dict(zip(self.tap_names, features.split([TAPS[tap][1] for tap in self.tap_names], dim=1), strict=True))

    def taps(
        self,
        images: Sequence[Tensor] | Tensor,  # N x (3, H, W) or (N, 3, H, W)
        *,
        value_range: tuple[float, float] | None = None,
        quantize: str | None = "round",
    ) -> dict[str, Tensor]:
        """Each tap of RGB images, (N, width) float32, from one run of the network."""
        return self.split(_extract(self, images, value_range, quantize))

    def __call__(
        self,
        images: Sequence[Tensor] | Tensor,  # N x (3, H, W) or (N, 3, H, W)
        *,
        value_range: tuple[float, float] | None = None,
    ) -> Tensor:
        """(N, D) float32 features of RGB images: uint8, or float with value_range (0, 1) or (-1, 1), rounded."""
        return _extract(self, images, value_range)

    def _switches(self) -> contextlib.AbstractContextManager[None]:
        return network_switches(self.device, tf32=self.precision == "tf32")

    def _compile(self) -> None:
        self._network = torch.compile(self._network, options={"freezing": True})
        x = torch.zeros(self.chunk_size, 3, 299, 299, dtype=self._dtype, device=self.device)
        started = time.perf_counter()
        self.network(x.contiguous(memory_format=torch.channels_last))
        self.compile_seconds = time.perf_counter() - started


class CallableExtractor:
    """Any nn.Module or callable as the feature extractor: uint8 images (N, 3, H, W) → features (N, D).

    A module runs where its parameters or buffers are, in eval mode (its training flags are put back). The images of one
    chunk must share one size. `feature_dim` is None until the first chunk has shown it. Errors: TypeError, ValueError.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], *, device: str | torch.device | None = None) -> None:
        if not callable(function):
            raise TypeError(f"feature_extractor: expected an nn.Module or a callable, got {type(function).__name__}")
        self._function = function
        module = function if isinstance(function, nn.Module) else nn.Module()
        placed: Tensor | None = next(chain(module.parameters(), module.buffers()), None)
        self.device = placed.device if device is None and placed is not None else resolve_device(device or "cpu")
        if placed is not None and placed.device != self.device:
            raise ValueError(f"device: expected the feature_extractor on {self.device}, got {placed.device}; move it")
        self.feature_dim: int | None = None
        self.preset: str | None = None
        self.precision: str | None = None
        self.compile = False
        self.compile_seconds = 0.0
        self.chunk_size = CPU_CHUNK if self.device.type == "cpu" else CUDA_CHUNK
        self.identity = _identity(function)
        self.kernels = {"network": self.identity.split(" ")[0]}

    def preprocess(
        self,
        images: Sequence[Tensor],  # n x (3, H, W) uint8 or float
        *,
        value_range: tuple[float, float] | None = None,
        quantize: str | None = "round",
        content_hash: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """((n, 3, H, W) uint8 on the extractor's device, (n, 2) int64 content hashes or None)."""
        if len({image.dtype == torch.uint8 for image in images}) > 1:
            raise TypeError("images: expected all uint8 or all floating point, got both")
        sizes = {tuple(image.shape) for image in images}
        if len(sizes) != 1:
            raise ValueError(
                f"images: your feature_extractor needs images of one size, got {sorted(sizes)}; resize them first"
            )
        x = torch.stack([_to_uint8(image, value_range, quantize) for image in images])
        hashes = ops.content_hash(list(x)) if content_hash else None
        return x.to(self.device), hashes

    def split(self, features: Tensor) -> dict[str, Tensor]:
        """{"features": features}, as the only tap."""
        return {"features": features}

    def network(self, x: Tensor) -> Tensor:  # (n, 3, H, W) uint8 -> (n, D) float32
        """Features of at most `chunk_size` images, computed as a full chunk."""
        with torch.no_grad(), _eval_mode(self._function):
            features = _run_chunk(self._function, x, self.chunk_size)
        if self.feature_dim not in (None, features.shape[1]):
            shape = tuple(features.shape)
            raise ValueError(f"feature_extractor: expected features (N, {self.feature_dim}) as before, got {shape}")
        self.feature_dim = features.shape[1]
        return features.to(torch.float32, copy=True)  # a function may fill one buffer again and again

    def __call__(
        self,
        images: Sequence[Tensor] | Tensor,  # N x (3, H, W) or (N, 3, H, W)
        *,
        value_range: tuple[float, float] | None = None,
    ) -> Tensor:
        """(N, D) float32 features of RGB images: uint8, or float with value_range (0, 1) or (-1, 1), rounded."""
        return _extract(self, images, value_range)


def resolve_extractor(
    feature_extractor: Any = None,
    *,
    preset: str = "pytorch-fid",
    feature_dim: int = 2048,
    device: str | torch.device | None = None,
    precision: str = "fp32",
    compile: bool = False,
    weights: str | os.PathLike[str] | None = None,
    taps: Sequence[str] | None = None,
) -> FeatureExtractor | CallableExtractor:
    """The FID network with these options, or the caller's own extractor, to which only `device` applies."""
    if feature_extractor is None:
        return FeatureExtractor(
            feature_dim, preset=preset, device=device, precision=precision, compile=compile, weights=weights, taps=taps
        )
    own = (("precision", precision, "fp32"), ("compile", compile, False), ("weights", weights, None))
    for name, value, default in own:
        if value != default:
            raise ValueError(f"{name}: applies to the FID network only, expected {default!r} beside feature_extractor=")
    if isinstance(feature_extractor, (FeatureExtractor, CallableExtractor)):
        return feature_extractor
    return CallableExtractor(feature_extractor, device=device)


def single_tap(extractor: FeatureExtractor | CallableExtractor) -> FeatureExtractor | CallableExtractor:
    """What it was given; ValueError for several taps beside each other, whose distance together means nothing."""
    if isinstance(extractor, FeatureExtractor) and len(extractor.tap_names) > 1:
        taps = ", ".join(extractor.tap_names)
        raise ValueError(f"feature_extractor: expected one of a single tap, got a FeatureExtractor of {taps}")
    return extractor


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device meant, of CUDA ones the index too; None is the current one of CUDA, or the CPU. ValueError."""
    if device is None:
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises each of them for this
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"device: expected one that torch can use here, got {str(device)!r}: {reason}") from error
    return torch.device("cuda", torch.cuda.current_device()) if str(resolved) == "cuda" else resolved


def _run_chunk(function: Callable[[Tensor], Tensor], x: Tensor, size: int) -> Tensor:
    """The first len(x) rows of `function` on x padded with zeros to `size` images."""
    count = len(x)
    if not 1 <= count <= size:
        raise ValueError(f"x: expected 1 to {size} images, got {count}")
    if x.is_inference():
        x = x.clone()  # an inference tensor would make torch.compile specialise once more
    if count < size:
        padded = torch.zeros_like(x[:1]).expand(size, *x.shape[1:]).clone(memory_format=_memory_format(x))
        padded[:count] = x
        x = padded
    features = function(x)
    if not isinstance(features, Tensor) or features.ndim != 2 or not features.is_floating_point():
        got = (tuple(features.shape), features.dtype) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"feature_extractor: expected floating-point features (N, D), got {got}")
    if len(features) != size:
        raise ValueError(
            f"feature_extractor: expected one row of features for each of {size} images, got {tuple(features.shape)}"
        )
    return features[:count]


def _memory_format(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


def _extract(
    extractor: FeatureExtractor | CallableExtractor,
    images: Sequence[Tensor] | Tensor,
    value_range: tuple[float, float] | None,
    quantize: str | None = "round",
) -> Tensor:
    rows = []
    for start in range(0, len(images), extractor.chunk_size):
        chunk = list(images[start : start + extractor.chunk_size])
        x, _ = extractor.preprocess(chunk, value_range=value_range, quantize=quantize)
        rows.append(extractor.network(x))
    if not rows:
        return torch.empty(0, extractor.feature_dim or 0, dtype=torch.float32, device=extractor.device)
    return torch.cat(rows)


def _to_uint8(image: Tensor, value_range: tuple[float, float] | None, quantize: str | None) -> Tensor:
    """(3, H, W) uint8 of a uint8 or float image."""
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise TypeError(f"images: expected uint8 or floating point, got {image.dtype}")
    if value_range is None or tuple(value_range) not in ((0.0, 1.0), (-1.0, 1.0)):
        raise ValueError(f"value_range: float images need (0, 1) or (-1, 1), got {value_range!r}")
    if quantize not in ("round", "truncate"):
        raise ValueError(f"quantize: your feature_extractor takes uint8: 'round' or 'truncate', got {quantize!r}")
    low, high = value_range
    slack = 0.25 * (high - low)  # as the resize kernel allows
    if not bool(((image >= low - slack) & (image <= high + slack)).all()):
        got = "NaN" if bool(image.isnan().any()) else f"values from {image.min():g} to {image.max():g}"
        raise ValueError(f"images: expected values in [{low:g}, {high:g}] (value_range), got {got}")
    values = ((image.float() - low) * (255.0 / (high - low))).clamp(0.0, 255.0)
    return (values.round() if quantize == "round" else values.trunc()).to(torch.uint8)


@contextlib.contextmanager
def _eval_mode(function: Any) -> Iterator[None]:
    modules = list(function.modules()) if isinstance(function, nn.Module) else []
    training = [module for module in modules if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def _identity(function: Any) -> str:
    """Name of the callable; for a module also sha256 of its state: other weights are another network."""
    kind = type(function) if isinstance(function, nn.Module) or not hasattr(function, "__qualname__") else function
    name = f"{kind.__module__}.{kind.__qualname__}"
    if not isinstance(function, nn.Module):
        return name
    digest = hashlib.sha256()
    for key, tensor in sorted(function.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return f"{name} sha256 {digest.hexdigest()}"
