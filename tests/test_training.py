"""fidfast.TrainingEvaluator in one process: what it costs, what it leaves alone, and that it can be interrupted."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_metric import REFERENCE, make_images, moments

import fidfast
from fidfast import Stage
from fidfast.training_history import History, curves_of, read_history
from fidfast.training_sampling import sampling


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in ("training", "training_run"):
        monkeypatch.setattr(f"fidfast.{module}.time", made)
    return made


class Generator(torch.nn.Module):
    """A generator that a "training" makes darker, with a part whose mode it must get back."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.0))
        self.frozen = torch.nn.BatchNorm2d(3).eval()
        self.dropout = torch.nn.Dropout(0.5)

    def sample(self, n: int, seeds: list[int]) -> torch.Tensor:
        assert n == len(seeds) and not self.training and not torch.is_grad_enabled()
        noise = fidfast.randn_per_image((3, 12, 12), seeds)
        return (self.dropout(self.scale * noise) * 40 + 128).clamp(0, 255).to(torch.uint8)


class Training:
    """A training loop in miniature: each step takes a second, each image ``seconds``."""

    def __init__(self, clock: Clock, seconds: float = 0.0, **options: Any) -> None:
        self.clock, self.seconds, self.calls, self.model = clock, seconds, [], Generator()
        self.hook: Callable[[], object] = lambda: None  # before each batch
        options = {"budget": None, "batch_size": 16, "least": 10, "feature_extractor": moments, **options}
        self.evaluator = fidfast.TrainingEvaluator(self.sample, REFERENCE, model=self.model, **options)
        self.step = 0

    def sample(self, n: int, seeds: list[int]) -> torch.Tensor:
        self.hook()
        self.calls.append(n)
        self.clock.now += self.seconds * n
        return self.model.sample(n, seeds)

    def run(self, until: int) -> list[fidfast.Evaluation]:
        done = []
        while self.step < until:
            self.step += 1
            self.clock.now += 1
            with torch.no_grad():
                self.model.scale.mul_(0.99)
            done += self.evaluator.step(self.step)
        return done


def fid_now(model: Generator, n: int, seed: int = 0, batch: int = 16) -> fidfast.FIDResult:
    """By hand."""
    fid = fidfast.FID(REFERENCE, feature_extractor=moments)
    pairs = list(fidfast.image_seeds(n, seed))
    was = model.training
    with torch.no_grad():
        for start in range(0, n, batch):
            index, seeds = zip(*pairs[start : start + batch], strict=True)
            fid.update(model.eval().sample(len(seeds), list(seeds)), index)
    model.train(was)
    return fid.compute()


# -- numbers and their names ------------------------------------------------------------------------------------------


def test_the_number_is_that_of_the_same_images_by_hand(clock):
    training = Training(clock, stages=[Stage(50, every=3), Stage(70, at="end")])
    done = training.run(3)
    assert [(one.label, one.step, one.last_step) for one in done] == [("fid_50", 3, 3)]
    expected = fid_now(training.model, 50)
    assert done[0].fid == float(expected) == float(done[0].result) > 0
    assert done[0].result.num_generated == 50 and done[0].result.standard_error == expected.standard_error
    assert training.run(6)[0].fid == float(fid_now(training.model, 50)) != done[0].fid
    final = training.evaluator.finish()
    assert [(one.label, one.step) for one in final] == [("fid_70", 6)]
    assert final[0].fid == float(fid_now(training.model, 70))
    assert training.evaluator.finish() == []
    assert list(training.evaluator.curves) == ["fid_50", "fid_70"]  # never in one
    assert [one.step for one in training.evaluator.curves["fid_50"]] == [3, 6]


def test_stages_of_one_step_share_their_images(clock):
    training = Training(clock, stages=[Stage(90, at=4), Stage(40, every=2)])
    done = training.run(4)
    assert [(one.label, one.step) for one in done] == [("fid_40", 2), ("fid_40", 4), ("fid_90", 4)]
    assert sum(training.calls) == 40 + 90
    assert done[1].fid == float(fid_now(training.model, 40))
    assert done[2].fid == pytest.approx(float(fid_now(training.model, 90)), rel=1e-9)
    assert done[2].result.num_generated == 90 == done[2].result.num_effective


def test_an_evaluation_now_leaves_the_one_under_way_alone(clock):
    training = Training(clock, stages=[Stage(100, every=2)], batches_per_step=1)
    plain = Training(clock, stages=[Stage(100, every=2)], batches_per_step=1)
    assert training.run(4) == [] == plain.run(4)
    now = training.evaluator.evaluate_now(33)
    assert (now.label, now.step, now.fid) == ("fid_33", 4, float(fid_now(training.model, 33)))
    finished, expected = training.run(10), plain.run(10)
    assert [one.fid for one in finished] == [one.fid for one in expected] and len(finished) == 1
    assert (finished[0].step, finished[0].last_step) == (2, 7)


# -- what it costs -----------------------------------------------------------------------------------------------------


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "fidfast.training"]


def test_the_cost_is_logged_after_one_batch_and_before_the_rest(clock, caplog):
    caplog.set_level(logging.INFO, "fidfast.training")
    told: list[int] = []
    training = Training(clock, 0.5, stages=[Stage(200, at=1)])

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(len(training.calls))

    logger, watch = logging.getLogger("fidfast.training"), Watch()
    logger.addHandler(watch)
    try:
        training.run(1)
    finally:
        logger.removeHandler(watch)
    assert told == [1, 13] and len(training.calls) == 13
    assert messages(caplog)[0] == "step 1: fid_200: 200 images at 2 images/s on 1 rank: 100 s"
    assert caplog.records[0].levelno == logging.WARNING  # nobody has limited what takes longer than a minute
    assert messages(caplog)[1].startswith("step 1: fid_200: FID ")


def test_a_budget_is_kept_and_what_it_changed_is_logged(clock, caplog):
    training = Training(clock, 0.02, stages=[Stage(100, every=10)], budget=0.05)  # 2 s, of 0.5 s in ten steps
    done = training.run(400)
    assert [one.step for one in done] == list(range(50, 401, 40))  # the first also paid for a batch that was put off
    spent = done[-1].record["evaluation_seconds"]
    assert 2 * len(done) <= spent <= 0.0501 * 400
    text = messages(caplog)[0]
    assert text.startswith(
        "step 10: fid_100: put off: 100 images at 50 images/s on 1 rank: 2 s; the budget of 0.05 of "
    )
    assert text.endswith("every 40 steps instead of 10, next at step 50")
    assert len(messages(caplog)) == 1 and caplog.records[0].levelno == logging.WARNING


def test_a_slow_sampler_is_asked_for_one_batch_and_never_again(clock, caplog):
    training = Training(clock, 2.0, stages=[Stage(100, every=10)], budget=0.05)
    assert training.run(400) == []
    assert training.calls == [16]
    assert "put off: 100 images at 0.5 images/s on 1 rank: 3.3 min" in messages(caplog)[0]


def test_a_first_batch_that_compiles_does_not_put_it_off(clock, caplog):
    training = Training(clock, stages=[Stage(100, every=100)], budget=0.5)
    delays = [20.0]

    def compiling() -> None:
        clock.now += delays.pop() if delays else 0.01

    training.hook = compiling
    assert len(training.run(100)) == 1
    assert not messages(caplog)


def test_an_evaluation_that_turns_out_much_dearer_is_given_up(clock, caplog):
    training = Training(clock, 0.01, stages=[Stage(160, every=40)], budget=0.05)

    def slower() -> None:
        clock.now += 30.0 * (len(training.calls) >= 3)

    training.hook = slower
    assert training.run(100) == []
    assert len(training.calls) == 4
    assert "given up after 64 images on each rank: 160 images at" in messages(caplog)[0]


def test_n_is_lowered_where_there_is_no_later_step(clock, caplog):
    training = Training(clock, 0.1, stages=[Stage(500, at="end")], budget=0.05)
    training.run(300)
    done = training.evaluator.finish()
    assert [one.label for one in done] == ["fid_100"]
    assert done[0].fid == float(fid_now(training.model, 100))
    assert "100 images instead: 500 images at 10 images/s on 1 rank: 50 s" in messages(caplog)[0]
    few = Training(clock, 0.1, stages=[Stage(500, at="end")], budget=0.05, batch_size=300)
    few.run(300)
    done = few.evaluator.finish()  # the first batch had more images than could be paid for
    assert [one.label for one in done] == ["fid_100"] and done[0].result.num_generated == 100


# -- what it leaves alone ----------------------------------------------------------------------------------------------


def test_modes_random_states_and_gradients_are_as_they_were(clock):
    drawn = []
    training = Training(clock, stages=[Stage(40, every=1)])

    def rude() -> None:
        assert not any(module.training for module in training.model.modules())
        drawn.append((torch.rand(1).item(), float(np.random.rand()), random.random()))  # noqa: NPY002
        torch.set_autocast_enabled("cpu", True)
        torch.set_autocast_dtype("cpu", torch.float16)
        torch.set_grad_enabled(False)

    training.hook = rude
    training.model.train()
    training.model.frozen.eval()
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    dtype = torch.get_autocast_dtype("cpu")
    training.run(2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all() and random.getstate() == before[2]  # noqa: NPY002
    assert not torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == dtype
    assert torch.is_grad_enabled()
    assert training.model.training and training.model.dropout.training and not training.model.frozen.training
    assert drawn[:3] == drawn[3:] and len(set(drawn)) == 3  # repeatable, and another one in every batch


def test_a_model_that_sample_belongs_to_is_found(clock):
    model = Generator().train()
    evaluator = fidfast.TrainingEvaluator(
        model.sample, REFERENCE, stages=[Stage(20, every=1)], budget=None, feature_extractor=moments
    )
    assert len(evaluator.step()) == 1 and model.training  # model.sample looks at its mode


# -- interruptions -----------------------------------------------------------------------------------------------------


def reloaded(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("stop", [5, 7, 9, 12])
def test_a_state_goes_on_to_the_same_numbers(clock, tmp_path, stop):
    options = {"stages": [Stage(100, every=5), Stage(30, at="end")], "batches_per_step": 1}
    whole = Training(clock, **options)
    whole.run(30)
    whole.evaluator.finish()
    first = Training(clock, history=tmp_path / "fid.jsonl", **options)
    first.run(stop)
    saved, scale = reloaded(first.evaluator.state_dict()), first.model.scale.detach().clone()
    first.run(stop + 6)  # what is lost
    second = Training(clock, history=tmp_path / "fid.jsonl", **options)
    second.step = stop
    second.model.scale.data.copy_(scale)
    second.evaluator.load_state_dict(saved)
    second.run(30)
    second.evaluator.finish()
    expected = [(one.label, one.step, one.last_step, one.fid) for one in whole.evaluator.evaluations]
    assert [(one.label, one.step, one.last_step, one.fid) for one in second.evaluator.evaluations] == expected
    written = curves_of(read_history(tmp_path / "fid.jsonl"))
    assert [(one["step"], one["fid"]) for one in written["fid_100"]] == [
        (step, fid) for label, step, _, fid in expected if label == "fid_100"
    ]


def test_without_a_state_the_history_knows_the_best(clock, tmp_path):
    options = {"stages": [Stage(40, every=2)], "history": tmp_path / "fid.jsonl"}
    first = Training(clock, **options)
    first.run(9)
    second = Training(clock, **options)
    second.step = 5
    second.model.scale.data.fill_(0.2)  # another course
    second.run(10)
    steps = [one.step for one in second.evaluator.evaluations]
    assert steps == [2, 4, 6, 8, 10]
    assert [one["step"] for one in curves_of(read_history(tmp_path / "fid.jsonl"))["fid_40"]] == steps
    assert second.evaluator.evaluations[1].fid == first.evaluator.evaluations[1].fid
    assert second.evaluator.evaluations[2].fid != first.evaluator.evaluations[2].fid


def test_states_that_do_not_fit(clock):
    training = Training(clock, stages=[Stage(100, every=2)], batches_per_step=1)
    training.run(3)
    state = training.evaluator.state_dict()
    with pytest.raises(ValueError, match="state: seed: expected 1, got 0"):
        Training(clock, stages=[Stage(100, every=2)], seed=1).evaluator.load_state_dict(state)
    with pytest.raises(ValueError, match="got none named run, shared"):
        training.evaluator.load_state_dict({"version": 1, "settings": {}})
    others = Training(clock, stages=[Stage(40, every=3)], batches_per_step=1)  # other stages: what is under way ends
    others.evaluator.load_state_dict(state)
    others.step = 3
    assert [one.label for one in others.run(12)] == ["fid_100", "fid_40", "fid_40"]


def test_a_state_of_other_ranks_begins_the_evaluation_again(clock, caplog):
    training = Training(clock, stages=[Stage(100, every=2)], batches_per_step=1)
    training.run(3)
    state = training.evaluator.state_dict()
    state["run"]["ranks"] = 2
    other = Training(clock, stages=[Stage(100, every=2)], batches_per_step=1)
    other.evaluator.load_state_dict(state)
    other.step = 3
    done = other.run(10)
    assert (done[0].step, done[0].last_step) == (4, 9) and done[0].result.num_generated == 100
    assert "begins again" in messages(caplog)[0]


def test_steps_are_counted_over_the_whole_training(clock):
    training = Training(clock, stages=[Stage(20, every=2)])
    assert [len(training.evaluator.step()) for _ in range(4)] == [0, 1, 0, 1]
    with pytest.raises(
        ValueError, match="step: expected at least 4, the last one, got 1: count the steps of the whole"
    ):
        training.evaluator.step(1)
    assert [one.step for one in training.evaluator.step(9)] == [9]  # counted by nines: due is due
    assert training.evaluator.step(10)[0].step == 10


def test_a_sampler_that_fails_is_not_asked_again_at_every_step(clock):
    training = Training(clock, stages=[Stage(20, every=3)])

    def fails() -> None:
        raise RuntimeError("out of memory")

    training.hook = fails
    training.run(2)
    with pytest.raises(RuntimeError, match="out of memory"):
        training.run(3)
    training.hook = lambda: None
    assert [one.step for one in training.run(6)] == [6]


# -- where it is told --------------------------------------------------------------------------------------------------


def test_history_lines_logs_and_images(clock, tmp_path):
    class Board:
        def __init__(self) -> None:
            self.scalars: list[tuple[str, float, int]] = []

        def add_scalar(self, tag: str, value: float, step: int) -> None:
            self.scalars.append((tag, value, step))

    board, dicts = Board(), []
    path = tmp_path / "runs" / "fid.jsonl"
    training = Training(
        clock,
        0.01,
        stages=[Stage(50, every=2), Stage(20, at=3)],
        history=path,
        log=[board, dicts.append],
        keep_images=5,
    )
    done = training.run(4)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", "log", "evaluation", "log", "evaluation", "log", "evaluation"]
    assert lines[0]["step"] == 1 and lines[0]["num_real"] == 200 and lines[0]["feature_dim"] == 8
    assert lines[0]["stages"][0] == {"n": 50, "every": 2, "at": None, "start": 0, "stop": None}
    assert (lines[1]["kind"], lines[1]["label"]) == ("estimate", "fid_50")
    assert lines[1]["message"] == "50 images at 100 images/s on 1 rank: 500 ms"
    record = {name: value for name, value in lines[2].items() if name not in ("event", "time")}
    assert record == done[0].record
    assert record["fid"] == done[0].fid and record["num_images"] == 50 and record["ranks"] == 1
    assert record["seconds"]["sample"] == pytest.approx(0.5) and record["train_seconds"] == pytest.approx(1.0)
    assert record["result"]["num_effective"] == 50
    names = ["fid_50", "fid_50/corrected", "fid_50/standard_error"]
    assert sorted(board.scalars[:3]) == [
        (name, value, 2)
        for name, value in zip(names, (done[0].fid, record["corrected"], record["standard_error"]), strict=True)
    ]
    assert [sorted(one) for one in dicts] == [[*names, "step"], ["fid_20", "step"], [*names, "step"]]
    assert record["images"] == "fid-images/fid_50-2.png"
    with Image.open(path.parent / record["images"]) as grid:
        assert grid.size == (2 * 14 - 2, 3 * 14 - 2)  # five images of 12 x 12
        first = np.asarray(grid)[:12, :12]
    training.model.scale.data.fill_(0.99**2)
    with torch.no_grad():
        shown = training.model.eval().sample(1, [next(fidfast.image_seeds(1, 0))[1]])
    assert np.abs(first - shown[0].permute(1, 2, 0).numpy().astype(int)).max() <= 1
    with pytest.raises(ValueError, match="holds results with seed=0, expected 5"):
        Training(clock, stages=[Stage(50, every=2)], history=path, seed=5)
    with pytest.raises(TypeError, match="log: expected a callable that takes a dict, or an object with add_scalar"):
        Training(clock, stages=[Stage(50, every=2)], log=3)


def test_a_line_that_a_crash_has_cut_is_left_out(tmp_path):
    history = History(tmp_path / "fid.jsonl")
    history.write("start", step=1)
    for step in (10, 20, 30):
        history.write("evaluation", label="fid_2k", step=step, last_step=step, fid=1.0, num_images=2_000)
    whole = history.path.read_bytes()
    history.path.write_bytes(whole[:-9])
    assert [one["step"] for one in read_history(history.path)] == [1, 10, 20]
    history.write("start", step=15)  # goes on from an older checkpoint
    history.write("evaluation", label="fid_2k", step=20, last_step=20, fid=2.0, num_images=2_000)
    records = read_history(history.path)
    assert [one["step"] for one in curves_of(records)["fid_2k"]] == [10, 20]
    assert curves_of(records)["fid_2k"][1]["fid"] == 2.0
    history.path.write_bytes(b'{"event": "start", "step": 1}\nhello\n{"event": "log"}\n')
    with pytest.raises(ValueError, match="line 2: expected JSON, got b'hello'"):
        read_history(history.path)
    history.path.write_bytes(b"[1, 2]\n")
    with pytest.raises(ValueError, match="line 1: expected an object with 'event'"):
        read_history(history.path)
    History(None).write("start", step=1)  # nowhere


def test_best_and_patience_per_curve(clock):
    training = Training(clock, stages=[Stage(50, every=2)], patience=2, min_delta=0.0)
    done = training.run(10)
    best = min(done, key=lambda one: one.fid)
    assert training.evaluator.best == {"fid_50": best} and best.is_best
    results = training.evaluator._results
    for values, stop in [
        ((5.0, 4.0, 3.0), False),
        ((5.0, 5.1), False),
        ((5.0, 5.1, 5.2), True),
        ((5, 6, 4, 4, 4), True),
    ]:
        template = done[0].record
        results.load([{**template, "fid": fid, "step": step} for step, fid in enumerate(values)])
        assert training.evaluator.should_stop is stop, values
    results.load([{**template, "label": f"fid_{n}", "num_images": n, "fid": n, "step": n} for n in (10, 20, 30, 40)])
    assert not training.evaluator.should_stop  # four curves, of one evaluation each
    training.evaluator.patience = None
    results.load([{**template, "step": step} for step in range(9)])
    assert not training.evaluator.should_stop


def test_plot_of_each_curve(clock, tmp_path, monkeypatch):
    training = Training(clock, stages=[Stage(50, every=2), Stage(20, at=3)])
    with pytest.raises(ValueError, match="plot: expected at least one evaluation, got none so far"):
        training.evaluator.plot(tmp_path / "fid.png")
    training.run(6)
    training.evaluator.plot(tmp_path / "fid.svg")
    text = (tmp_path / "fid.svg").read_text()
    assert text.count('<g id="axes_') == 2
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    with pytest.raises(ImportError, match=r'plot: matplotlib is not installed.*pip install "fidfast\[report\]"'):
        training.evaluator.plot(tmp_path / "fid.png")
    assert not (tmp_path / "fid.png").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"budget": 5}, ValueError, "budget: expected a share of training time between 0 and 1, or None, got 5"),
        ({"stages": [2000]}, TypeError, r"stages: expected fidfast.Stage\(...\), got 2000"),
        ({"batch_size": 0}, ValueError, "batch_size: expected a whole number of at least 1, got 0"),
        ({"batches_per_step": 0}, ValueError, "batches_per_step: expected a whole number of at least 1, got 0"),
        ({"patience": 0}, ValueError, "patience: expected a whole number of at least 1, got 0"),
        ({"seed": 0.5}, ValueError, "seed: expected a whole number, got 0.5"),
        ({"duplicates": "explode"}, ValueError, "duplicates must be one of"),
        ({"model": "model"}, TypeError, "model: expected a torch.nn.Module or several, got str"),
        ({"sample": 3}, TypeError, r"sample: expected a callable \(n, seeds\) -> images, got int"),
        ({"nonsense": 3}, TypeError, "nonsense"),
    ],
)
def test_arguments_that_make_no_sense(options, error, message):
    sample = options.pop("sample", make_images)
    with pytest.raises(error, match=message):
        fidfast.TrainingEvaluator(sample, REFERENCE, **{"feature_extractor": moments, **options})


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (None, TypeError, r"sample\(20, seeds\): expected 20 images, got None"),
        (make_images(19), ValueError, r"sample\(20, seeds\): expected 20 images, got 19"),
        (make_images(20).float() / 255, ValueError, "value_range"),
        ("images", (ValueError, OSError), "images"),
    ],
)
def test_samplers_that_give_something_else(clock, made, error, message):
    evaluator = fidfast.TrainingEvaluator(
        lambda n, seeds: made, REFERENCE, stages=[Stage(20, every=1)], budget=None, feature_extractor=moments
    )
    with pytest.raises(error, match=message):
        evaluator.step(1)


def test_a_sampler_draws_alike_on_every_device_of_its_models(monkeypatch):
    """The generators of the current device and of the models' are set, and as before afterwards."""
    generators, current = {0: "training's", 1: "training's", 2: "training's"}, [0]

    @contextlib.contextmanager
    def on(device):
        current.append(device)
        yield
        current.pop()

    @contextlib.contextmanager
    def forked(devices):
        found = {device: generators[device] for device in devices}
        yield
        generators.update(found)

    model = torch.nn.Linear(2, 2)
    monkeypatch.setattr(model, "parameters", lambda: [SimpleNamespace(device=torch.device("cuda", 2))])
    monkeypatch.setattr(torch.random, "fork_rng", forked)
    for name, value in (
        ("is_available", lambda: True), ("is_initialized", lambda: True), ("current_device", lambda: current[-1]),
        ("device", on), ("manual_seed", lambda seed: generators.update({current[-1]: seed})),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    with sampling([model], 5):
        assert generators == {0: 5, 1: "training's", 2: 5}
    assert set(generators.values()) == {"training's"}
