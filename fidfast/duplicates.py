"""Which images repeat: exact, from the 128-bit content hashes that the resize kernel makes on the side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

# More than this share of images that repeat others is no accident.
THRESHOLD = 0.001
_PAIR = np.dtype([("high", np.int64), ("low", np.int64)])


class DuplicateImagesError(ValueError):
    """Ranks made the same images; ``report`` says how many, and which ranks share how many with which."""

    def __init__(self, message: str, report: dict[str, Any]) -> None:
        super().__init__(message)
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        return DuplicateImagesError, (str(self), self.report)


class ContentHashes:
    """The content hashes of one image set: 16 bytes an image, whatever the set's size."""

    def __init__(self) -> None:
        self._bytes = bytearray()  # one growing buffer: a list of small tensors would cost 10 times its content

    def extend(self, hashes: torch.Tensor) -> None:
        """Append ``hashes``  # (N, 2) int64 on any device"""
        self._bytes += hashes.cpu().contiguous().numpy().tobytes()

    def __len__(self) -> int:
        return len(self._bytes) // 16

    def array(self) -> np.ndarray:
        """(N, 2) int64, in the order they came, a copy."""
        return np.frombuffer(bytes(self._bytes), dtype=np.int64).reshape(-1, 2)


def unique_hashes(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different ones of (N, 2) int64 in order, (U, 2), and how often each stands, (U,) int64."""
    if len(hashes) == 0:
        return hashes, np.zeros(0, dtype=np.int64)
    ordered = hashes[np.lexsort((hashes[:, 1], hashes[:, 0]))]
    starts = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)])
    return ordered[starts], np.diff(np.r_[starts, len(ordered)])


def count_duplicates(hashes: np.ndarray) -> dict[str, int]:  # (N, 2) int64
    """How many images, how many different ones, and how often the commonest stands."""
    _, counts = unique_hashes(hashes)
    return {
        "num_images": len(hashes),
        "num_unique": len(counts),
        "largest_multiplicity": int(counts.max()) if len(counts) else 0,
    }


def count_shared(generated: np.ndarray, real: np.ndarray) -> int:
    """How many of the generated images (N, 2) int64 are, byte for byte, also among the real ones (M, 2)."""
    unique, counts = unique_hashes(generated)
    return int(counts[np.isin(_as_pairs(unique), _as_pairs(real))].sum())


def _as_pairs(hashes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(hashes).view(_PAIR).reshape(-1)


def report_duplicates(by_rank: Sequence[np.ndarray]) -> dict[str, Any]:
    """What repeats in the images of all ranks, (n, 2) int64 hashes each; plain JSON types.

    Beside the counts of :func:`count_duplicates`: ``num_effective``, n²/Σm² of images that stand m times;
    ``images_by_rank`` and ``unique_by_rank``; ``overlap``, how many different images ranks i and j have in common; and
    ``same_images``, the ranks that share images with others although each is diverse within itself: same seeds.
    """
    unique = [unique_hashes(hashes)[0] for hashes in by_rank]
    _, counts = unique_hashes(np.concatenate(list(by_rank)))
    num_images, size = int(counts.sum()), len(by_rank)
    overlap = np.diag([len(hashes) for hashes in unique])
    if size > 1:
        owner = np.repeat(np.arange(size), [len(hashes) for hashes in unique])
        _, place, seen = np.unique(_as_pairs(np.concatenate(unique)), return_inverse=True, return_counts=True)
        common = seen[place] > 1  # images of more than one rank, one row each
        rows = np.unique(place[common], return_inverse=True)[1]
        held = np.zeros((int(rows.max()) + 1 if len(rows) else 0, size), dtype=np.float64)
        held[rows, owner[common]] = 1
        shared = (held.T @ held).astype(np.int64)
        overlap = np.where(np.eye(size, dtype=bool), overlap, shared)
    images = [len(hashes) for hashes in by_rank]
    diverse = [_is_diverse(n, len(hashes)) for n, hashes in zip(images, unique, strict=True)]
    alike = {
        rank
        for i in range(size)
        for j in range(i)
        if diverse[i] and diverse[j] and _is_evidence(int(overlap[i, j]), min(len(unique[i]), len(unique[j])))
        for rank in (i, j)
    }
    return {
        "num_images": num_images,
        "num_unique": len(counts),
        "largest_multiplicity": int(counts.max()) if len(counts) else 0,
        "num_effective": num_effective(counts),
        "images_by_rank": images,
        "unique_by_rank": [len(hashes) for hashes in unique],
        "overlap": overlap.tolist(),
        "same_images": sorted(alike),
    }


def num_effective(counts: np.ndarray) -> int:
    """How many different images a set is as good as whose images stand ``counts`` (U,) times: n²/Σm²."""
    return int(counts.sum()) ** 2 // int((counts**2).sum()) if len(counts) else 0


def _is_diverse(num_images: int, num_unique: int) -> bool:
    return num_images - num_unique <= max(1, THRESHOLD * num_images)


def _is_evidence(shared: int, least: int) -> bool:
    """One image in common can be the black one that a generator fails with."""
    return shared >= 2 and shared > THRESHOLD * least


def describe_overlap(ranks: str, report: dict[str, Any]) -> str:
    """What the error says of ``ranks`` ("ranks 0–3"), and what to do."""
    return (
        f"{ranks} produced identical images: of {report['num_images']} images only {report['num_unique']} are "
        "different, and each rank repeats none of its own. They were seeded alike: give each rank its own seed, for "
        "example fidfast.image_seeds(num_samples, seed) or torch.manual_seed(fidfast.rank_seed(seed)). If it is a "
        "sampler that repeats images to pad the last batches, pass index= to update(). "
        'compute(duplicates="ignore") gives the number all the same'
    )


class FirstImages:
    """What each rank publishes of its first images, and the comparison with what the others have published."""

    # A batch that agrees with another rank's is found by its first images; 24 bytes each travel.
    LIMIT = 64

    def __init__(self) -> None:
        self._others: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @staticmethod
    def pack(hashes: np.ndarray, indices: np.ndarray | None) -> bytes:
        """(n, 2) hashes and, where known, (n,) global indices."""
        known = np.full(len(hashes), -1, dtype=np.int64) if indices is None else indices
        return np.column_stack([hashes, known])[: FirstImages.LIMIT].astype(np.int64).tobytes()

    def knows(self, rank: int) -> bool:
        return rank in self._others

    def of(self, rank: int) -> np.ndarray:
        """(n, 2) int64"""
        return self._others[rank][0]

    def learn(self, rank: int, data: bytes) -> None:
        columns = np.frombuffer(data, dtype=np.int64).reshape(-1, 3)
        self._others[rank] = np.ascontiguousarray(columns[:, :2]), columns[:, 2]

    def alike(self, hashes: np.ndarray, indices: np.ndarray | None) -> list[int]:
        """The ranks whose first images are mostly among these (n, 2), both diverse: no accident, whatever comes later.

        The same image under the same global index is a sampler's padding, not a duplicate.
        """
        unique = unique_hashes(hashes)[0]
        if not _is_diverse(len(hashes), len(unique)):
            return []
        place = {pair: row for row, pair in enumerate(map(tuple, hashes.tolist()))}
        found = []
        for rank, (theirs, their_indices) in self._others.items():
            pairs = list(map(tuple, theirs.tolist()))
            rows = [(place[pair], index) for pair, index in zip(pairs, their_indices, strict=True) if pair in place]
            shared = sum(indices is None or index < 0 or indices[row] != index for row, index in rows)
            if shared >= 2 and 2 * shared >= min(len(pairs), len(unique)) and _is_diverse(len(pairs), len(set(pairs))):
                found.append(rank)
        return found


def describe_duplicates(side: str, counts: dict[str, int]) -> str | None:
    """One sentence when more than 0.1 % of the images of a side repeat others, else None."""
    num_images, num_unique = counts["num_images"], counts["num_unique"]
    if num_images - num_unique <= THRESHOLD * num_images:
        return None
    return (
        f"{side}: only {num_unique} of {num_images} images are different (one stands {counts['largest_multiplicity']} "
        "times); a generator seeded alike in every batch or on every rank does this"
    )
