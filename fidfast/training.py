"""FID in the course of a training: evaluations that are planned, paid for out of a budget, and kept."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from fidfast.duplicates import DuplicateImagesError, FirstImages
from fidfast.eager import eager
from fidfast.metric import FID
from fidfast.sides import check_choice
from fidfast.training_history import SAME
from fidfast.training_results import Evaluation, Results
from fidfast.training_run import Run, Runner
from fidfast.training_sampling import Sample, models_of
from fidfast.training_schedule import Account, Decision, Schedule, Stage, check_whole

# An evaluation that turns out this many times dearer than the budget has for it is given up.
_TOO_DEAR = 2
# Without a budget, an evaluation of more seconds than this is announced as a warning.
_LONG = 60.0


class TrainingEvaluator:
    """Calls your sampler between training steps as often as a budget allows, on every rank, and keeps the FIDs.

    Every rank makes one and calls :meth:`step` after each training step::

        evaluator = fidfast.TrainingEvaluator(sample, "real.npz", model=ema, history="fid.jsonl")
        for step in range(1, 400_001):
            train_one_step()
            for evaluation in evaluator.step(step):
                if evaluation.is_best:
                    save_checkpoint()
        evaluator.finish()

    At the first evaluation it samples one batch, compares the ranks' images, logs what the whole will cost, and then
    goes on, puts it off, or lowers n. Results carry their n in their name (``fid_2k``); those of one name make one
    curve. Decisions are rank 0's; on steps where nothing is due, ranks do not talk.

    Args:
        sample: ``sample(n, seeds)`` → n images, one for each of the n seeds (``int``), as :meth:`fidfast.FID.update`
            takes them. Called without gradients, on every rank equally often, with models in eval mode and the global
            random generators at the first seed; all that is put back afterwards.
        reference: statistics, their file, or images, as for :class:`fidfast.FID`; read now, with the network.
        stages: when, and how many images: :class:`Stage`.
        budget: evaluation may take this share of the training time so far; None: no limit. Half of it is kept for
            milestones and the end while they are to come. Within it, periods are stretched and n is lowered.
        batch_size: images of one call of ``sample``, on each rank.
        seed: of :func:`fidfast.image_seeds`: the same images' in every evaluation, so that curves are smoother.
        model: module or modules that ``sample`` uses; default: the module whose method it is.
        batches_per_step: None: an evaluation is made at once. A number: that many batches after each training step, so
            that none of them takes long; where ``sample``'s weights change meanwhile, the FID is that of a mixture.
        history: a file of JSON lines, written by rank 0 (:mod:`fidfast.training_history`).
        keep_images: how many images of each evaluation rank 0 keeps in a PNG beside the history.
        log: called with a dict of numbers, or an object with ``add_scalar(tag, value, step)``, or a list; on rank 0.
        patience: evaluations of one curve without an improvement of more than ``min_delta``, after which
            :attr:`should_stop`.
        least: n is never lowered below this.
        duplicates: where ranks make the same images: "error", "warn" or "ignore", as for :class:`fidfast.FID`.
        **fid_options: the others of :class:`fidfast.FID`.
    """

    def __init__(
        self,
        sample: Sample,
        reference: Any,
        *,
        stages: Sequence[Stage] = (Stage(2_000, every=5_000), Stage(50_000, at="end")),
        budget: float | None = 0.05,
        batch_size: int = 32,
        seed: int = 0,
        model: torch.nn.Module | Sequence[torch.nn.Module] | None = None,
        batches_per_step: int | None = None,
        history: str | os.PathLike[str] | None = None,
        keep_images: int = 16,
        log: Any = None,
        patience: int | None = None,
        min_delta: float = 0.0,
        least: int = 500,
        duplicates: Literal["error", "warn", "ignore"] = "error",
        **fid_options: Any,
    ) -> None:
        if not callable(sample):
            raise TypeError(f"sample: expected a callable (n, seeds) -> images, got {type(sample).__name__}")
        for name, value, smallest in (
            ("batch_size", batch_size, 1), ("keep_images", keep_images, 0), ("seed", seed, None),
            ("batches_per_step", batches_per_step, 1), ("patience", patience, 1),
        ):  # fmt: skip
            if value is not None or name == "seed":
                check_whole(name, value, smallest)
        check_choice("duplicates", duplicates, ("error", "warn", "ignore"))
        self._account = account = Account(budget)
        self._schedule = Schedule(stages, account, least)
        # The evaluator compares the ranks' images itself, where all are together.
        self.fid = FID(reference, duplicates="ignore", **fid_options)
        self.budget, self.batches_per_step, self.duplicates = budget, batches_per_step, duplicates
        self.patience, self.min_delta = patience, min_delta
        self._runner = Runner(self.fid, sample, models_of(model, sample), account, batch_size, seed, keep_images)
        self._results = Results(history, log, tells=self._runner.meetings.ranks.rank == 0)
        self._run: Run | None = None
        self._step: int | None = None
        self._clock: float | None = None  # since when the training has had the time
        self._since = 0.0  # and since when an evaluation has
        self._periodic_share = 0.0
        self._loaded = self._restaged = self._begun = False
        self._lost: list[int] | None = None  # the stages of an evaluation that was under way, and cannot go on
        self.fid.prepare()
        self._settings = {
            "budget": budget, "seed": seed, "batch_size": batch_size,
            "stages": [turn.stage.to_dict() for turn in self._schedule.turns],
            "preset": None if fid_options.get("feature_extractor") is not None else self.fid.preset,
            "feature_dim": self.fid.reference.feature_dim, "num_real": self.fid.reference.num_samples,
        }  # fmt: skip
        if self._results.tells:
            self._results.history.check_settings(self._settings)

    # -- what a training loop calls ------------------------------------------------------------------------------------

    @eager  # called inside a compiled step it runs as it is
    def step(self, step: int | None = None) -> list[Evaluation]:
        """Tell that a training step is done, on every rank; returns the evaluations that this finished, mostly none.

        Args:
            step: its number, counted over the whole training; default: one more than the last.

        Raises:
            DuplicateImagesError: the ranks make the same images; on every rank, after the first batch.
            RanksError: ranks that did not come to an evaluation, or are at another step.
        """
        at = self._count_training((self._step or 0) + 1 if step is None else step)
        due = self._schedule.due(at)
        if self._run is None and not due:
            return []
        return self._evaluate(at, due, self.batches_per_step)

    def finish(self, step: int | None = None) -> list[Evaluation]:
        """After the last step, on every rank: what is under way, then the stages with ``at="end"``."""
        at = self._count_training((self._step or 0) if step is None else step)
        done: list[Evaluation] = []
        if self._run is not None:
            done += self._evaluate(at, [], None)
        if due := self._schedule.due(None):
            done += self._evaluate(at, due, None)
        return done

    def evaluate_now(self, n: int, step: int | None = None) -> Evaluation:
        """The FID of ``n`` images now, outside stages and budget, on every rank; its cost is logged after one batch."""
        check_whole("n", n, 2)
        at = self._count_training((self._step or 0) if step is None else step)
        state = None if self._run is None else self._runner.state(self._run)
        self._run, self._since = Run(at, at, [], [n]), time.perf_counter()
        try:
            self._runner.begin()
            self._first_batch(self._run, [])
            self._announce(n)
            return self._advance(None)[0]
        finally:
            self._run = None if state is None else self._runner.load(state)
            self._clock = time.perf_counter()

    @property
    def evaluations(self) -> list[Evaluation]:
        """All so far, in the order they ended."""
        return list(self._results.evaluations)

    @property
    def curves(self) -> dict[str, list[Evaluation]]:
        """label → its evaluations by step."""
        return self._results.curves

    @property
    def best(self) -> dict[str, Evaluation]:
        """label → the lowest so far."""
        return {label: min(curve, key=lambda one: one.fid) for label, curve in self.curves.items()}

    @property
    def should_stop(self) -> bool:
        """Whether a curve has not improved for ``patience`` evaluations; the same on every rank."""
        return self.patience is not None and self._results.stalled(self.min_delta) >= self.patience

    def plot(self, path: str | os.PathLike[str]) -> None:
        """A picture with one panel a curve. Needs matplotlib: ``pip install "fidfast[report]"``."""
        self._results.plot(path)

    def state_dict(self) -> dict[str, Any]:
        """Everything, with an evaluation under way, as containers, tensors, numbers, strings and None.

        Every rank saves and loads its own. Where only rank 0's was saved, all may load that one: an evaluation under
        way then begins again.
        """
        run = None if self._run is None else self._runner.state(self._run)
        return {"version": 1, "settings": dict(self._settings), "shared": self._shared(), "run": run}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken; before the first step."""
        if missing := {"version", "settings", "shared", "run"} - set(state):
            raise ValueError(f"state: expected the keys of state_dict(), got none named {', '.join(sorted(missing))}")
        for name in SAME:
            if state["settings"].get(name) != self._settings[name]:
                raise ValueError(
                    f"state: {name}: expected {self._settings[name]!r}, got {state['settings'].get(name)!r}"
                )
        self._restaged = state["settings"]["stages"] != self._settings["stages"]
        saved = state["run"]
        self._run = None if saved is None else self._runner.load(saved)
        self._lost = None if saved is None or self._run is not None else saved["run"]["places"]
        if self._restaged:  # other stages than those that it was for
            self._lost = None if self._lost is None else []
            if self._run is not None:
                self._run.places = []
        self._adopt(state["shared"], stages=not self._restaged)
        self._loaded, self._begun, self._clock = True, False, None

    # -- what the ranks agree on ---------------------------------------------------------------------------------------

    def _begin(self, number: int) -> None:
        """Before the first step: rank 0's state is everybody's, and an evaluation that a rank does not have is lost."""
        if self._restaged or not self._loaded:
            self._schedule.begin(number)
        if not self._loaded:
            self._results.read(before=number)
        run = self._run
        mine = None if run is None else [run.step, run.targets, run.reached, run.position]
        places = self._lost if run is None else run.places
        facts = {"run": mine, "places": places, "shared": self._shared() if self._results.tells else None}
        options = {"batch_size": self._runner.batch_size, "batches_per_step": self.batches_per_step}
        agree = {"step": number, **self._settings, **options, "duplicates": self.duplicates}
        everybody = self._runner.meetings.meet(agree, facts)
        self._adopt(everybody[0]["shared"], stages=True)
        self._begun, self._lost = True, None
        if self._results.tells:
            ranks = self._runner.meetings.ranks.size
            self._results.history.write("start", step=number, ranks=ranks, **self._settings)
        under_way = [said["places"] for said in everybody if said["places"] is not None]
        if under_way and any(said["run"] is None or said["run"] != mine for said in everybody):
            self._run = None
            self._schedule.again(under_way[0], number)
            self._say("resumed", None, "an evaluation was under way that not every rank has: it begins again")
        elif self._run is not None:
            self._say(
                "resumed", self._run.targets[-1], f"goes on after {self._run.sampled:,} images on each rank", warn=False
            )

    def _shared(self) -> dict[str, Any]:
        """What is the same on every rank, as JSON types."""
        return {
            "step": self._step,
            "account": self._account.state(),
            "schedule": self._schedule.state(),
            "evaluations": self._results.records(),
        }

    def _adopt(self, shared: Mapping[str, Any], *, stages: bool) -> None:
        self._step = shared["step"]
        self._account.load(shared["account"])
        if stages:
            self._schedule.load_state(shared["schedule"])
        self._results.load(shared["evaluations"])

    # -- one evaluation ------------------------------------------------------------------------------------------------

    def _count_training(self, number: int) -> int:
        """The time since the last call was training's."""
        if not self._begun:
            self._begin(number)
        elif self._step is not None and number < self._step:
            raise ValueError(
                f"step: expected at least {self._step:,}, the last one, got {number:,}: count the steps of the whole "
                "training, not of an epoch"
            )
        if (self._run is not None or self._schedule.due(number)) and torch.cuda.is_initialized():
            torch.cuda.synchronize()  # what is queued is training's time
        now = time.perf_counter()
        if self._clock is not None:
            self._account.train(now - self._clock, number - (self._step or 0))
        self._step, self._clock = number, now
        return number

    def _evaluate(self, at: int, due: list[int], most: int | None) -> list[Evaluation]:
        """Begin or go on with an evaluation, for at most so many batches, and charge what it took."""
        self._since, self._periodic_share = time.perf_counter(), 0.0
        try:
            if self._run is None:
                self._start(at, due)
            if self._run is None:
                return []
            self._run.last_step, self._periodic_share = at, self._run.periodic_share
            return self._advance(most)
        except BaseException:
            self._run = None
            self._schedule.pass_over(due, at)  # a caller that goes on all the same is not told at every step
            raise
        finally:
            self._clock = time.perf_counter()
            seconds = self._clock - self._since
            self._account.charge(seconds, periodic=seconds * self._periodic_share)

    def _start(self, at: int, due: list[int]) -> None:
        """Decide about the stages that are due: by what is known of the cost, and once more after one batch."""
        self._runner.meetings.meet({"step": at, "stages that are due": due}, None)
        schedule, wanted = self._schedule, self._schedule.wanted(due)
        self._periodic_share = float(any(not schedule.turns[place].stage.once for place in due))
        if self._account.speed is not None:
            made = schedule.decide(due, at, self._account.speed)
            if not made.targets:
                self._settle(made)
                return
            wanted = made.targets
        run = self._run = Run(at, at, due, wanted, schedule.allows(due, at), self._periodic_share)
        self._runner.begin()
        made = self._first_batch(run, due)
        again = self._account.batch_seconds(run.sampled) <= run.allowed / 2 and not self._runner.is_sampled(run)
        if made.said and again and not self._account.settled:
            # The very first batch may have had something to compile, and another can be paid for.
            made = self._first_batch(run, due)
        self._settle(made)
        if not made.targets:
            self._run = None
            return
        run.places = [place for places in made.accepted.values() for place in places]
        run.periodic_share = schedule.periodic_share(made.accepted)
        if made.targets != run.targets:
            run.targets = made.targets
            if run.position > run.targets[0] // self._runner.meetings.ranks.size:  # too many already
                self._run = Run(at, at, run.places, run.targets, run.allowed, run.periodic_share)
                self._runner.begin()
            self._runner.rewind()
        self._announce(run.targets[-1])

    def _first_batch(self, run: Run, due: list[int]) -> Decision:
        self._runner.batch(run)
        speed, _ = self._runner.measure(run)
        self._check_duplicates()
        return self._schedule.decide(due, run.step, speed)

    def _advance(self, most: int | None) -> list[Evaluation]:
        """So many batches, or all; the results of those targets that are then reached."""
        done: list[Evaluation] = []
        while (run := self._run) is not None and (most is None or most > 0 or self._runner.is_sampled(run)):
            if self._runner.is_sampled(run):
                done.append(self._result(run))
                if run.reached == len(run.targets):
                    self._run = None
                continue
            self._runner.batch(run)
            most = None if most is None else most - 1
            if run.batches & (run.batches - 1) == 0:  # seldom, the longer it takes
                self._look_again(run)
        return done

    def _look_again(self, run: Run) -> None:
        """Give up an evaluation that turns out much dearer than what was decided on."""
        speed, spent = self._runner.measure(run)
        if run.position <= 2 * FirstImages.LIMIT:
            self._check_duplicates()
        n = run.targets[-1]
        rest = (self._runner.share(n) - run.position) / speed.images_per_second
        if spent + rest + speed.distance_seconds > _TOO_DEAR * run.allowed:
            self._say("stopped", n, f"given up after {run.sampled:,} images on each rank: {speed.describe(n)}")
            self._settle(self._schedule.decide(run.places, run.step, speed))
            self._run = None

    def _result(self, run: Run) -> Evaluation:
        n = run.targets[run.reached]
        try:
            result = self._runner.compute(run, self.duplicates)
        except DuplicateImagesError as error:
            self._say("duplicates", n, str(error))
            raise
        elapsed = time.perf_counter() - self._since
        return self._results.add(result, self._runner.describe(run, self._results.history.path, elapsed))

    def _check_duplicates(self) -> None:
        """Compare the ranks' first images; after a meeting."""
        error = None if self.duplicates == "ignore" else self._runner.find_duplicates()
        if error is not None:
            self._say("duplicates", None, str(error))
            if self.duplicates == "error":
                raise error

    def _announce(self, n: int) -> None:
        if (speed := self._account.speed) is not None:
            self._say("estimate", n, speed.describe(n), warn=self.budget is None and speed.seconds_for(n) > _LONG)

    def _settle(self, made: Decision) -> None:
        self._schedule.apply(made)
        for kind, n, message in made.said:
            self._say(kind, n, message)

    def _say(self, kind: str, n: int | None, message: str, *, warn: bool = True) -> None:
        self._results.say(self._step or 0, kind, n, message, warn=warn)
