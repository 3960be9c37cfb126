"""Shards: by torchrun, where the ranks talk, and by the example of a job array, where they do not; the examples run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_evaluate import make_images, save_folder

import fidfast

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("shards")
    return save_folder(folder / "real", make_images(75, 1)), save_folder(folder / "generated", make_images(81, 2))


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=300
    )


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run(
        "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2", "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0", *arguments, "--feature-dim", "64",
    )  # fmt: skip


def torchrun_fidfast(*arguments: object) -> subprocess.CompletedProcess[str]:
    return torchrun("-m", "fidfast", *arguments, "--quiet", "--device", "cpu")


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


def test_the_example_of_a_job_array_and_merge(folders, tmp_path, weights_path):
    real, _ = folders
    for task in range(2):
        part = run(
            ROOT / "examples/statistics_in_shards.py", real, tmp_path, "--task", task, "--tasks", 2, "--feature-dim", 64
        )
        assert part.returncode == 0, part.stderr
        assert part.stdout == f"{tmp_path / f'{task:05d}.npz'}: {38 - task} of 75 images\n"
    merged = run("-m", "fidfast", "merge", *sorted(tmp_path.glob("0*.npz")), "-o", tmp_path / "all.npz")
    assert merged.returncode == 0, merged.stderr
    expected = fidfast.compute_statistics(real, feature_dim=64, progress=False)
    loaded = fidfast.FeatureStatistics.load(tmp_path / "all.npz")
    assert loaded.num_samples == 75
    assert float((loaded.sigma - expected.sigma).abs().max()) <= 1e-10 * float(expected.sigma.abs().max())
    assert (loaded.content_hashes == expected.content_hashes).all()


def test_the_example_of_every_rank_prints_one_number_for_one_and_two_ranks(folders, tmp_path, weights_path):
    reference = fidfast.compute_statistics(folders[0], feature_dim=64, progress=False).save(tmp_path / "real.npz")
    script, options = ROOT / "examples/fid_on_every_rank.py", ("--num-samples", 34, "--batch-size", 8)
    alone = run(script, reference, *options, "--feature-dim", 64)
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout.startswith("FID of 34 images: ")
    two = torchrun(script, reference, *options)
    assert two.returncode == 0, two.stderr
    assert two.stdout == alone.stdout
