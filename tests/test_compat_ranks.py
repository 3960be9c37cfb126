"""The façades on two gloo ranks, one of which may have no images: one start of two processes for all of it."""

from __future__ import annotations

import json
import multiprocessing
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from test_compat_torchmetrics import Moments, fid_of
from test_metric import D, make_images, moments

from fidfast.compat import ignite
from fidfast.compat.torchmetrics import FrechetInceptionDistance, InceptionScore, KernelInceptionDistance
from fidfast.compat.torchmetrics import MemorizationInformedFrechetInceptionDistance as MiFID
from fidfast.metrics.inception_score import inception_score

pytestmark = pytest.mark.peers  # there too, where torchmetrics' and ignite's own Metric are the base classes
REAL, FAKE = make_images(40, 1), make_images(40, 2)


def fid(rank: int) -> float:
    """Rank 1 has no real image, which torchmetrics itself answers with an AttributeError."""
    metric = FrechetInceptionDistance(Moments())
    if rank == 0:
        metric.update(REAL, real=True)
    metric.update(FAKE[20 * rank : 20 * rank + 20], real=False)
    value = float(metric.compute())
    assert int(metric.fake_features_num_samples) == 20  # this rank's own again
    metric.update(FAKE[:0], real=False)
    assert float(metric.compute()) == value
    return value


def score(rank: int, sizes: tuple[int, int]) -> list[float]:
    """With rank 1 empty torchmetrics itself waits for ever."""
    metric = InceptionScore(Moments(), splits=1)
    start = rank * sizes[0]
    for part in FAKE[start : start + sizes[rank]].split(7) if sizes[rank] else ():
        metric.update(part)
    return [float(metric.compute()[0]), len(metric.features)]


def of_one(rank: int) -> list[float]:
    """With rank 1 empty torchmetrics' gather ends the process: the rank's (0,) is no (0, D)."""
    metrics = [KernelInceptionDistance(Moments(), subsets=2, subset_size=40), MiFID(Moments())]
    if rank == 0:
        for metric in metrics:
            metric.update(REAL, real=True)
            metric.update(FAKE, real=False)
    return [float(metrics[0].compute()[0]), float(metrics[1].compute())]


def kid(rank: int) -> list[float]:
    metric = KernelInceptionDistance(Moments(), subsets=2, subset_size=40)  # every image: any order is the same
    metric.update(REAL[20 * rank : 20 * rank + 20], real=True)
    metric.update(FAKE[20 * rank : 20 * rank + 20], real=False)
    return [float(value) for value in metric.compute()]


def ignites(rank: int) -> float:
    metric = ignite.FID(num_features=D)
    mine = slice(30 * rank, 30 + 10 * rank)  # 30 and 10
    metric.update((moments(REAL[mine]), moments(FAKE[mine])))
    return metric.compute()


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
        work: dict[str, Callable[[], Any]] = {
            "fid": lambda: fid(rank),
            "score": lambda: score(rank, (22, 18)),
            "score of one": lambda: score(rank, (40, 0)),
            "kid": lambda: kid(rank),
            "lists of one": lambda: of_one(rank),
            "ignite": lambda: ignites(rank),
        }
        for name, do in work.items():
            found[name] = do()
        dist.destroy_process_group()
    except BaseException:
        found["failure"] = traceback.format_exc()
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    os._exit(0)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=main, args=(rank, str(folder))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=200)
    hung = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for rank in hung:
        processes[rank].kill()
    assert not hung, f"ranks {hung} did not end: waiting for each other in a collective?"
    results = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    for result in results:
        assert "failure" not in result, result["failure"]
    for name in ("fid", "ignite", "lists of one"):
        assert results[0][name] == results[1][name]
    return results


def test_fid_of_both_ranks(found: list[dict[str, Any]]) -> None:
    assert found[0]["fid"] == pytest.approx(fid_of(REAL, FAKE), rel=1e-6)


def test_scores_of_both_ranks_and_of_one(found: list[dict[str, Any]]) -> None:
    expected = inception_score(moments(FAKE), splits=1).mean
    assert [one["score"] for one in found] == [
        [pytest.approx(expected, rel=1e-6), 4],
        [pytest.approx(expected, rel=1e-6), 3],
    ]
    assert [one["score of one"][1] for one in found] == [6, 0]
    assert found[1]["score of one"][0] == pytest.approx(expected, rel=1e-6)


def whole_mifid() -> float:
    metric = MiFID(Moments())
    metric.update(REAL, real=True)
    metric.update(FAKE, real=False)
    return float(metric.compute())


def test_kid_and_ignites_fid_of_both_ranks(found: list[dict[str, Any]]) -> None:
    whole = KernelInceptionDistance(Moments(), subsets=2, subset_size=40)
    whole.update(REAL, real=True)
    whole.update(FAKE, real=False)
    assert found[0]["lists of one"] == pytest.approx([float(whole.compute()[0]), whole_mifid()], rel=1e-5, abs=1e-6)
    for one in found:
        assert one["kid"] == pytest.approx([float(value) for value in whole.compute()], abs=1e-6)
    assert found[0]["ignite"] == pytest.approx(fid_of(REAL, FAKE), rel=1e-6)
