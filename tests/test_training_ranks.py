"""TrainingEvaluator on four gloo ranks: one start of four processes, in which every check runs."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from test_training import Clock, Training, fid_now
from tolerances import TOLERANCES

import fidfast
import fidfast.training
import fidfast.training_run
from fidfast import Stage
from fidfast.distributed import name_ranks
from fidfast.training_history import read_history

WORLD = 4
FID = TOLERANCES["ranks/fid"].rtol
EVERY_TWO = [Stage(50, every=2)]


class Rank:
    """What one rank does, and what it writes down for the tests to look at."""

    def __init__(self, rank: int, pair: dist.ProcessGroup | None, folder: Path) -> None:
        self.rank, self.pair, self.folder, self.found = rank, pair, folder, {}

    def run(self, name: str, work: Callable[[], Any]) -> None:
        try:
            self.found[name] = work()
        except (fidfast.RanksError, ValueError) as error:
            report = getattr(error, "report", None)
            self.found[name] = {"error": type(error).__name__, "message": str(error), "report": report}

    def training(self, seconds: float = 0.0, **options: Any) -> Training:
        return Training(new_clock(), seconds, timeout=60, **{"stages": EVERY_TWO, "batch_size": 4, **options})


def new_clock() -> Clock:
    clock = Clock()
    for module in (fidfast.training, fidfast.training_run):
        module.time = clock  # type: ignore[attr-defined]
    return clock


def told(done: list[fidfast.Evaluation]) -> list[list[Any]]:
    return [[one.label, one.step, one.last_step, one.fid, one.is_best] for one in done]


def seeds(me: Rank) -> None:
    def one_seed(duplicates: str) -> Any:
        training = me.training(duplicates=duplicates)
        sample = training.sample
        made = training.evaluator._runner
        made.sample = lambda n, seeds: sample(n, list(range(len(training.calls), len(training.calls) + n)))
        try:
            return told(training.run(2))
        except fidfast.DuplicateImagesError as error:
            again = told(training.run(3))  # it has had its turn
            return {"calls": training.calls, "message": str(error), "report": error.report, "again": again}

    def global_generator() -> Any:
        training = me.training()
        training.evaluator._runner.sample = lambda n, seeds: torch.randint(0, 256, (n, 3, 12, 12), dtype=torch.uint8)
        return told(training.run(2))

    def by_image(group: dist.ProcessGroup | None, **options: Any) -> Any:
        stages = [Stage(50, every=3, stop=3), Stage(101, at=3)]
        training = me.training(process_group=group, stages=stages, **options)
        done = training.run(20)
        state = training.evaluator.fid.state_dict()["accumulator"]
        images = {int(index): pair for index, pair in zip(state["indices"], state["hashes"].tolist(), strict=True)}
        return {"told": told(done), "images": images, "num_effective": done[-1].result.num_effective}

    me.run("one seed", lambda: one_seed("error"))
    me.run("one seed, warned", lambda: one_seed("warn"))
    me.run("global generator", global_generator)
    me.run("by image of 4", lambda: by_image(None))
    me.run("by image of 4, spread", lambda: by_image(None, batches_per_step=2))
    if me.pair is not None:
        me.run("by image of 2", lambda: by_image(me.pair))


def clocks(me: Rank) -> None:
    def budget() -> Any:
        training = me.training(0.02 * (1 + me.rank), stages=[Stage(100, every=10)], budget=0.05, history=history)
        training.clock.now += 1000 * me.rank
        done = training.run(150)
        meetings = training.evaluator._runner.meetings
        before = meetings._count
        training.run(159)
        return [told(done), meetings._count - before, len(training.calls)]

    history = me.folder / f"history-{me.rank}.jsonl"
    me.run("budget", budget)


def resumed(me: Rank) -> None:
    def go(load: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Any:
        first = me.training(batches_per_step=1, stages=[Stage(100, every=5)])
        first.run(8)
        state = load(first.evaluator.state_dict())
        second = me.training(batches_per_step=1, stages=[Stage(100, every=5)])
        second.step = 8
        second.model.load_state_dict(first.model.state_dict())
        if state is not None:
            second.evaluator.load_state_dict(state)
        return told(second.run(26))

    def of_rank_0(state: dict[str, Any]) -> dict[str, Any]:
        states = [state if me.rank == 0 else None]
        dist.broadcast_object_list(states, src=0)
        return states[0]

    whole = me.training(batches_per_step=1, stages=[Stage(100, every=5)])
    me.run("whole", lambda: told(whole.run(26)))
    me.run("each its own", lambda: go(lambda state: state))
    me.run("that of rank 0", lambda: go(of_rank_0))
    me.run("rank 0 only", lambda: go(lambda state: state if me.rank == 0 else None))


def disagreements(me: Rank) -> None:
    me.run("seeds differ", lambda: told(me.training(seed=int(me.rank == 3)).run(2)))

    def steps_differ() -> Any:
        training = me.training()
        training.run(1)
        training.step += 2 * (me.rank == 2)
        return told(training.run(training.step + 1))

    me.run("steps differ", steps_differ)
    me.run("agreed again", lambda: told(me.training().run(2)))


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    pair = dist.new_group([0, 1])
    me = Rank(rank, pair if rank < 2 else None, Path(folder))
    try:
        for checks in (seeds, clocks, resumed, disagreements):
            checks(me)
    except BaseException:
        me.found["failure"] = traceback.format_exc()
    Path(folder, f"{rank}.json").write_text(json.dumps(me.found))
    if "failure" not in me.found:
        dist.barrier()
    os._exit(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training-ranks")


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=main, args=(rank, str(folder))) for rank in range(WORLD)]
    for process in processes:
        process.start()
    end = time.monotonic() + 300
    for process in processes:
        process.join(timeout=max(0.0, end - time.monotonic()))
    hung = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for rank in hung:
        processes[rank].kill()
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("?.json"))]
    for result in results:
        assert "failure" not in result, result["failure"]
    assert not hung, f"{name_ranks(hung)} did not end: waiting for each other in a collective?"
    assert len(results) == WORLD
    return results


def equal_on(found: list[dict[str, Any]], name: str) -> Any:
    for one in found[1:]:
        assert one[name] == found[0][name]
    return found[0][name]


def test_one_seed_on_all_ranks_is_an_error_on_all_after_the_first_batch(found):
    error = equal_on(found, "one seed")
    assert error["calls"] == [4]
    assert error["message"].startswith("ranks 0–3 produced identical images: of 16 images only 4 are different")
    assert "fidfast.image_seeds" in error["message"] and error["report"]["same_images"] == [0, 1, 2, 3]
    assert error["again"] == []
    ((label, *_, fid, _),) = equal_on(found, "one seed, warned")
    assert label == "fid_50" and fid > 0


def test_a_sampler_that_draws_from_the_global_generator_makes_other_images_on_each_rank(found):
    ((label, *_),) = equal_on(found, "global generator")
    assert label == "fid_50"


def test_images_and_numbers_are_those_of_one_process(found):
    training = Training(Clock(), stages=[Stage(50, every=3), Stage(101, at=3)], batch_size=4)
    expected = training.run(3)
    state = training.evaluator.fid.state_dict()["accumulator"]
    images = {str(int(index)): pair for index, pair in zip(state["indices"], state["hashes"].tolist(), strict=True)}
    assert len(images) == 101 and expected[0].fid == float(fid_now(training.model, 50, batch=4))
    for world in (2, 4):
        ranks = [one[f"by image of {world}"] for one in found[:world]]
        told = equal_on(ranks, "told")
        assert [one[:3] for one in told] == [["fid_50", 3, 3], ["fid_101", 3, 3]]  # 50 and 101 are no multiples of 4
        assert [one[3] for one in told] == [pytest.approx(one.fid, rel=FID) for one in expected]
        assert equal_on(ranks, "num_effective") == 101
        assert {index: pair for one in ranks for index, pair in one["images"].items()} == images  # bit for bit


def test_an_evaluation_spread_over_steps_on_all_ranks(found):
    made = [one["by image of 4, spread"] for one in found]
    (small, large) = equal_on(made, "told")
    assert small[:2] == ["fid_50", 3] and large[:2] == ["fid_101", 3] and 3 < small[2] < large[2] < 10
    assert equal_on(made, "num_effective") == 101


def test_rank_0_decides_for_all_by_the_slowest_and_nobody_talks_between(found, folder):
    for one in found:
        done, meetings, calls = one["budget"]
        assert done == found[0]["budget"][0] and calls == found[0]["budget"][2]
        assert meetings == 0  # in nine steps where nothing was due
    assert [one[1] for one in found[0]["budget"][0]] == [50, 90, 130]
    records = [record for record in read_history(folder / "history-0.jsonl") if record["event"] == "log"]
    assert records[0]["message"].startswith("put off: 100 images at 12 images/s on 4 ranks: 2 s; the budget")
    assert not (folder / "history-1.jsonl").exists()  # told once


def test_states_of_each_rank_or_of_rank_0_go_on(found):
    whole = equal_on(found, "whole")
    assert [one[1] for one in whole] == [5, 11, 17]
    assert equal_on(found, "each its own") == whole
    for name in ("that of rank 0", "rank 0 only"):
        made = equal_on(found, name)
        assert [one[:2] for one in made] == [["fid_100", 9], ["fid_100", 15], ["fid_100", 21]]  # it has begun again


def test_ranks_that_differ_are_named(found):
    error = equal_on(found, "seeds differ")
    assert error["message"].startswith("the ranks do not agree on seed: ranks 0–2: 0; rank 3: 1")
    error = equal_on(found, "steps differ")
    assert error["message"].startswith("the ranks do not agree on step: ranks 0–1, 3: 2; rank 2: 4")
    assert equal_on(found, "agreed again")[0][0] == "fid_50"
