"""Which images repeat: exact, from the 128-bit content hashes that the resize kernel makes on the side."""

from __future__ import annotations

import numpy as np
import torch


class ContentHashes:
    """The content hashes of one image set: 16 bytes an image, whatever the set's size."""

    def __init__(self) -> None:
        self._bytes = bytearray()  # one growing buffer: a list of small tensors would cost 10 times its content

    def extend(self, hashes: torch.Tensor) -> None:
        """Append ``hashes``  # (N, 2) int64 on any device"""
        self._bytes += hashes.cpu().contiguous().numpy().tobytes()

    def __len__(self) -> int:
        return len(self._bytes) // 16

    def sorted_unique(self) -> tuple[np.ndarray, np.ndarray]:
        """The different hashes in order, (U, 2) int64, and how often each stands, (U,) int64."""
        hashes = np.frombuffer(bytes(self._bytes), dtype=np.int64).reshape(-1, 2)
        if len(hashes) == 0:
            return hashes, np.zeros(0, dtype=np.int64)
        ordered = hashes[np.lexsort((hashes[:, 1], hashes[:, 0]))]
        starts = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)])
        return ordered[starts], np.diff(np.r_[starts, len(ordered)])


def count_duplicates(hashes: ContentHashes) -> dict[str, int]:
    """How many images, how many different ones, and how often the commonest stands."""
    _, counts = hashes.sorted_unique()
    return {
        "num_images": len(hashes),
        "num_unique": len(counts),
        "largest_multiplicity": int(counts.max()) if len(counts) else 0,
    }


def count_shared(generated: ContentHashes, real: ContentHashes) -> int:
    """How many of the generated images are, byte for byte, also among the real ones."""
    unique, counts = generated.sorted_unique()
    others, _ = real.sorted_unique()
    pair = np.dtype([("high", np.int64), ("low", np.int64)])
    return int(counts[np.isin(_as_pairs(unique, pair), _as_pairs(others, pair))].sum())


def _as_pairs(hashes: np.ndarray, pair: np.dtype) -> np.ndarray:
    return np.ascontiguousarray(hashes).view(pair).reshape(-1)


def describe_duplicates(side: str, counts: dict[str, int]) -> str | None:
    """One sentence when more than 0.1 % of the images of a side repeat others, else None."""
    num_images, num_unique = counts["num_images"], counts["num_unique"]
    if num_images - num_unique <= 0.001 * num_images:
        return None
    return (
        f"{side}: only {num_unique} of {num_images} images are different (one stands {counts['largest_multiplicity']} "
        "times); a generator seeded alike in every batch or on every rank does this"
    )
