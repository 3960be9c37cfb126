"""The FID inside a training loop: images as they are made, on every rank, and one number at the end."""

from __future__ import annotations

import os
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from fidfast.accumulate import Accumulator, Extractor, Side, check_index, with_places
from fidfast.decode import images_of
from fidfast.distributed import TIMEOUT, Ranks, name_ranks
from fidfast.duplicates import (
    THRESHOLD,
    DuplicateImagesError,
    FirstImages,
    count_shared,
    describe_duplicates,
    describe_overlap,
    report_duplicates,
)
from fidfast.eager import eager
from fidfast.error_bars import GROUPS
from fidfast.features import resolve_device, resolve_extractor, single_tap
from fidfast.precision import undisturbed
from fidfast.preprocessing import get_preset
from fidfast.result import FidfastWarning, FIDResult
from fidfast.sides import (
    check_choice,
    empty_statistics,
    is_statistics,
    load_statistics,
    make_result,
    open_side,
    read_side,
)
from fidfast.statistics import FeatureStatistics, check_comparable

_POLICIES = ("error", "warn", "ignore")
_networks: weakref.WeakValueDictionary[tuple, Any] = weakref.WeakValueDictionary()  # shared where options are equal
# The n-th metric of a group on this rank meets the n-th on the others.
_made: Counter[str] = Counter()
# How many other ranks' first images one update looks for: the store is asked little, and seeds are found alike at once.
_LOOK_AT = 8


class FID:
    """The Fréchet Inception Distance of images that come in batches, on every rank of a process group.

    ``update`` is never a collective: ranks may call it as often as they have images. ``compute`` is one: every rank
    calls it, and all return the same result. It first meets in the process group's store, where ranks that are missing
    or differ are named. Memory does not grow with n, but for 24 bytes an image (its hash and index). The random state,
    autocast, grad mode and the TF32 and cuDNN switches are as they were after every call. Not thread-safe.

    Args:
        reference: statistics, their file, or images: whatever :func:`fidfast.compute_fid` takes. Images are read at the
            first ``compute`` (or ``prepare``), each rank its share.
        preset, feature_dim, device, precision, compile, weights, feature_extractor, quantize, num_workers,
            allow_pickle: as for :func:`fidfast.compute_fid`. Metrics with the same options share one network.
        value_range: (0, 1) or (-1, 1): of float images, unless ``update`` says otherwise.
        duplicates: what to do where ranks make the same images although each is diverse within itself, which is what
            equal seeds do: "error" (:class:`fidfast.DuplicateImagesError`, after a batch or two), "warn" or "ignore".
            Images that repeat within a rank are a warning.
        error_bars: keep the sums of ten groups of images, for a standard error and a corrected value where n ≥ 5·D.
            That takes ten covariances (335 MB at D = 2048) once n > D, and ten more distances in ``compute``.
        process_group: whose ranks evaluate together; default: all. ``all_ranks=False``: this process alone.
        timeout: seconds that ``compute`` waits for the other ranks.
    """

    def __init__(
        self,
        reference: Any,
        *,
        preset: str = "pytorch-fid",
        feature_dim: int = 2048,
        device: str | torch.device | None = None,
        precision: str = "fp32",
        duplicates: Literal["error", "warn", "ignore"] = "error",
        process_group: dist.ProcessGroup | None = None,
        all_ranks: bool = True,
        timeout: float = TIMEOUT,
        error_bars: bool = True,
        value_range: tuple[float, float] | None = None,
        quantize: Literal["round", "truncate"] | None = "round",
        compile: bool = False,
        weights: str | os.PathLike[str] | None = None,
        feature_extractor: Any = None,
        num_workers: int | None = None,
        allow_pickle: bool = False,
    ) -> None:
        check_choice("duplicates", duplicates, _POLICIES)
        self.preset, self.duplicates = get_preset(preset).name, duplicates
        self.timeout, self.all_ranks = timeout, all_ranks
        self.process_group, self.error_bars = process_group, error_bars
        self.value_range, self.quantize, self.num_workers = value_range, quantize, num_workers
        self._own, self._reference = feature_extractor, reference
        self._options: dict[str, Any] = {
            "preset": self.preset,
            "feature_dim": feature_dim,
            "device": device,
            "precision": precision,
            "compile": compile,
            "weights": weights,
        }
        self._extractor: Extractor | None = None
        self._real: Side | None = None
        own_network = feature_extractor is not None
        if is_statistics(reference):
            self._real = Side(
                load_statistics(
                    reference,
                    "reference",
                    preset=None if own_network else self.preset,
                    feature_dim=None if own_network else feature_dim,
                    allow_pickle=allow_pickle,
                )
            )
        else:
            self._open_reference(Ranks(alone=True)).close()  # says now what is wrong with it
        group = "all" if process_group is None else repr(dist.get_process_group_ranks(process_group))
        self._name = f"fid/{_made[group]}"
        _made[group] += 1
        self._evaluation = self._computed = 0  # the same on all ranks, which load_state_dict, on some, must not change
        self._accumulator: Accumulator
        self._seconds: dict[str, float]
        self._begin()

    @eager  # called inside a compiled step it runs as it is
    def update(
        self,
        images: Tensor | np.ndarray | Sequence[Any],
        index: Tensor | Sequence[int] | None = None,
        *,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        """Add images, on any device: (N, 3, H, W) uint8 or float, an array (N, H, W, 3), or a list of images.

        Args:
            index: (N,) global index of each image, of all ranks' images together. One that comes again, as the padding
                of a DistributedSampler does, counts once. In every update of an evaluation, or in none.
            value_range: (0, 1) or (-1, 1): of float images.

        Raises:
            ValueError, TypeError: naming the image; none of this batch are then added, and what came before stays.
            DuplicateImagesError: another rank has published the same images; these are added all the same.
        """
        batch = images_of(images)
        indices = None if index is None else check_index(index, len(batch))
        if not batch:
            return
        given = value_range if value_range is not None else self.value_range
        started = time.perf_counter()
        extractor = self._network()
        self._seconds["setup"] += time.perf_counter() - started
        found: list[tuple[Tensor, Tensor]] = []
        with undisturbed(extractor.device):
            for start in range(0, len(batch), extractor.chunk_size):
                chunk = batch[start : start + extractor.chunk_size]
                times = [time.perf_counter()]
                try:
                    inputs, hashes = extractor.preprocess(
                        chunk,
                        value_range=given if chunk[0].is_floating_point() else None,
                        quantize=self.quantize,
                        content_hash=True,
                    )
                except (ValueError, TypeError) as error:
                    raise type(error)(with_places(str(error), start)) from error
                times.append(time.perf_counter())
                found.append((extractor.network(inputs), hashes))  # type: ignore[arg-type] # content_hash=True
                times.append(time.perf_counter())
                self._seconds["preprocess"] += times[1] - times[0]
                self._seconds["network"] += times[2] - times[1]
            started = time.perf_counter()
            new_hashes = torch.cat([hashes for _, hashes in found]).cpu()
            self._accumulator.add(torch.cat([features for features, _ in found]), new_hashes, indices)
            self._seconds["statistics"] += time.perf_counter() - started
        self._compare_with_others(new_hashes.numpy(), None if indices is None else indices.numpy())

    @eager
    def prepare(self) -> None:
        """Load the network and read the reference now rather than at the first need; every rank must call it."""
        extractor = self._network()
        if self._real is None:
            ranks = self._ranks()
            with undisturbed(extractor.device), self._open_reference(ranks) as source:
                self._real = read_side(
                    source,
                    extractor,
                    Accumulator(),
                    ranks,
                    value_range=self.value_range,
                    quantize=self.quantize,
                    progress=False,
                )
            self._real.seconds = {}  # once, not in every evaluation

    @eager
    def compute(self, *, duplicates: Literal["error", "warn", "ignore"] | None = None) -> FIDResult:
        """The FID of all ranks' images since ``reset``; every rank calls it and gets the same. Changes nothing.

        Args:
            duplicates: another policy for this call.

        Raises:
            RanksError: ranks that did not come within ``timeout``, or whose options or reference differ.
            DuplicateImagesError: ranks made the same images; ``compute(duplicates="ignore")`` still gives the number.
            StatisticsError: fewer than 2 images; features of another size than the reference's.
        """
        policy = self.duplicates if duplicates is None else duplicates
        check_choice("duplicates", policy, _POLICIES)
        self.prepare()
        extractor, real, ranks = self._network(), self._side_of_reference(), self._ranks()
        meeting = f"{self._name}/{self._evaluation}/compute/{self._computed}"
        self._computed += 1
        with undisturbed(extractor.device):
            statistics = real.statistics
            agree = {
                "preset": extractor.preset,
                "feature_dim": extractor.feature_dim,
                "precision": extractor.precision,
                "weights": extractor.identity,
                "error_bars": self.error_bars,
                "duplicates": policy,
                "reference": [statistics.num_samples, float(statistics.mu.norm()), float(statistics.factor().trace)],
            }
            facts = ranks.meet(meeting, agree, self._accumulator.facts())
            generated = self._accumulator.together(
                ranks, facts, lambda size: empty_statistics(extractor, size, self._accumulator.shift), "generated"
            )
            ranks.leave(meeting)
            report, notes = self._judge_duplicates(generated, policy)
            return make_result(
                real,
                generated,
                extractor,
                {**self._seconds, "total": sum(self._seconds.values()) - self._seconds["setup"]},
                ranks,
                error_bars=self.error_bars,
                duplicates=report,
                notes=notes,
            )

    @property
    def reference(self) -> FeatureStatistics:
        """The statistics of the real side, once they were read (``prepare``)."""
        return self._side_of_reference().statistics

    def reset(self) -> None:
        """Begin another evaluation; the reference and the network stay."""
        self._ranks().withdraw(f"{self._name}/{self._evaluation}/first")
        self._evaluation += 1
        self._begin()

    def state_dict(self) -> dict[str, Any]:
        """This rank's part of an evaluation under way, exactly, as tensors, numbers and None; each saves its own."""
        return {
            "rank": self._ranks().rank,
            "settings": self._settings(),
            "accumulator": self._accumulator.state_dict(),
            "seconds": dict(self._seconds),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with an evaluation; where the state does not fit, an error, and nothing changes."""
        missing = {"rank", "settings", "accumulator", "seconds"} - set(state)
        if missing:
            raise ValueError(f"state: expected the keys of state_dict(), got none named {', '.join(sorted(missing))}")
        for name, value in self._settings().items():
            if state["settings"].get(name) != value:
                raise ValueError(f"state: {name}: expected {value!r}, got {state['settings'].get(name)!r}")
        rank = self._ranks().rank
        if state["rank"] != rank:
            raise ValueError(
                f"state: expected that of rank {rank}, got that of rank {state['rank']}, whose images would count "
                "twice; every rank saves and loads its own"
            )
        loaded = Accumulator(groups=self._accumulator.groups, shift=self._accumulator.shift)
        loaded.load_state_dict(state["accumulator"], self._network().device)
        self._begin()
        self._accumulator = loaded
        self._seconds.update(state["seconds"])

    def to(self, device: str | torch.device) -> FID:
        """Move the network and the sums."""
        state = self._accumulator.state_dict()
        self._options["device"], self._extractor = device, None
        self._accumulator.load_state_dict(state, self._network().device)
        return self

    def __len__(self) -> int:
        """This rank's images so far."""
        return len(self._accumulator)

    def __repr__(self) -> str:
        name = type(self._own).__name__ if self._own is not None else f"{self.preset!r}, {self._options['feature_dim']}"
        return f"FID({name}, {len(self)} images on this rank)"

    def _begin(self) -> None:
        shift = None if self._real is None else self._real.statistics.mu
        self._accumulator = Accumulator(groups=GROUPS if self.error_bars else 1, shift=shift)
        self._seconds = dict.fromkeys(("setup", "preprocess", "network", "statistics"), 0.0)
        self._first, self._told = FirstImages(), False
        self._own_first: tuple[np.ndarray, np.ndarray | None] | None = None
        self._looked_at = 0

    def _settings(self) -> dict[str, Any]:
        named = ("preset", "feature_dim", "precision") if self._own is None else ()
        return {**{name: self._options[name] for name in named}, "error_bars": self.error_bars}

    def _ranks(self) -> Ranks:
        return Ranks(self.process_group, timeout=self.timeout, alone=not self.all_ranks)

    def _network(self) -> Extractor:
        if self._extractor is not None:
            return self._extractor
        if self._own is not None:
            own = {name: self._options[name] for name in ("device", "precision", "compile", "weights")}
            extractor = single_tap(resolve_extractor(self._own, **own))
        else:
            options = {**self._options, "device": resolve_device(self._options["device"])}  # with its index
            key = tuple(map(str, options.values()))
            extractor = _networks[key] = _networks.get(key) or resolve_extractor(**options)
        if self._real is not None:
            ours = empty_statistics(extractor, self._real.statistics.feature_dim)
            ours.source = "the network"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said once, with the distance
                check_comparable(self._real.statistics, ours)
        self._extractor = extractor
        return extractor

    def _side_of_reference(self) -> Side:
        if self._real is None:
            raise RuntimeError("the reference has not been read: prepare() failed")
        return self._real

    def _open_reference(self, ranks: Ranks) -> Any:
        return open_side(self._reference, "reference", 64, self.num_workers, "raise", True, self.preset, ranks)

    def _compare_with_others(self, hashes: np.ndarray, indices: np.ndarray | None) -> None:
        """Publish this rank's first images; error where those of another rank are among the new ones."""
        ranks = self._ranks()
        if ranks.size == 1 or self.duplicates == "ignore":
            return
        key = f"{self._name}/{self._evaluation}/first"
        if self._own_first is None and len(self) >= 2:
            known = self._accumulator.indices
            self._own_first = self._accumulator.hashes.array(), None if known is None else np.array(known)
            ranks.publish(key, FirstImages.pack(*self._own_first))
        for _ in range(min(_LOOK_AT, ranks.size - 1)):
            other = (ranks.rank + 1 + self._looked_at) % ranks.size
            self._looked_at = (self._looked_at + 1) % (ranks.size - 1)
            data = None if self._first.knows(other) else ranks.published(key, other)
            if data is not None:
                self._first.learn(other, data)
        # What this rank began with, and what it has made now: an offset of one batch between ranks is found as well.
        for mine in ((hashes, indices), self._own_first):
            alike = [] if mine is None or self._told else self._first.alike(*mine)
            if mine is not None and alike:
                self._accuse(ranks.rank, mine[0], alike)

    def _accuse(self, rank: int, hashes: np.ndarray, alike: list[int]) -> None:
        self._told = True
        report = report_duplicates([hashes, *(self._first.of(other) for other in alike)])
        report["same_images"] = sorted([rank, *alike])
        message = describe_overlap(name_ranks(report["same_images"]), report)
        if self.duplicates == "error":
            raise DuplicateImagesError(message, report)
        warnings.warn(message, FidfastWarning, stacklevel=4)

    def _judge_duplicates(self, generated: Side, policy: str) -> tuple[dict[str, Any], list[str]]:
        """The report, and notes for the result; the same on every rank."""
        report = report_duplicates(generated.hashes or [])
        if policy == "ignore":
            return report, []
        notes = []
        if report["same_images"]:
            message = describe_overlap(name_ranks(report["same_images"]), report)
            if policy == "error":
                raise DuplicateImagesError(message, report)
            notes.append(message)
        elif (repeated := describe_duplicates("generated", report)) is not None:
            notes.append(repeated)
        images, others = generated.all_hashes, self._side_of_reference().all_hashes
        copies = 0 if images is None or others is None else count_shared(images, others)
        if copies > THRESHOLD * report["num_images"]:
            notes.append(
                f"generated: {copies} of {report['num_images']} images are, byte for byte, images of the reference: "
                "copied or memorised"
            )
        return report, notes
