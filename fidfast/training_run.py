"""One evaluation under way: its batches, its ranks' meetings, and how it is left and taken up again."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fidfast.distributed import Ranks, name_ranks
from fidfast.duplicates import DuplicateImagesError, FirstImages, describe_overlap, report_duplicates
from fidfast.metric import FID
from fidfast.result import FIDResult
from fidfast.seeds import image_seeds
from fidfast.training_sampling import Sample, sample_batch, save_grid, thumbnail
from fidfast.training_schedule import Account, Speed, label_of

# The n-th evaluator of a group on this rank meets the n-th on the others.
_made: Counter[str] = Counter()


@dataclass
class Run:
    """An evaluation under way. Its images have a seed each, so it can be left and taken up again."""

    step: int
    last_step: int
    places: list[int]  # of the stages that it is for
    targets: list[int]  # each n of which there will be a result, rising
    allowed: float = math.inf  # seconds
    periodic_share: float = 0.0  # of its cost, for stages that come again
    reached: int = 0  # targets that are done
    position: int = 0  # in this rank's seeds
    sampled: int = 0  # images of this rank
    batches: int = 0
    first: list[float] = field(default_factory=lambda: [0, 0.0])  # images and seconds of the first batch
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("sample", "features", "distance"), 0.0))
    told: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("sample", "features", "distance"), 0.0))

    def images_per_second(self) -> float:
        """Of this rank; without the first batch as soon as there is another."""
        images, seconds = self.sampled, self.seconds["sample"] + self.seconds["features"]
        if self.batches > 1:
            images, seconds = images - int(self.first[0]), seconds - self.first[1]
        return images / max(seconds, 1e-9)


class Meetings:
    """Where the ranks of an evaluator say what they know; each has its own key, removed once all were at the next."""

    def __init__(self, fid: FID, account: Account) -> None:
        self._fid, self._account, self._count, self._last = fid, account, 0, ""
        group = "all" if fid.process_group is None else repr(dist.get_process_group_ranks(fid.process_group))
        self._name = f"training/{_made[group]}"
        _made[group] += 1

    @property
    def ranks(self) -> Ranks:
        return Ranks(self._fid.process_group, timeout=self._fid.timeout, alone=not self._fid.all_ranks)

    def meet(self, agree: Mapping[str, Any], facts: Any) -> list[Any]:
        """Everybody's ``facts`` (JSON), by rank; RanksError where ranks are missing or differ in ``agree``.

        Rank 0's account becomes everybody's, so that all decide alike.
        """
        ranks, key = self.ranks, f"{self._name}/{self._count}"
        self._count += 1
        said = ranks.meet(key, agree, [facts, self._account.state()])
        if self._last:
            ranks.leave(self._last)
        self._last = key
        self._account.load(said[0][1])
        return [words for words, _ in said]


class Runner:
    """Makes the images of evaluations, each from its own seed, and hands them to the metric.

    Every rank samples equally many, so that a sampler may talk to the other ranks; the few that this makes too many are
    not counted.
    """

    def __init__(
        self,
        fid: FID,
        sample: Sample,
        models: Sequence[torch.nn.Module],
        account: Account,
        batch_size: int,
        seed: int,
        keep_images: int,
    ) -> None:
        self.fid, self.sample, self.models = fid, sample, models
        self.batch_size, self.seed, self.keep_images = batch_size, seed, keep_images
        self.account, self.meetings = account, Meetings(fid, account)
        self.kept: list[Tensor] = []  # rank 0's first images, small
        self._pairs: Iterator[tuple[int, int]] | None = None

    def begin(self) -> None:
        """Another evaluation."""
        self.fid.reset()
        self.kept, self._pairs = [], None

    def share(self, n: int) -> int:
        """Images that each rank samples for ``n``."""
        return -(-n // self.meetings.ranks.size)

    def batch(self, run: Run) -> None:
        """Sample this rank's next images towards the next target, and add them."""
        ranks, target = self.meetings.ranks, run.targets[run.reached]
        before = run.targets[run.reached - 1] if run.reached else 0
        if self._pairs is None:
            count = self.share(target) * ranks.size
            mine = image_seeds(count, self.seed, rank=ranks.rank, world_size=ranks.size)
            self._pairs = islice(mine, run.position, None)
        pairs = list(islice(self._pairs, self.batch_size))
        times = [time.perf_counter()]
        images = sample_batch(self.sample, self.models, [seed for _, seed in pairs])
        if images[0].is_cuda:
            torch.cuda.synchronize(images[0].device)
        times.append(time.perf_counter())
        wanted = [place for place, (index, _) in enumerate(pairs) if before <= index < target]
        if wanted:
            self.fid.update([images[place] for place in wanted], [pairs[place][0] for place in wanted])
        if ranks.rank == 0:
            more = self.keep_images - len(self.kept)
            self.kept += [thumbnail(images[place], self.fid.value_range) for place in wanted[: max(0, more)]]
        times.append(time.perf_counter())
        run.seconds["sample"] += times[1] - times[0]
        run.seconds["features"] += times[2] - times[1]
        run.position += len(pairs)
        run.sampled += len(pairs)
        run.batches += 1
        self.account.batches += 1
        if run.batches == 1:
            run.first = [len(pairs), times[2] - times[0]]

    def measure(self, run: Run, distance: float = 0.0) -> tuple[Speed, float]:
        """What is known of the slowest rank's speed, and the seconds that it needed so far; the ranks meet in it."""
        mine = [run.images_per_second(), sum(run.seconds.values()), distance]
        said = self.meetings.meet({"batches": run.batches}, mine)
        slowest, spent, distance = min(one[0] for one in said), max(one[1] for one in said), max(one[2] for one in said)
        speed = self.account.speed
        # The first batch of an evaluation says less than a whole one did before, unless something has changed.
        if speed is None or run.batches > 1 or slowest < speed.images_per_second / 2:
            speed = Speed(slowest, len(said), distance or (0.0 if speed is None else speed.distance_seconds))
        self.account.speed = speed
        return speed, spent

    def is_sampled(self, run: Run) -> bool:
        """Whether the next target has all its images."""
        return run.position >= self.share(run.targets[run.reached])

    def compute(self, run: Run, duplicates: Any) -> FIDResult:
        """The result of the next target; the ranks meet in it."""
        started = time.perf_counter()
        result = self.fid.compute(duplicates=duplicates)
        distance = time.perf_counter() - started
        run.seconds["distance"] += distance
        # It may have ended within a round of the ranks: that round is sampled again, and counts once.
        run.position = run.targets[run.reached] // self.meetings.ranks.size
        run.reached += 1
        self._pairs = None
        self.measure(run, distance)
        return result

    def describe(self, run: Run, history: Path | None, elapsed: float) -> dict[str, Any]:
        """What the history is to say of the target that was just reached, beside its result; saves the kept images.

        ``elapsed``: seconds of evaluation that the account does not have yet.
        """
        n, speed = run.targets[run.reached - 1], self.account.speed
        seconds = {name: run.seconds[name] - run.told[name] for name in run.seconds}  # none of them twice
        run.told = dict(run.seconds)
        images = None
        if history is not None and self.kept:  # the path starts from the history's folder
            images = Path(f"{history.stem}-images", f"{label_of(n)}-{run.step}.png")
            save_grid(self.kept, history.parent / images)
        return {
            "step": run.step,
            "last_step": run.last_step,
            "num_images": n,
            "images": None if images is None else images.as_posix(),
            "seconds": {**seconds, "total": sum(seconds.values())},
            "images_per_second": None if speed is None else speed.images_per_second,
            "ranks": self.meetings.ranks.size,
            "train_seconds": self.account.train_seconds,
            "evaluation_seconds": self.account.evaluation_seconds + elapsed,
        }

    def find_duplicates(self) -> DuplicateImagesError | None:
        """What the ranks' first images have in common, where that is a mistake; after a meeting, on every rank."""
        ranks = self.meetings.ranks
        if ranks.size == 1:
            return None
        mine = self.fid.state_dict()["accumulator"]["hashes"][: FirstImages.LIMIT]  # (n, 2) int64
        counts = ranks.gather_rows(torch.tensor([len(mine)], device="cpu"), [1] * ranks.size)
        by_rank = ranks.gather_rows(mine, [int(count) for count in counts])
        report = report_duplicates([hashes.numpy() for hashes in by_rank])
        alike = report["same_images"]
        return DuplicateImagesError(describe_overlap(name_ranks(alike), report), report) if alike else None

    def rewind(self) -> None:
        """The next target is another than before."""
        self._pairs = None

    def state(self, run: Run) -> dict[str, Any]:
        """This rank's part of an evaluation under way."""
        ranks = self.meetings.ranks
        kept = [image.clone() for image in self.kept]
        return {"rank": ranks.rank, "ranks": ranks.size, "run": asdict(run), "kept": kept, "fid": self.fid.state_dict()}

    def load(self, state: Mapping[str, Any]) -> Run | None:
        """Go on with it; None where it is another rank's, or there were other ranks: it must then begin again."""
        ranks = self.meetings.ranks
        if (state["rank"], state["ranks"]) != (ranks.rank, ranks.size):
            return None
        self.fid.load_state_dict(state["fid"])
        self.kept, self._pairs = [image.cpu() for image in state["kept"]], None
        return Run(**state["run"])
