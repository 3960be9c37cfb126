"""When a training is interrupted for an evaluation, and of how many images: arithmetic on steps, counts and seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

# Beyond this many times the wished period an evaluation of fewer images is worth more than a rarer one.
_STRETCH = 4
# While milestones or the end are still to come, what comes before them may use this share of the budget.
_SHARE = 0.5
# A cost this much over what there is: neither put off nor made rarer for it.
_SLACK = 0.02


@dataclass(frozen=True)
class Stage:
    """Evaluate ``n`` images every so many steps, at given steps, or at the end.

    Args:
        n: images, of all ranks together, at least 2.
        every: at steps start + every, start + 2·every, … up to ``stop``. A budget may stretch it.
        at: a step, several, or "end" (:meth:`TrainingEvaluator.finish`). A budget may lower ``n``.
        start: nothing happens in the first ``start`` steps.
    """

    n: int
    every: int | None = None
    at: int | Sequence[int] | Literal["end"] | None = None
    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        check_whole("n", self.n, 2)
        if (self.every is None) == (self.at is None):
            raise ValueError(f"Stage: expected one of every= and at=, got every={self.every!r} and at={self.at!r}")
        if self.every is not None:
            check_whole("every", self.every, 1)
        check_whole("start", self.start, 0)
        if self.stop is not None:
            check_whole("stop", self.stop, self.start)
        if self.at is not None and self.at != "end":
            if isinstance(self.at, str):
                raise ValueError(f"at: expected steps or 'end', got {self.at!r}")
            steps = (self.at,) if isinstance(self.at, int) else tuple(self.at)
            for step in steps:
                check_whole("at", step, 0)
            object.__setattr__(self, "at", tuple(sorted(steps)))

    @property
    def once(self) -> bool:
        return self.at is not None

    def next_step(self, after: int, least: int = 0) -> int | None:
        """The first of its steps that is later than ``after`` and at least ``least``; None if there is none."""
        if self.at == "end":
            return None
        if self.every is None:
            steps = self.at if isinstance(self.at, tuple) else ()
            return next((step for step in steps if step > after), None)
        turn = max(1, (after - self.start) // self.every + 1, math.ceil((least - self.start) / self.every))
        step = self.start + turn * self.every
        return None if self.stop is not None and step > self.stop else step

    def to_dict(self) -> dict[str, Any]:
        made = asdict(self)
        return {**made, "at": list(self.at) if isinstance(self.at, tuple) else self.at}


def label_of(n: int) -> str:
    """2000 → "fid_2k": results of different n have different names, since FID falls as n grows."""
    return f"fid_{n // 1000}k" if n >= 1000 and n % 1000 == 0 else f"fid_{n}"


@dataclass(frozen=True)
class Speed:
    """What an evaluation costs: the slowest rank's sampling and features, and one distance."""

    images_per_second: float  # of one rank
    ranks: int
    distance_seconds: float = 0.0

    def seconds_for(self, n: int) -> float:
        return math.ceil(n / self.ranks) / self.images_per_second + self.distance_seconds

    def describe(self, n: int) -> str:
        """ "50,000 images at 4.1 images/s on 8 ranks: 25 min" """
        ranks = "1 rank" if self.ranks == 1 else f"{self.ranks} ranks"
        return f"{n:,} images at {_rate(self.images_per_second)} images/s on {ranks}: {duration(self.seconds_for(n))}"


@dataclass
class Account:
    """What is known of the cost of training and of evaluation; rank 0's is everybody's."""

    budget: float | None
    train_seconds: float = 0.0
    train_steps: int = 0
    evaluation_seconds: float = 0.0
    periodic_seconds: float = 0.0  # those of stages that come again and again
    batches: int = 0  # sampled so far
    speed: Speed | None = None

    def __post_init__(self) -> None:
        if self.budget is not None and not 0 < self.budget < 1:
            raise ValueError(f"budget: expected a share of training time between 0 and 1, or None, got {self.budget!r}")

    @property
    def seconds_per_step(self) -> float:
        return self.train_seconds / self.train_steps if self.train_steps else 0.0

    @property
    def settled(self) -> bool:
        """Whether the speed comes from more than the very first batch, which may have had something to compile."""
        return self.batches > 1

    def batch_seconds(self, images: int) -> float:
        """Of so many images on the slowest rank."""
        return math.inf if self.speed is None else images / self.speed.images_per_second

    def train(self, seconds: float, steps: int) -> None:
        self.train_seconds += seconds
        self.train_steps += steps

    def charge(self, seconds: float, *, periodic: float) -> None:
        """``periodic``: the part of it that is for stages that come again."""
        self.evaluation_seconds += seconds
        self.periodic_seconds += periodic

    def state(self) -> dict[str, Any]:
        return asdict(self)

    def load(self, state: Mapping[str, Any]) -> None:
        for name in ("train_seconds", "train_steps", "evaluation_seconds", "periodic_seconds", "batches"):
            setattr(self, name, state[name])
        self.speed = None if state["speed"] is None else Speed(**state["speed"])


@dataclass
class Turn:
    """Where one stage stands."""

    stage: Stage
    n: int
    period: int | None
    next_step: int | None = None
    ended: bool = False  # of at="end"


@dataclass
class Decision:
    """What is evaluated now, what the stages become if so, and what the log says of it."""

    accepted: dict[int, list[int]] = field(default_factory=dict)  # n → places of its stages
    turns: dict[int, Turn] = field(default_factory=dict)  # place → its stage as it stands after this
    said: list[tuple[str, int, str]] = field(default_factory=list)  # (kind, n, sentence)

    @property
    def targets(self) -> list[int]:
        return sorted(self.accepted)


class Schedule:
    """The stages, and what the budget made of them; every rank that is told the same decides the same."""

    def __init__(self, stages: Iterable[Stage], account: Account, least: int) -> None:
        check_whole("least", least, 2)
        self.account, self.least = account, least
        stages = list(stages)
        for stage in stages:
            if not isinstance(stage, Stage):
                raise TypeError(f"stages: expected fidfast.Stage(...), got {stage!r}")
        self.turns = [Turn(stage, stage.n, stage.every) for stage in stages]

    def begin(self, step: int) -> None:
        """``step`` is the first that can be evaluated."""
        for turn in self.turns:
            turn.next_step = turn.stage.next_step(step - 1)

    def due(self, step: int | None) -> list[int]:
        """Places of the stages that are due at ``step``; None: at the end."""
        if step is None:
            return [place for place, turn in enumerate(self.turns) if turn.stage.at == "end" and not turn.ended]
        return [place for place, turn in enumerate(self.turns) if turn.next_step is not None and turn.next_step <= step]

    def again(self, places: Iterable[int], step: int) -> None:
        """What was begun is lost: these stages are due once more."""
        for place in places:
            turn = self.turns[place]
            turn.ended = False
            turn.next_step = None if turn.stage.at == "end" else step

    def pass_over(self, places: Iterable[int], step: int) -> None:
        """These stages had their turn."""
        for turn in (self.turns[place] for place in places):
            turn.ended = turn.stage.at == "end"
            turn.next_step = turn.stage.next_step(step)

    def wanted(self, due: Iterable[int]) -> list[int]:
        """How many images the stages want, before anything is known of the cost."""
        return sorted({self.turns[place].n for place in due})

    def decide(self, due: Iterable[int], step: int, speed: Speed) -> Decision:
        """Which of the stages that are due are evaluated now, and with how many images; :meth:`apply` makes it so."""
        made = Decision()
        for place in sorted(due, key=lambda place: self.turns[place].n):
            turn = replace(self.turns[place])
            n = (self._once if turn.stage.once else self._periodic)(turn, step, speed, made)
            made.turns[place] = turn
            if n is not None:
                made.accepted.setdefault(n, []).append(place)
        return made

    def apply(self, made: Decision) -> None:
        for place, turn in made.turns.items():
            self.turns[place] = turn

    def allows(self, places: Iterable[int], step: int) -> float:
        """Seconds that an evaluation for these stages may take now."""
        return max(self._purse_of(self.turns[place], step)[0] for place in places)

    def periodic_share(self, accepted: Mapping[int, Iterable[int]]) -> float:
        """Of the cost of an evaluation, that for stages that come again."""
        own = [n for n, places in accepted.items() if any(not self.turns[place].stage.once for place in places)]
        return max(own) / max(accepted) if own else 0.0

    def state(self) -> list[list[Any]]:
        return [[turn.n, turn.period, turn.next_step, turn.ended] for turn in self.turns]

    def load_state(self, state: Sequence[Sequence[Any]]) -> None:
        for turn, saved in zip(self.turns, state, strict=True):
            turn.n, turn.period, turn.next_step, turn.ended = saved

    def _once(self, turn: Turn, step: int, speed: Speed, made: Decision) -> int | None:
        """A milestone or the end cannot wait: the greatest n that can be paid for now, if it is not too small."""
        turn.ended, turn.next_step = turn.stage.at == "end", turn.stage.next_step(step)
        seconds, _ = self._purse_of(turn, step)
        cost = speed.describe(turn.n)
        n = next(
            (n for n in (turn.n, *round_numbers(turn.n, self.least)) if speed.seconds_for(n) <= seconds * (1 + _SLACK)),
            None,
        )
        if n is None:
            made.said.append(("skipped", turn.n, f"left out: {cost}; {self._purse(seconds)}"))
        elif n < turn.n:
            made.said.append(("lowered", turn.n, f"{n:,} images instead: {cost}; {self._purse(seconds)}"))
        return n

    def _periodic(self, turn: Turn, step: int, speed: Speed, made: Decision) -> int | None:
        """Rarer until the budget pays for it, and where that is not enough, of fewer images."""
        stage, every = turn.stage, turn.stage.every or 1
        seconds, earned = self._purse_of(turn, step)
        cost, wanted, period = speed.describe(turn.n), turn.n, turn.period or every

        def stretch(n: int) -> int:
            return max(1, math.ceil(speed.seconds_for(n) / (earned * every) - _SLACK)) if earned > 0 else 1

        if self.account.settled and stretch(turn.n) > _STRETCH:  # for good: fewer images are another curve
            fewer = list(round_numbers(turn.n, self.least))
            turn.n = next((n for n in fewer if stretch(n) <= _STRETCH), (fewer or [turn.n])[-1])
        turn.period = every * stretch(turn.n)
        taken = speed.seconds_for(turn.n) <= seconds * (1 + _SLACK)
        least = step + turn.period - every + 1  # one that began late does not move the next
        if not taken and earned > 0:
            least = step + math.ceil((speed.seconds_for(turn.n) - seconds) / earned)
        turn.next_step = stage.next_step(step, least)
        changes = []
        if turn.n < wanted:
            changes.append(f"{turn.n:,} images instead ({label_of(turn.n)})")
        if turn.period > period:
            changes.append(f"every {turn.period:,} steps instead of {every:,}")
        if not taken:
            when = "never in this run" if turn.next_step is None else f"next at step {turn.next_step:,}"
            made.said.append(
                ("put off", wanted, f"put off: {cost}; {self._purse(seconds)}; {', '.join([*changes, when])}")
            )
            return None
        if changes:
            kind = "lowered" if turn.n < wanted else "stretched"
            made.said.append((kind, wanted, f"{', '.join(changes)}: {cost}; {self._purse(seconds)}"))
        return turn.n

    def _purse_of(self, turn: Turn, step: int) -> tuple[float, float]:
        """Seconds that a stage may take now, and what each training step adds: not all, where others are to come."""
        account, stage = self.account, turn.stage
        if account.budget is None:
            return math.inf, math.inf
        later = any(
            one.stage.at == "end" if not one.ended else one.stage.next_step(step) is not None
            for one in self.turns
            if one.stage.once
        )
        share = _SHARE if later and stage.at != "end" else 1.0
        left = account.budget * account.train_seconds - account.evaluation_seconds
        if stage.once:
            return share * left, account.budget * account.seconds_per_step
        own = share * account.budget * account.train_seconds - account.periodic_seconds
        return min(left, own), share * account.budget * account.seconds_per_step

    def _purse(self, seconds: float) -> str:
        account = self.account
        return (
            f"the budget of {account.budget or 0:.3g} of {duration(account.train_seconds)} of training "
            f"({duration(account.seconds_per_step)} a step) has {duration(max(0.0, seconds))} for it"
        )


def round_numbers(below: int, least: int) -> Iterator[int]:
    """… 2000, 1000, 500: those less than ``below`` and at least ``least``, falling."""
    power = 10 ** int(math.log10(below))
    while power >= 1:
        for digit in (5, 2, 1):
            if least <= digit * power < below:
                yield digit * power
        power //= 10


def duration(seconds: float) -> str:
    """0.004 → "4 ms", 24 → "24 s", 1500 → "25 min", 18000 → "5 h", 600000 → "6.9 days"."""
    for least, unit, name in ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "h"), (120, 60, "min"), (1, 1, "s")):
        if seconds >= least:
            return f"{seconds / unit:.2g} {name}" if seconds / unit < 10 else f"{seconds / unit:.0f} {name}"
    return f"{1000 * seconds:.2g} ms" if seconds < 0.01 else f"{1000 * seconds:.0f} ms"


def _rate(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


def check_whole(name: str, value: object, least: int | None) -> None:
    """ValueError where an argument is not a whole number, of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        at_least = "" if least is None else f" of at least {least}"
        raise ValueError(f"{name}: expected a whole number{at_least}, got {value!r}")
