"""Seeds that make a set of images independent of the number of ranks and of the batch size."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist

_WORD = 0xFFFFFFFF


def image_seeds(
    num_samples: int, seed: int, *, rank: int | None = None, world_size: int | None = None
) -> Iterator[tuple[int, int]]:
    """This rank's (index, seed) pairs: index rank, rank + world_size, …, one seed for each image.

    All ranks together yield the indices 0 … num_samples-1 once each, and an index has the same seed whatever their
    number: an image made from its seed alone is then the same on any machine, and no two ranks make the same one.
    Give the indices to :meth:`fidfast.FID.update` and the seeds to :func:`randn_per_image` or a generator of your own.

    Args:
        num_samples: images on all ranks together.
        seed: of the whole set; other seeds give other images.
        rank, world_size: default: those of torch.distributed where it is initialised, else 0 and 1.

    Yields:
        seeds in [0, 2⁶³), different in their low 32 bits as well: those are all that torch's CPU generator takes.
    """
    _check_whole("num_samples", num_samples, 0)
    _check_whole("seed", seed)
    if (rank is None) != (world_size is None):
        raise ValueError(f"rank and world_size: expected both or neither, got {rank!r} and {world_size!r}")
    if rank is None or world_size is None:
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if _distributed() else (0, 1)
    _check_whole("world_size", world_size, 1)
    _check_whole("rank", rank, 0)
    if rank >= world_size:
        raise ValueError(f"rank: expected 0 to {world_size - 1} for world_size={world_size}, got {rank}")
    return ((index, _derive(seed, index)) for index in range(rank, num_samples, world_size))


def rank_seed(seed: int, *, rank: int | None = None) -> int:
    """A seed of this rank's own, for ``torch.manual_seed``: what it makes depends on the number of ranks.

    ``rank`` defaults to that of torch.distributed, or of torchrun's environment before its initialisation, else 0.
    """
    _check_whole("seed", seed)
    if rank is None:
        rank = dist.get_rank() if _distributed() else int(os.environ.get("RANK", 0))
    _check_whole("rank", rank, 0)
    return _derive(seed ^ 0x52414E4B, rank)  # not the seeds of the first images


def randn_per_image(
    shape: Sequence[int],
    seeds: Sequence[int],
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:  # (len(seeds), *shape)
    """Standard normal noise, each image's from its own seed: bit-equal for any batch and any device (drawn on the CPU).

    Leaves torch's global random state alone.
    """
    noise = torch.empty(len(seeds), *shape, dtype=dtype, device="cpu")
    generator = torch.Generator(device="cpu")
    for row, seed in zip(noise, seeds, strict=True):
        row.normal_(generator=generator.manual_seed(int(seed)))
    return noise if device is None else noise.to(device)


def _derive(seed: int, index: int) -> int:
    """63 bits: the low 32 are a permutation of the index, the others a hash of both."""
    key = _mix64(seed)
    return (_mix64(key ^ index) >> 33) << 32 | _mix32((index + key) & _WORD)


def _mix32(x: int) -> int:  # a bijection: murmur3's finaliser
    x = ((x ^ x >> 16) * 0x85EBCA6B) & _WORD
    x = ((x ^ x >> 13) * 0xC2B2AE35) & _WORD
    return x ^ x >> 16


def _mix64(x: int) -> int:  # splitmix64
    mask = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & mask
    return x ^ x >> 31


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _check_whole(name: str, value: int, least: int | None = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        expected = "a whole number" if least is None else f"a whole number of at least {least}"
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
