"""Shards: by torchrun, where the ranks talk, and by the example of a job array, where they do not; the examples run."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from test_evaluate import make_images, save_folder

import fidfast
from fidfast import cli
from fidfast.files import SUFFIXES

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("shards")
    return save_folder(folder / "real", make_images(75, 1)), save_folder(folder / "generated", make_images(81, 2))


# What a rank runs: a program, seeing that its process group ends. A thread of a group that goes on and lets go of a
# tensor while Python is ending aborts the process, but too seldom for a test to wait for that.
RANK = """
import runpy, sys, weakref
import torch.distributed as dist

def destroy_process_group(end=dist.destroy_process_group):
    if program == "fidfast":
        import torch._dynamo  # as --compile does
    group = weakref.ref(dist.group.WORLD)
    end()
    if group() is not None:
        sys.exit("the process group outlives its end")

dist.destroy_process_group = destroy_process_group
program = sys.argv.pop(1)
run = runpy.run_path if program.endswith(".py") else runpy.run_module
run(program, run_name="__main__")
"""


def torchrun(program: object, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2", "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0", "--no-python", sys.executable, "-c", RANK, str(program),
        *map(str, arguments), "--feature-dim", "64",
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def torchrun_fidfast(*arguments: object) -> subprocess.CompletedProcess[str]:
    return torchrun("fidfast", *arguments, "--quiet", "--device", "cpu")


def test_torchrun_of_two_images_sets_and_of_one(folders, tmp_path, weights_path):
    real, generated = folders
    made = torchrun_fidfast("stats", real, "-o", tmp_path / "real.npz")
    assert made.returncode == 0, made.stderr
    assert made.stdout == f"{tmp_path / 'real.npz'}\n"  # by one rank
    expected = fidfast.compute_statistics(real, feature_dim=64, progress=False)
    loaded = fidfast.FeatureStatistics.load(tmp_path / "real.npz")
    assert loaded.num_samples == 75
    assert float((loaded.sigma - expected.sigma).abs().max()) <= 1e-10 * float(expected.sigma.abs().max())
    assert (loaded.content_hashes == expected.content_hashes).all()

    both = torchrun_fidfast(real, generated, "--json")
    assert both.returncode == 0, both.stderr
    result = json.loads(both.stdout)
    alone = fidfast.compute_fid(real, generated, feature_dim=64, progress=False)
    assert abs(result["fid"] - float(alone)) <= 1e-5 * float(alone) + 1e-6
    assert (result["num_real"], result["num_generated"]) == (75, 81)


def run_example(name: str, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: a start of Python takes as long as the work."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments), "--feature-dim", "64"])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


def test_the_example_of_a_job_array_and_merge(folders, tmp_path, weights_path, monkeypatch, capsys):
    real, _ = folders
    for task in range(2):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
        run_example("statistics_in_shards.py", real, tmp_path, monkeypatch=monkeypatch)
        assert capsys.readouterr().out == f"{tmp_path / f'{task:05d}.npz'}: {38 - task} of 75 images\n"
    parts = sorted(map(str, tmp_path.glob("0*.npz")))
    assert cli.main(["merge", *parts, "-o", str(tmp_path / "all.npz")]) == 0
    expected = fidfast.compute_statistics(real, feature_dim=64, progress=False)
    loaded = fidfast.FeatureStatistics.load(tmp_path / "all.npz")
    assert loaded.num_samples == 75
    assert float((loaded.sigma - expected.sigma).abs().max()) <= 1e-10 * float(expected.sigma.abs().max())
    assert (loaded.content_hashes == expected.content_hashes).all()


def test_the_example_of_a_job_array_leaves_nothing_out(monkeypatch, capsys):
    example = runpy.run_path(str(ROOT / "examples" / "statistics_in_shards.py"), run_name="example")
    assert example["SUFFIXES"] == {f".{suffix}" for suffix in SUFFIXES}
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "16")  # of --array=1-16: the first shard would be nobody's
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "16")
    monkeypatch.setattr(sys, "argv", ["statistics_in_shards.py", "images", "parts"])
    with pytest.raises(SystemExit):
        example["main"]()
    assert "--task: expected 0 to 15, got 16" in capsys.readouterr().err


def test_the_example_of_every_rank_prints_one_number_for_one_and_two_ranks(
    folders, tmp_path, weights_path, monkeypatch, capsys
):
    reference = fidfast.compute_statistics(folders[0], feature_dim=64, progress=False).save(tmp_path / "real.npz")
    options = (reference, "--num-samples", 34, "--batch-size", 8)
    run_example("fid_on_every_rank.py", *options, monkeypatch=monkeypatch)
    alone = capsys.readouterr().out
    assert alone.startswith("FID of 34 images: ")
    two = torchrun(ROOT / "examples/fid_on_every_rank.py", *options)
    assert two.returncode == 0, two.stderr
    assert two.stdout == alone
