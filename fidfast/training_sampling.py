"""Calling a training's own sampler for one batch, and leaving its model, random state and modes as they were."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fidfast.decode import images_of

Sample = Callable[[int, list[int]], Any]
# The longer side of a kept image: a grid of 16 is then at most 2 MB, whatever the model's resolution.
_THUMBNAIL = 128


def models_of(model: Any, sample: Any) -> list[torch.nn.Module]:
    """The modules that ``model=`` names; without it, the one whose method (or which itself) is the sampler."""
    if model is None:
        owner = sample if isinstance(sample, torch.nn.Module) else getattr(sample, "__self__", None)
        return [owner] if isinstance(owner, torch.nn.Module) else []
    models = list(model) if isinstance(model, list | tuple) else [model]
    for one in models:
        if not isinstance(one, torch.nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module or several, got {type(one).__name__}")
    return models


@contextlib.contextmanager
def sampling(models: Sequence[torch.nn.Module], seed: int) -> Iterator[None]:
    """Models in eval mode, no gradients, the global random generators (of the current CUDA device and of those that the
    models are on) at ``seed``; all as it was at exit.

    A sampler that draws from torch's, numpy's or Python's global generators is thus repeatable as well, and ranks draw
    differently; only a sampler that draws from its ``seeds`` alone makes the same images for any number of ranks.
    """
    modes = [(module, module.training) for model in models for module in model.modules()]
    devices = _cuda_devices(models)
    kinds = ("cpu", "cuda") if devices else ("cpu",)
    autocast = [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds]
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002  the caller's sampler may use it
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
        random.seed(seed)
        for model in models:
            model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            for kind, enabled, dtype in autocast:
                torch.set_autocast_enabled(kind, enabled)
                torch.set_autocast_dtype(kind, dtype)
            np.random.set_state(of_numpy)  # noqa: NPY002
            random.setstate(of_python)


def _cuda_devices(models: Sequence[torch.nn.Module]) -> list[int]:
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return []
    places = {parameter.device for model in models for parameter in model.parameters()}
    return sorted({torch.cuda.current_device()} | {place.index for place in places if place.type == "cuda"})


def sample_batch(sample: Sample, models: Sequence[torch.nn.Module], seeds: list[int]) -> list[Tensor]:
    """One image for each seed, each (3, H, W); an error where the sampler gives another number."""
    with sampling(models, seeds[0]):
        made = sample(len(seeds), list(seeds))
    if made is None:
        raise TypeError(f"sample({len(seeds)}, seeds): expected {len(seeds)} images, got None")
    images = images_of(made)
    if len(images) != len(seeds):
        raise ValueError(f"sample({len(seeds)}, seeds): expected {len(seeds)} images, got {len(images)}")
    return images


def thumbnail(image: Tensor, value_range: tuple[float, float] | None) -> Tensor:  # (3, H, W) → (3, h, w) uint8
    """A small copy to look at."""
    pixels = image.detach()
    if pixels.is_floating_point():
        low, high = value_range or (0.0, 1.0)
        pixels = ((pixels.float() - low) / (high - low) * 255).round().clamp(0, 255)
    shown = Image.fromarray(pixels.to(torch.uint8).permute(1, 2, 0).cpu().contiguous().numpy())
    shown.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return torch.from_numpy(np.array(shown)).permute(2, 0, 1).contiguous()


def save_grid(thumbnails: Sequence[Tensor], path: Path) -> None:  # each (3, h, w) uint8
    """A PNG of them all, about as wide as high."""
    columns = max(1, round(len(thumbnails) ** 0.5))
    height, width = (max(image.shape[side] for image in thumbnails) for side in (1, 2))
    rows = -(-len(thumbnails) // columns)
    grid = Image.new("RGB", (columns * (width + 2) - 2, rows * (height + 2) - 2), "white")
    for place, image in enumerate(thumbnails):
        corner = (place % columns * (width + 2), place // columns * (height + 2))
        grid.paste(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()), corner)
    path.parent.mkdir(parents=True, exist_ok=True)
    grid.save(path)
