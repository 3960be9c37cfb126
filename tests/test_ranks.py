"""fidfast.FID on two and four gloo ranks of this machine: one start of four processes, in which every check runs."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from test_metric import D, make_images, moments
from tolerances import TOLERANCES

import fidfast
from fidfast.distributed import Ranks, disagreement, name_ranks

WORLD = 4
FID, ERROR_BARS = TOLERANCES["ranks/fid"].rtol, TOLERANCES["ranks/error-bars"].rtol
# Images on each rank: uneven, with empty ranks, in total at most D (8), D + 1, and many more.
SPLITS = {
    "uneven": [130, 1, 300, 69],
    "empty": [0, 40, 0, 7],
    "few": [3, 0, 2, 2],
    "D": [8, 0, 0, 0],
    "D + 1": [0, 3, 3, 3],
    "large": [1500, 2, 1300, 900],  # ranks 0 and 2 have sums, about different shifts
}


def statistics_of(images: torch.Tensor) -> fidfast.FeatureStatistics:
    return fidfast.compute_statistics(images, feature_extractor=moments, progress=False)


def make_fid(reference: Any = None, **options: Any) -> fidfast.FID:
    reference = statistics_of(make_images(200, 99)) if reference is None else reference
    return fidfast.FID(reference, feature_extractor=moments, timeout=60, **options)


class Rank:
    """What one rank does, and what it writes down for the tests to look at."""

    def __init__(self, rank: int, pair: dist.ProcessGroup | None) -> None:
        self.rank, self.pair, self.found = rank, pair, {}

    def run(self, name: str, work: Callable[[], Any]) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = work()
            except (fidfast.RanksError, ValueError) as error:
                found = {"error": type(error).__name__, "message": str(error), "report": getattr(error, "report", None)}
        if isinstance(found, fidfast.FIDResult):
            found = found.to_dict()
        self.found[name] = found
        self.found[f"{name}: warnings"] = [str(one.message) for one in caught]

    def part(self, images: torch.Tensor, sizes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """This rank's images and their global indices."""
        index = torch.arange(len(images)).split(sizes)[self.rank]
        return images[index], index

    def evaluate(self, sizes: list[int], *, indexed: bool = True, **options: Any) -> fidfast.FIDResult:
        images, index = self.part(make_images(sum(sizes)), sizes)
        fid = make_fid(**options)
        for start in range(0, len(images), 37):
            fid.update(images[start : start + 37], index[start : start + 37] if indexed else None)
        first = fid.compute()
        again = fid.compute()
        assert {**again.to_dict(), "seconds": 0} == {**first.to_dict(), "seconds": 0}
        fid.reset()
        return first


def same_splits(me: Rank) -> None:
    for name, sizes in SPLITS.items():
        me.run(f"4 {name}", lambda sizes=sizes: me.evaluate(sizes))
        if me.pair is not None:
            two = [sizes[0] + sizes[1], sizes[2] + sizes[3]]
            me.run(f"2 {name}", lambda two=two: me.evaluate(two, process_group=me.pair))
    me.run("without index", lambda: me.evaluate(SPLITS["uneven"], indexed=False))
    me.run("reference images", lambda: me.evaluate(SPLITS["large"], reference=make_images(201, 99) // 2))
    me.run("large reference", lambda: me.evaluate(SPLITS["empty"], reference=make_images(3000, 98)))
    me.run("alone", lambda: me.evaluate([100] * 4, all_ranks=False))


def padding(me: Rank) -> None:
    images = make_images(50)
    sampler = torch.utils.data.DistributedSampler(range(50), shuffle=True, num_replicas=WORLD, rank=me.rank)
    mine = torch.tensor(list(sampler))

    def evaluate() -> fidfast.FIDResult:
        fid = make_fid()
        for part in mine.split(5):
            fid.update(images[part], part)
        assert len(fid) == 13
        return fid.compute()

    me.run("padding", evaluate)


def disagreements(me: Rank) -> None:
    def evaluate(**options: Any) -> fidfast.FIDResult:
        fid = make_fid(**options)
        fid.update(make_images(20, me.rank))
        return fid.compute()

    other = statistics_of(make_images(200, 7))
    me.run("error_bars differ", lambda: evaluate(error_bars=me.rank != 1))
    me.run("reference differs", lambda: evaluate(reference=other if me.rank >= 2 else None))
    me.run("duplicates differ", lambda: evaluate(duplicates="warn" if me.rank == 3 else "error"))
    me.run("agreed again", lambda: evaluate())


def generate(latents: torch.Tensor) -> torch.Tensor:
    """A tiny generator with fixed weights: (n, 4, 3, 3) → (n, 3, 12, 12) uint8."""
    layer = torch.nn.ConvTranspose2d(4, 3, 4, stride=4)
    with torch.no_grad():
        layer.weight.copy_(torch.sin(torch.arange(layer.weight.numel()).float()).view_as(layer.weight))
        layer.bias.zero_()
        return (layer(latents).sigmoid() * 255).round().to(torch.uint8)


def seeds(me: Rank) -> None:
    def one_seed(duplicates: str, batches: int) -> Any:
        fid = make_fid(duplicates=duplicates)
        generator = torch.Generator().manual_seed(0)  # the same on every rank: the mistake
        failure = None
        for batch in range(batches):
            try:
                fid.update(generate(torch.randn(16, 4, 3, 3, generator=generator)))
            except fidfast.DuplicateImagesError as error:
                failure = {"batch": batch, "message": str(error), "ranks": error.report["same_images"]}
        dist.barrier()
        return fid, failure

    def stopped() -> Any:
        # one rank after another, so that it does not hang on the order in which they happen to come
        fid, found = make_fid(), None
        for turn in range(WORLD):
            if turn == me.rank:
                generator = torch.Generator().manual_seed(0)
                try:
                    fid.update(generate(torch.randn(16, 4, 3, 3, generator=generator)))
                except fidfast.DuplicateImagesError as error:
                    found = {"message": str(error), "ranks": error.report["same_images"]}
            dist.barrier()
        try:
            fid.update(generate(torch.randn(16, 4, 3, 3, generator=torch.Generator().manual_seed(me.rank + 9))))
        except fidfast.DuplicateImagesError as error:  # the first to come finds out now
            assert found is None
            found = {"message": str(error), "ranks": error.report["same_images"]}
        return found

    def ignored_then() -> Any:
        fid, failure = one_seed("ignore", 2)
        assert failure is None
        try:
            fid.compute(duplicates="error")
        except fidfast.DuplicateImagesError as error:
            result = fid.compute(duplicates="ignore")
            return {"message": str(error), "report": error.report, "result": result.to_dict()}
        return None

    def warned() -> Any:
        fid, _ = one_seed("warn", 2)
        return fid.compute()

    def collapsed() -> fidfast.FIDResult:
        fid = make_fid()
        for _ in range(3):
            fid.update(make_images(1, 3).repeat(10, 1, 1, 1))
        fid.update(make_images(10, 50 + me.rank))
        return fid.compute()

    def by_image(group: dist.ProcessGroup | None, rank: int, world: int) -> Any:
        fid = make_fid(process_group=group)
        pairs = list(fidfast.image_seeds(48, 5, rank=rank, world_size=world))
        for start in range(0, len(pairs), 4):
            index, image_seeds = zip(*pairs[start : start + 4], strict=True)
            fid.update(generate(fidfast.randn_per_image((4, 3, 3), image_seeds)), index)
        return fid.compute()

    me.run("one seed, at once", stopped)
    me.run("one seed, at the end", ignored_then)
    me.run("one seed, warned", warned)
    me.run("collapsed", collapsed)
    me.run("image_seeds", lambda: by_image(None, me.rank, WORLD))
    if me.pair is not None:
        me.run("image_seeds of two", lambda: by_image(me.pair, me.rank, 2))
    assert list(fidfast.image_seeds(10, 1)) == list(fidfast.image_seeds(10, 1, rank=me.rank, world_size=WORLD))
    assert fidfast.rank_seed(0) == fidfast.rank_seed(0, rank=me.rank)


def folders(me: Rank) -> None:
    """compute_fid on all ranks: each reads its share of what everybody has."""
    real, images = make_images(61, 1), make_images(90, 2)
    options = {"feature_extractor": moments, "progress": False, "all_ranks": True}
    me.run("compute_fid", lambda: fidfast.compute_fid(real, images, error_bars=True, **options))
    me.run("compute_fid of batches", lambda: fidfast.compute_fid(iter(real.split(7)), iter(images.split(9)), **options))
    me.run("compute_fid of three", lambda: fidfast.compute_fid(real[:3], images[:3], **options))
    me.run(
        "compute_statistics",
        lambda: [*(made := fidfast.compute_statistics(images, **options)).mu.tolist(), made.num_samples],
    )
    for name, arguments in MEASURES.items():
        me.run(name, lambda arguments=arguments: measures(real, images, **arguments, **options))


def measures(real: torch.Tensor, images: torch.Tensor, *, few: bool = False, **options: Any) -> dict[str, Any]:
    found = fidfast.evaluate(real[:3] if few else real, images[:3] if few else images, **options).to_dict()
    return {name: found[name] for name in (*options["metrics"], "num_real", "num_generated", "notes") if name != "fid"}


MEASURES: dict[str, dict[str, Any]] = {
    "kid and prdc": {"metrics": ["fid", "kid", "prdc"], "kid_subsets": 7, "kid_subset_size": 30},
    "kid and prdc of a sample": {"metrics": ["kid", "prdc"], "max_features": 40, "kid_subsets": 3},
    "kid with an empty rank": {"metrics": ["kid"], "few": True},
}


def deaths(me: Rank) -> None:
    """Rank 3 is killed, then rank 0, which holds the meeting together."""
    fid = make_fid()
    fid.timeout = 3.0  # a busy machine may hold one of four processes up for a second
    fid.update(make_images(10, me.rank))
    if me.rank == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    me.run("rank 3 killed", fid.compute)
    me.run("still counted", lambda: len(fid))
    if me.rank == 0:
        return
    me.run("rank 0 ended", fid.compute)


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    pair = dist.new_group([0, 1])
    me = Rank(rank, pair if rank < 2 else None)
    try:
        for checks in (same_splits, padding, disagreements, seeds, folders, deaths):
            if checks is deaths and rank == 3:
                write(folder, rank, me.found)
            checks(me)
    except BaseException:
        me.found["failure"] = traceback.format_exc()
    write(folder, rank, me.found)
    os._exit(0)  # no farewell between ranks of which some are dead


def write(folder: str, rank: int, found: dict[str, Any]) -> None:
    Path(folder, f"{rank}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=main, args=(rank, str(folder))) for rank in range(WORLD)]
    for process in processes:
        process.start()
    end = time.monotonic() + 400
    for process in processes:
        process.join(timeout=max(0.0, end - time.monotonic()))
    hung = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for rank in hung:
        processes[rank].kill()
    assert not hung, f"{name_ranks(hung)} did not end: waiting for each other in a collective?"
    results = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]
    for result in results:
        assert "failure" not in result, result["failure"]
    return results


def alone(images: torch.Tensor, reference: Any = None, index: torch.Tensor | None = None) -> fidfast.FIDResult:
    fid = make_fid(reference, duplicates="ignore")
    fid.update(images, index)
    return fid.compute()


def scale(result: fidfast.FIDResult, images: torch.Tensor) -> float:
    """tr(Σ1 + Σ2)."""
    return float(statistics_of(images).sigma.trace() + statistics_of(make_images(200, 99)).sigma.trace())


def equal_on(found: list[dict[str, Any]], name: str) -> dict[str, Any]:
    for one in found[1:]:
        assert one[name] == found[0][name]
    return found[0][name]


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("world", [2, 4])
def test_any_split_gives_the_number_of_one_process(found, name, world):
    images = make_images(sum(SPLITS[name]))
    expected = alone(images, index=torch.arange(len(images)))
    result = equal_on(found[:world], f"{world} {name}")
    tolerance = TOLERANCES["ranks/features"].rtol * scale(expected, images)
    assert abs(result["raw"] - expected.raw) <= tolerance
    assert result["num_generated"] == len(images) == result["num_effective"]
    assert result["route"] == expected.route  # by rows while the total is at most D, however it is split
    if len(images) >= 5 * D:
        for field in ("standard_error", "corrected", "floor"):
            assert result[field] == pytest.approx(getattr(expected, field), rel=ERROR_BARS)
    else:
        assert result["standard_error"] is None and "too few" in result["notes"][-1]


def test_without_indices_or_with_images_as_the_reference(found):
    images = make_images(sum(SPLITS["uneven"]))
    assert equal_on(found, "without index")["fid"] == pytest.approx(float(alone(images)), rel=FID)
    images = make_images(sum(SPLITS["large"]))
    expected = alone(images, make_images(201, 99) // 2)
    result = equal_on(found, "reference images")
    assert result["fid"] == pytest.approx(float(expected), rel=FID) and result["num_real"] == 201
    images = make_images(sum(SPLITS["empty"]))
    assert equal_on(found, "large reference")["fid"] == pytest.approx(
        float(alone(images, make_images(3000, 98))), rel=FID
    )


def test_a_metric_of_one_process_takes_no_notice_of_the_others(found):
    for rank, one in enumerate(found):
        expected = alone(make_images(400)[100 * rank : 100 * rank + 100])
        assert one["alone"]["fid"] == float(expected) and one["alone"]["num_generated"] == 100


def test_the_padding_of_a_distributed_sampler_counts_once(found):
    result = equal_on(found, "padding")
    assert result["num_generated"] == 50 == result["num_effective"]
    assert result["fid"] == pytest.approx(float(alone(make_images(50))), rel=FID)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("error_bars differ", "the ranks do not agree on error_bars: ranks 0, 2–3: True; rank 1: False"),
        ("reference differs", "the ranks do not agree on reference: ranks 0–1: [200, "),
        ("duplicates differ", "the ranks do not agree on duplicates: ranks 0–2: 'error'; rank 3: 'warn'"),
    ],
)
def test_ranks_that_differ_are_named_on_every_rank(found, name, message):
    error = equal_on(found, name)
    assert error["error"] == "RanksError"
    assert error["message"].startswith(message)
    assert equal_on(found, "agreed again")["num_generated"] == 80


def test_one_seed_on_all_ranks_stops_after_the_first_batch(found):
    for rank, one in enumerate(found):
        error = one["one seed, at once"]
        seen = list(range(rank + 1)) if rank else [0, 1, 2, 3]  # the first to come sees the others at its second batch
        assert error["ranks"] == seen
        assert error["message"].startswith(f"{name_ranks(seen)} produced identical images")
        assert "fidfast.image_seeds" in error["message"]


def test_one_seed_on_all_ranks_is_an_error_at_the_end_and_a_number_if_ignored(found):
    error = equal_on([{"x": {**one["one seed, at the end"], "result": None}} for one in found], "x")
    assert error["message"].startswith("ranks 0–3 produced identical images: of 128 images only 32 are different")
    assert error["report"]["overlap"] == [[32] * 4] * 4
    assert error["report"]["same_images"] == [0, 1, 2, 3]
    result = found[2]["one seed, at the end"]["result"]
    assert result["num_generated"] == 128 and result["num_effective"] == 32 and result["fid"] > 0
    warned = equal_on(found, "one seed, warned")
    assert warned["fid"] == result["fid"]
    assert "ranks 0–3 produced identical images" in warned["notes"][0]
    assert any("ranks 0–3 produced" in text for text in found[0]["one seed, warned: warnings"])


def test_a_collapsed_generator_is_a_warning_and_a_number(found):
    result = equal_on(found, "collapsed")
    assert "only 41 of 160 images are different" in result["notes"][0]
    assert result["duplicates"]["generated"]["same_images"] == []
    assert any("only 41 of 160" in text for text in found[0]["collapsed: warnings"])
    assert not found[1]["collapsed: warnings"]  # said once, not four times


def test_image_seeds_give_the_same_images_and_number_for_one_two_and_four_ranks(found):
    fid = make_fid()
    pairs = list(fidfast.image_seeds(48, 5))
    for start in range(0, 48, 4):
        index, image_seeds = zip(*pairs[start : start + 4], strict=True)
        fid.update(generate(fidfast.randn_per_image((4, 3, 3), image_seeds)), index)
    expected = fid.compute()
    for result in (equal_on(found, "image_seeds"), equal_on(found[:2], "image_seeds of two")):
        assert result["num_effective"] == 48
        assert result["fid"] == pytest.approx(float(expected), rel=FID)
        assert result["standard_error"] == pytest.approx(expected.standard_error, rel=ERROR_BARS)


def test_compute_fid_on_all_ranks(found):
    real, images = make_images(61, 1), make_images(90, 2)
    options = {"feature_extractor": moments, "progress": False}
    expected = fidfast.compute_fid(real, images, error_bars=True, **options)
    result = equal_on(found, "compute_fid")
    assert result["fid"] == pytest.approx(float(expected), rel=FID)
    assert result["standard_error"] == pytest.approx(expected.standard_error, rel=ERROR_BARS)
    assert (result["num_real"], result["num_generated"]) == (61, 90)
    assert equal_on(found, "compute_fid of batches")["fid"] == pytest.approx(float(expected), rel=FID)
    few = fidfast.compute_fid(real[:3], images[:3], **options)
    assert equal_on(found, "compute_fid of three")["fid"] == pytest.approx(float(few), rel=FID)
    assert equal_on(found, "compute_statistics") == pytest.approx([*statistics_of(images).mu.tolist(), 90], rel=FID)


def test_a_killed_rank_is_named_within_the_timeout_and_nothing_is_lost(found):
    for one in found[:3]:
        assert one["rank 3 killed"]["error"] == "RanksError"
        assert one["rank 3 killed"]["message"].startswith("rank 3 of 4 did not come within 3 s")
        assert one["still counted"] == 10
    for one in found[1:3]:
        assert "rank 0" in one["rank 0 ended"]["message"] or "ranks 0, 3" in one["rank 0 ended"]["message"]


# -- without processes ------------------------------------------------------------------------------------------------


def test_names_of_ranks():
    assert name_ranks([3]) == "rank 3"
    assert name_ranks([2, 0, 1, 5, 7, 8]) == "ranks 0–2, 5, 7–8"


def test_disagreement_names_values_and_takes_unknown_for_agreement():
    assert disagreement([{"preset": "a", "dim": 8}, {"preset": "a", "dim": None}, {"preset": "a", "dim": 8}]) is None
    text = disagreement([{"preset": "a"}, {"preset": None}, {"preset": "b"}, {"preset": "a"}])
    assert text == "the ranks do not agree on preset: ranks 0, 3: 'a'; rank 2: 'b'"
    close = 1.0 + 1e-7
    assert disagreement([{"x": [3, 1.0]}, {"x": [3, close]}]) is None
    assert disagreement([{"x": [3, 1.0]}, {"x": [3, 1.001]}]) is not None
    assert disagreement([{"x": [3, 1.0]}, {"x": [4, 1.0]}]) is not None


def test_a_process_alone_is_a_group_of_one():
    ranks = Ranks()
    assert (ranks.rank, ranks.size) == (0, 1)
    assert ranks.meet("k", {}, 5) == [5] and ranks.exchange("x") == ["x"] and ranks.together(lambda: 2) == [2]
    tensor = torch.arange(3)
    assert ranks.all_reduce(tensor) is tensor and ranks.reduce(tensor, 0) is tensor
    ranks.publish("k", b"1")
    assert ranks.published("k", 0) is None
    assert math.isfinite(ranks.timeout)


@pytest.mark.parametrize("bound", [None, torch.device("cuda", 3)])
def test_collectives_of_nccl_take_tensors_on_the_device_of_the_group(monkeypatch, bound):
    monkeypatch.setattr(dist, "get_backend_config", lambda group: "cuda:nccl")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    ranks = Ranks()
    ranks.group, ranks.size = SimpleNamespace(bound_device_id=bound), 2
    assert ranks.device == (bound or torch.device("cuda", 1))


def test_a_collective_returns_when_the_groups_thread_has_let_go_of_its_tensors(monkeypatch):
    """Else it may ask for Python's lock while the group is destroyed (torch 2.6 hangs) or Python ends (it aborts)."""
    held, drops = [], []

    def drop():
        time.sleep(0.05)
        drops.append(len(held))
        held.clear()

    def all_gather(outputs, tensor, group):
        for output in outputs:
            output.copy_(tensor)
        held.extend([*outputs, tensor])
        threading.Thread(target=drop).start()

    monkeypatch.setattr(dist, "all_gather", all_gather)
    monkeypatch.setattr(dist, "get_backend_config", lambda group: "cpu:gloo")
    ranks = Ranks()
    ranks.size = 2
    rows = torch.arange(6.0).view(3, 2)
    for part, count in zip(ranks.gather_rows(rows, [3, 2]), (3, 2), strict=True):
        assert torch.equal(part, rows[:count])
    assert drops == [3] and held == []
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, group: held.append(tensor.mul_(2)))
    monkeypatch.setattr("fidfast.distributed._LET_GO", 0.01)
    assert ranks.all_reduce(torch.ones(2)).tolist() == [2, 2]  # a backend that keeps them is not waited for long


@pytest.mark.parametrize("name", MEASURES)
def test_other_measures_on_all_ranks_are_those_of_one_process(found, name):
    real, images = make_images(61, 1), make_images(90, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = measures(real, images, **MEASURES[name], feature_extractor=moments, progress=False)
    assert equal_on(found, name) == expected
