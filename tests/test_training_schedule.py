"""When TrainingEvaluator evaluates, and how many images: its stages, and what a budget makes of them."""

from __future__ import annotations

import pytest

from fidfast.training_schedule import Account, Schedule, Speed, Stage, duration, label_of, round_numbers


def simulate(stages, budget, speed, seconds_per_step, steps, *, least=500, settled=True):
    """(step, n) of the evaluations, what was said, and the account; the budget is checked at every step."""
    account = Account(budget)
    schedule = Schedule(stages, account, least)
    schedule.begin(1)
    made, said = [], []

    def evaluate(due, step):
        decision = schedule.decide(due, step, speed)
        schedule.apply(decision)
        said.extend((step, kind, n, text) for kind, n, text in decision.said)
        made.extend((step, n) for n in decision.targets)
        if decision.targets:
            seconds = speed.seconds_for(decision.targets[-1])
            account.charge(seconds, periodic=seconds * schedule.periodic_share(decision.accepted))

    account.batches = 2 if settled else 1
    for step in range(1, steps + 1):
        account.train(seconds_per_step, 1)
        if due := schedule.due(step):
            evaluate(due, step)
        if budget is not None:
            assert account.evaluation_seconds <= 1.02 * budget * account.train_seconds
    if due := schedule.due(None):
        evaluate(due, steps)
        assert not schedule.due(None)
    return made, said, account


FAST = Speed(1e6, 1)


def test_stages_without_a_budget_come_when_they_say():
    stages = [Stage(2_000, every=50, start=100, stop=300), Stage(10_000, at=[120, 200]), Stage(50_000, at="end")]
    made, said, _ = simulate(stages, None, Speed(0.001, 1), 1.0, 400)
    periodic = [(step, 2_000) for step in (150, 200, 250, 300)]
    assert made == sorted([*periodic, (120, 10_000), (200, 10_000), (400, 50_000)])
    assert not said


@pytest.mark.parametrize("budget", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("rate", [0.3, 4.1, 100.0, 5_000.0])
@pytest.mark.parametrize("seconds_per_step", [0.01, 0.3])
def test_a_budget_is_kept_at_every_step(budget, rate, seconds_per_step):
    stages = [Stage(2_000, every=300), Stage(10_000, at=2_000), Stage(50_000, at="end")]
    made, said, account = simulate(stages, budget, Speed(rate, 1, 0.1), seconds_per_step, 6_000)
    assert account.evaluation_seconds <= 1.02 * budget * account.train_seconds  # at the end as well
    payable = budget * account.train_seconds / 4 > Speed(rate, 1, 0.1).seconds_for(500)
    assert bool(made) or not payable
    if len([n for _, n in made if n == 2_000]) < 6_000 // 300:
        assert said  # whatever is not as it was wished for is told


def test_the_period_is_stretched_to_what_the_budget_pays_for():
    made, said, _ = simulate([Stage(2_000, every=5_000)], 0.05, Speed(100, 1), 0.1, 40_000)
    assert made == [(5_000, 2_000)] + [(step, 2_000) for step in range(10_000, 45_000, 5_000)]
    assert not said  # 20 s of evaluation in 500 s of training
    made, said, _ = simulate([Stage(2_000, every=5_000)], 0.05, Speed(30, 1), 0.1, 60_000)
    assert made == [(step, 2_000) for step in (15_000, 30_000, 45_000, 60_000)]
    (step, kind, n, text), *rest = said
    assert (step, kind, n) == (5_000, "put off", 2_000) and not rest
    assert text == (
        "put off: 2,000 images at 30 images/s on 1 rank: 67 s; the budget of 0.05 of 8.3 min of training (100 ms a "
        "step) has 25 s for it; every 15,000 steps instead of 5,000, next at step 15,000"
    )


def test_where_a_period_four_times_as_long_is_not_enough_n_is_lowered_for_good():
    made, said, _ = simulate([Stage(2_000, every=5_000)], 0.05, Speed(10, 1), 0.1, 100_000)
    assert made == [(step, 1_000) for step in range(20_000, 120_000, 20_000)]
    assert [kind for _, kind, *_ in said] == ["put off"]
    assert "1,000 images instead (fid_1k), every 20,000 steps instead of 5,000, next at step 20,000" in said[0][-1]
    unsettled, said, _ = simulate([Stage(2_000, every=5_000)], 0.05, Speed(10, 1), 0.1, 100_000, settled=False)
    assert {n for _, n in unsettled} == {
        2_000
    }  # the first batch may have been slow to start: another curve is for ever
    smallest, _, _ = simulate([Stage(2_000, every=5_000)], 0.05, Speed(10, 1), 0.1, 100_000, least=2_000)
    assert {n for _, n in smallest} == {2_000}


def test_a_sampler_that_can_never_be_paid_for_is_never_started_and_that_is_said():
    made, said, account = simulate([Stage(500, every=50)], 0.05, Speed(0.5, 1), 0.05, 1_000)
    assert not made and account.evaluation_seconds == 0
    assert len(said) == 1 and "500 images at 0.5 images/s on 1 rank: 17 min" in said[0][-1]
    assert "next at step 400,050" in said[0][-1]


def test_milestones_and_the_end_take_what_there_is():
    stages = [Stage(2_000, every=1_000), Stage(10_000, at=[5_000]), Stage(50_000, at="end")]
    made, said, _ = simulate(stages, 0.05, Speed(100, 1), 0.1, 20_000)
    once = [(step, n) for step, n in made if n not in (500, 1_000, 2_000)]
    assert once[-1] == (20_000, 5_000)
    assert [(kind, n) for _, kind, n, _ in said if n == 50_000] == [("lowered", 50_000)]
    assert "5,000 images instead: 50,000 images at 100 images/s on 1 rank: 8.3 min" in said[-1][-1]
    nothing, said, _ = simulate([Stage(50_000, at="end")], 0.05, Speed(0.1, 1), 0.1, 2_000)
    assert not nothing and said[0][1] == "skipped" and said[0][-1].startswith("left out: 50,000 images at 0.1 images/s")


def test_what_is_lost_comes_again_and_what_failed_does_not():
    schedule = Schedule([Stage(500, every=10), Stage(600, at="end")], Account(None), 500)
    schedule.begin(1)
    schedule.apply(schedule.decide(schedule.due(10), 10, FAST))
    assert schedule.due(11) == []
    schedule.again([0], 13)
    assert schedule.due(13) == [0]
    schedule.pass_over([0], 13)
    assert schedule.due(19) == [] and schedule.due(20) == [0]
    assert schedule.due(None) == [1]
    schedule.pass_over([1], 20)
    assert schedule.due(None) == []
    other = Schedule([Stage(500, every=10), Stage(600, at="end")], Account(None), 500)
    other.load_state(schedule.state())
    assert other.turns == schedule.turns


def test_words_and_numbers():
    assert [label_of(n) for n in (500, 1_500, 2_000, 10_000, 50_000)] == [
        "fid_500", "fid_1500", "fid_2k", "fid_10k", "fid_50k",
    ]  # fmt: skip
    assert Speed(4.1, 8).describe(50_000) == "50,000 images at 4.1 images/s on 8 ranks: 25 min"
    assert list(round_numbers(20_000, 600)) == [10_000, 5_000, 2_000, 1_000]
    assert list(round_numbers(500, 500)) == []
    assert [duration(s) for s in (0.004, 0.5, 24, 1_500, 18_000, 600_000)] == [
        "4 ms", "500 ms", "24 s", "25 min", "5 h", "6.9 days",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 1, "every": 5}, "n: expected a whole number of at least 2, got 1"),
        ({"n": 100}, "expected one of every= and at="),
        ({"n": 100, "every": 5, "at": 7}, "expected one of every= and at="),
        ({"n": 100, "every": 0}, "every: expected a whole number of at least 1, got 0"),
        ({"n": 100, "at": "start"}, "at: expected steps or 'end', got 'start'"),
        ({"n": 100, "at": [5, -1]}, "at: expected a whole number of at least 0, got -1"),
        ({"n": 100, "every": 5, "start": 10, "stop": 9}, "stop: expected a whole number of at least 10, got 9"),
    ],
)
def test_stages_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        Stage(**arguments)


def test_budgets_and_lists_that_make_no_sense():
    for budget in (0, 1, 5, -0.1):
        with pytest.raises(ValueError, match="budget: expected a share of training time between 0 and 1, or None"):
            Account(budget)
    with pytest.raises(TypeError, match=r"stages: expected fidfast.Stage\(...\), got 2000"):
        Schedule([2000], Account(None), 500)  # type: ignore[list-item]
