"""The two failures that TrainingEvaluator is there for, replayed with the code of others (benchmarks/peers.sh sets up).

One seed on all ranks, with a GAN whose weights come inside a package; and the Trainer of denoising-diffusion-pytorch,
which evaluated for a week.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import multiprocessing
import os
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from PIL import Image
from test_metric import make_images, moments

import fidfast
from fidfast import Stage

pytestmark = pytest.mark.peers

WORLD = 4


def skip_unless_importable(*names: str) -> None:
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f"{', '.join(absent)} is not installed here: see benchmarks/README.md")


# -- one seed on all ranks ---------------------------------------------------------------------------------------------


class Faces:
    """The DCGAN of gan-face-generate: (n, 100, 1, 1) latents → (n, 3, 64, 64) faces in [-1, 1]."""

    def __init__(self) -> None:
        from gan_face_generate.models import Generator

        path = Path(importlib.util.find_spec("gan_face_generate").origin).with_name("weights.tar")
        self.network = Generator(1, 3, 100, 64)
        self.network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["netG_state_dict"])
        self.latents: dict[int, torch.Tensor] = {}

    def of_seeds(self, n: int, seeds: list[int]) -> torch.Tensor:
        latents = fidfast.randn_per_image((100, 1, 1), seeds)
        self.latents.update(zip(seeds, latents, strict=True))
        return self.network(latents)

    def of_one_seed(self, n: int, seeds: list[int]) -> torch.Tensor:
        torch.manual_seed(0)  # on every rank: the mistake
        return self.network(torch.randn(n, 100, 1, 1))


def evaluate_faces(reference: Path, sampler: str, group: Any = None) -> dict[str, Any]:
    faces = Faces()
    calls: list[int] = []

    def sample(n: int, seeds: list[int]) -> torch.Tensor:
        calls.append(n)
        return getattr(faces, sampler)(n, seeds)

    evaluator = fidfast.TrainingEvaluator(
        sample, str(reference), model=faces.network, stages=[Stage(64, at=1)], budget=None, batch_size=8,
        value_range=(-1, 1), feature_dim=64, device="cpu", process_group=group, timeout=60,
    )  # fmt: skip
    try:
        (done,) = evaluator.step(1)
    except fidfast.DuplicateImagesError as error:
        return {"calls": calls, "message": str(error), "ranks": error.report["same_images"]}
    state = evaluator.fid.state_dict()["accumulator"]
    images = dict(zip(map(str, state["indices"].tolist()), state["hashes"].tolist(), strict=True))
    latents = {str(seed): made.flatten().tolist() for seed, made in faces.latents.items()}
    return {"calls": calls, "fid": done.fid, "images": images, "latents": latents}


def rank_of_faces(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    pair = dist.new_group([0, 1])
    found: dict[str, Any] = {}
    try:
        reference = Path(folder, "real.npz")
        found["one seed"] = evaluate_faces(reference, "of_one_seed")
        found["4"] = evaluate_faces(reference, "of_seeds")
        if rank < 2:
            found["2"] = evaluate_faces(reference, "of_seeds", pair)
    except BaseException:
        found["failure"] = traceback.format_exc()
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    os._exit(0)


@pytest.fixture(scope="module")
def faces_on_ranks(tmp_path_factory: pytest.TempPathFactory, weights_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    skip_unless_importable("gan_face_generate")
    folder = tmp_path_factory.mktemp("faces")
    with torch.no_grad():
        real = Faces().network.eval()(fidfast.randn_per_image((100, 1, 1), range(1000, 1100)) * 0.7)
    fidfast.compute_statistics(
        real, feature_dim=64, value_range=(-1, 1), device="cpu", progress=False
    ).save(folder / "real.npz")  # fmt: skip
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=rank_of_faces, args=(rank, str(folder))) for rank in range(WORLD)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=200)
        if process.is_alive():
            process.kill()
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]
    for one in found:
        assert "failure" not in one, one["failure"]
    return folder, found


def test_one_seed_on_four_ranks_is_an_error_after_the_first_batch(faces_on_ranks) -> None:
    _, found = faces_on_ranks
    for one in found:
        error = one["one seed"]
        assert error["calls"] == [8] and error["ranks"] == [0, 1, 2, 3]
        assert error["message"].startswith("ranks 0–3 produced identical images: of 32 images only 8 are different")
        assert "seeded alike: give each rank its own seed, for example fidfast.image_seeds" in error["message"]


def test_image_seeds_make_the_same_faces_and_fid_on_one_two_and_four_ranks(faces_on_ranks, one_thread) -> None:
    folder, found = faces_on_ranks
    alone = evaluate_faces(folder / "real.npz", "of_seeds")
    assert len(alone["images"]) == 64
    for world in ("2", "4"):
        ranks = [one[world] for one in found[: int(world)]]
        for kind in ("latents", "images"):  # bit for bit
            assert {name: value for one in ranks for name, value in one[kind].items()} == alone[kind], (world, kind)
        for one in ranks:
            assert abs(one["fid"] - alone["fid"]) <= 1e-5 * alone["fid"] + 1e-6


# -- a week of evaluation ----------------------------------------------------------------------------------------------


def train_diffusion(folder: Path, calls: list[int], *, steps: int, slower: int = 1, **options: Any) -> dict[str, Any]:
    """The Trainer at toy size with our evaluator after each of its steps, which it has no more than ``steps`` of.

    It ends early after three evaluations: a moment later the share of evaluation would only be lower. Seconds are
    measured here, not the evaluator's.
    """
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet

    torch.manual_seed(0)
    images = folder / "images"
    if not images.exists():
        images.mkdir()
        for index, image in enumerate(make_images(128, 5, size=4)):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(images / f"{index}.png")
    unet = Unet(8, dim_mults=(1,), full_attn=(False,), attn_heads=1, attn_dim_head=8, flash_attn=False)
    diffusion = GaussianDiffusion(unet, image_size=4, timesteps=10, sampling_timesteps=1)
    trainer = Trainer(
        diffusion, str(images), train_batch_size=64, train_num_steps=steps, save_and_sample_every=10**9,
        results_folder=str(folder / "results"), calculate_fid=False, num_samples=4,
    )  # fmt: skip
    spent = {"evaluation": 0.0}

    def sample(n: int, seeds: list[int]) -> torch.Tensor:
        started = time.perf_counter()
        made = trainer.ema.ema_model.sample(batch_size=n)
        calls.append(n)
        time.sleep((slower - 1) * (time.perf_counter() - started))
        return made

    reference = fidfast.compute_statistics(make_images(200, 6, size=4), feature_extractor=moments, progress=False)
    evaluator = fidfast.TrainingEvaluator(
        sample, reference, model=trainer.ema.ema_model, batch_size=125, value_range=(0, 1), feature_extractor=moments,
        error_bars=False, **options,
    )  # fmt: skip

    def after_step(*_: Any) -> None:
        started = time.perf_counter()
        evaluator.step()
        spent["evaluation"] += time.perf_counter() - started
        if len(evaluator.evaluations) == 3:
            trainer.train_num_steps = trainer.step

    trainer.opt.optimizer.register_step_post_hook(after_step)
    started = time.perf_counter()
    trainer.train()
    return {"evaluator": evaluator, "total": time.perf_counter() - started, **spent}


@pytest.fixture
def diffusion(
    tmp_path: Path, one_thread: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Path:
    skip_unless_importable("denoising_diffusion_pytorch", "einops", "ema_pytorch", "accelerate", "torchvision")
    # Its loader would start that many processes every second step of so small a set.
    monkeypatch.setattr("denoising_diffusion_pytorch.denoising_diffusion_pytorch.cpu_count", lambda: 0)
    caplog.set_level(logging.INFO, "fidfast.training")
    return tmp_path


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "fidfast.training"]


def test_a_diffusion_trainer_evaluates_within_five_percent(diffusion: Path) -> None:
    run = train_diffusion(diffusion, [], steps=4000, stages=[Stage(500, every=20)], budget=0.05)
    curve = run["evaluator"].curves["fid_500"]
    assert len(curve) == 3 and all(one.result.num_generated == 500 for one in curve)
    assert run["evaluation"] <= 0.06 * run["total"], run


def test_with_a_sampler_a_hundred_times_slower_none_starts_and_the_log_says_why(diffusion: Path, caplog) -> None:
    calls: list[int] = []
    run = train_diffusion(diffusion, calls, steps=60, slower=100, stages=[Stage(500, every=20)], budget=0.05)
    assert run["evaluator"].evaluations == [] and calls == [125]
    (text,) = messages(caplog)
    assert text.startswith("step 20: fid_500: put off: 500 images at ")
    assert "the budget of 0.05 of" in text and "next at step" in text


def test_without_a_budget_the_cost_is_logged_after_one_batch_before_the_rest(diffusion: Path, caplog) -> None:
    calls: list[int] = []
    told: list[int] = []

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(len(calls))

    logger, watch = logging.getLogger("fidfast.training"), Watch()
    logger.addHandler(watch)
    try:
        train_diffusion(diffusion, calls, steps=2, stages=[Stage(500, at=2)], budget=None)
    finally:
        logger.removeHandler(watch)
    assert told == [1, 4] and calls == [125] * 4
    assert messages(caplog)[0].startswith("step 2: fid_500: 500 images at ")
