"""The command line: what goes to standard output, what to standard error, the exit status, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fidfast.cli import main


def save_folder(folder: Path, count: int, seed: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for index in range(count):
        image = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((48, 48))
        image.save(folder / f"{index:03d}.png")
    return folder


@pytest.fixture
def folders(tmp_path) -> tuple[str, str]:
    return str(save_folder(tmp_path / "real", 10, 1)), str(save_folder(tmp_path / "generated", 12, 2))


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.weights
def test_the_number_alone_on_standard_output(capsys, folders, weights_path):
    status, out, err = run(capsys, *folders, "--feature-dim", 64)
    assert status == 0
    assert float(out) > 0 and out == f"{float(out):.6f}\n"
    assert "10/10" in err and "12/12" in err and "images/s" in err
    status, quiet_out, err = run(capsys, *folders, "--feature-dim", 64, "--quiet")
    assert (status, quiet_out) == (0, out)
    assert "images/s" not in err


@pytest.mark.weights
def test_json(capsys, folders, weights_path):
    _, plain, _ = run(capsys, *folders, "--feature-dim", 64, "--quiet")
    status, out, _ = run(capsys, *folders, "--feature-dim", 64, "--quiet", "--json")
    fields = json.loads(out)
    assert status == 0
    assert f"{fields['fid']:.6f}\n" == plain
    assert (fields["num_real"], fields["num_generated"], fields["feature_dim"]) == (10, 12, 64)


@pytest.mark.weights
def test_several_metrics_a_line_each(capsys, folders, weights_path):
    _, plain, _ = run(capsys, *folders, "--feature-dim", 64, "--quiet")
    options = (*folders, "--feature-dim", 64, "--quiet", "--metrics", "prdc,fid,kid")
    status, out, err = run(capsys, *options)
    lines = dict(line.split() for line in out.splitlines())
    assert status == 0 and "subsets of 10 images" in err
    assert list(lines) == ["precision", "recall", "density", "coverage", "fid", "kid_mean", "kid_std"]
    assert float(lines["fid"]) == pytest.approx(float(plain), abs=1e-6)  # which has six decimals
    status, out, _ = run(capsys, *options, "--json")
    fields = json.loads(out)
    assert status == 0 and fields["prdc"]["coverage"] == pytest.approx(float(lines["coverage"]), rel=1e-6)
    assert fields["fid"]["num_real"] == fields["num_real"] == 10
    with pytest.raises(SystemExit, match="2"):
        main([*folders, "--metrics", "fid,mind"])
    assert "expected any of fid, kid, is, sfid, prdc joined by commas, got 'fid,mind'" in capsys.readouterr().err


@pytest.mark.weights
def test_stats_merge_inspect(capsys, tmp_path, folders, weights_path):
    real, generated = folders
    options = ("--feature-dim", 64, "--quiet")
    _, expected, _ = run(capsys, real, generated, *options)
    for name, folder in (("real", real), ("generated", generated)):
        status, out, _ = run(capsys, "stats", folder, "-o", tmp_path / f"{name}.npz", *options)
        assert (status, out.strip()) == (0, str(tmp_path / f"{name}.npz"))
    _, out, _ = run(capsys, tmp_path / "real.npz", tmp_path / "generated.npz", *options)
    assert float(out) == pytest.approx(float(expected), rel=1e-5)
    status, _, _ = run(capsys, "merge", tmp_path / "real.npz", tmp_path / "generated.npz", "-o", tmp_path / "all.npz")
    assert status == 0
    status, out, _ = run(capsys, "inspect", tmp_path / "all.npz", "--json")
    facts = json.loads(out)
    assert (status, facts["num_samples"], facts["feature_dim"], facts["preset"]) == (0, 22, 64, "pytorch-fid")
    status, out, _ = run(capsys, "inspect", tmp_path / "all.npz")
    assert status == 0 and "num_samples" in out and "22" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no/such/folder", "also/none"), "no/such/folder"),
        (("stats", ".", "-o", "no/such/folder/x.npz"), "no/such/folder"),
        (("inspect", "no-such-file.npz"), "no-such-file.npz"),
        (("merge", "no-such-file.npz", "-o", "out.npz"), "no-such-file.npz"),
        (("weights", "install", "no-such-file.pth"), "no-such-file.pth"),
    ],
)
def test_bad_input_is_one_clear_line_and_status_1(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("fidfast: error: ") and message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [(), ("only-one",), ("a", "b", "--feature-dim", "100"), ("a", "b", "--batch-size", "0"), ("stats", "a"),
     ("a", "b", "--preset", "nobody"), ("a", "b", "--num-workers", "-1"), ("weights", "remove")],
)  # fmt: skip
def test_wrong_usage_is_status_2(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code == 2
    assert "usage: fidfast" in capsys.readouterr().err


@pytest.mark.weights
def test_float_images_with_their_range(capsys, tmp_path, weights_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "bytes.npy", images)
    np.save(tmp_path / "floats.npy", (images / 127.5 - 1).astype(np.float32))
    options = (tmp_path / "bytes.npy", "--feature-dim", 64, "--quiet")
    status, out, _ = run(capsys, tmp_path / "floats.npy", *options, "--value-range", -1, 1)
    assert status == 0 and float(out) == pytest.approx(0, abs=1e-6)
    status, _, err = run(capsys, tmp_path / "floats.npy", *options)
    assert status == 1 and "value_range" in err


def test_the_same_part_twice_is_refused(capsys, tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.zeros(4), sigma=np.eye(4), num_samples=10)
    (tmp_path / "link.npz").symlink_to(tmp_path / "a.npz")
    status, _, err = run(capsys, "merge", tmp_path / "a.npz", tmp_path / "link.npz", "-o", tmp_path / "out.npz")
    assert status == 1 and "link.npz" in err and "twice" in err
    assert not (tmp_path / "out.npz").exists()


def test_help_and_version_need_no_torch():
    program = (
        "import sys; from fidfast.cli import main\ntry: main(['--version'])\nfinally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("fidfast ")


def test_doctor_names_what_is_missing_and_the_remedy(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FIDFAST_WEIGHTS", str(tmp_path / "none.pth"))
    status, out, _ = run(capsys, "doctor")
    assert status == 1
    assert "torch" in out and "resize_normalize" in out
    assert "missing" in out and "none.pth" in out and "fidfast weights install" in out


def test_doctor_says_what_the_cuda_kernels_are(monkeypatch):
    from fidfast.doctor import examine
    from fidfast.ops import modules

    def said() -> str:
        return next(finding.what for finding in examine() if "CUDA kernels" in finding.what)

    build = {"architectures": "8.0 9.0+PTX", "runtime": 12040, "driver": 0, "emulated": False}
    devices: list[dict[str, object]] = []
    module = SimpleNamespace(build=lambda: build, devices=lambda: devices)
    monkeypatch.setattr(modules, "_load", lambda: (module, ""))
    assert said() == "CUDA kernels for 8.0 9.0+PTX, CUDA 12.4; no driver here"
    build["driver"] = 13000
    assert said().endswith("driver for CUDA 13.0, but it shows no device")
    devices.append({"capability": (9, 0)})
    assert said().endswith("driver for CUDA 13.0, devices of 9.0")
    monkeypatch.setattr(modules, "_load", lambda: (None, "nvcc was not found at install"))
    assert "nvcc was not found at install" in said() and "torch" in said()


@pytest.mark.weights
def test_doctor_is_content_with_a_whole_installation(capsys, weights_path):
    status, out, _ = run(capsys, "doctor")
    assert status == 0 and "missing" not in out and str(weights_path) in out


@pytest.mark.weights
def test_weights_lists_places(capsys, weights_path):
    status, out, _ = run(capsys, "weights")
    assert status == 0 and str(weights_path) in out and "valid" in out


def children_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the workers through /proc")
@pytest.mark.weights
def test_interrupted_in_the_middle_nothing_is_left(tmp_path, weights_path):
    folder = save_folder(tmp_path / "images", 40, 0)
    many = tmp_path / "many"
    many.mkdir()
    for index in range(4000):
        os.link(folder / f"{index % 40:03d}.png", many / f"{index:05d}.png")
    output = tmp_path / "out" / "stats.npz"
    output.parent.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "fidfast", "stats", str(many), "-o", str(output), "--num-workers", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        workers: list[int] = []
        while len(workers) < 2 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
            workers = children_of(process.pid)
        assert len(workers) >= 2, process.communicate(timeout=10)
        time.sleep(1.0)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert out == "" and "fidfast: interrupted" in err and "Traceback" not in err
    assert list(output.parent.iterdir()) == []
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


@pytest.mark.parametrize("name", ["statistics", "statistics.pkl"])
def test_an_output_that_is_no_npz_is_refused_before_the_work(tmp_path, capsys, name):
    assert main(["stats", str(tmp_path / "missing"), "-o", str(tmp_path / name)]) == 1
    assert "expected a file name that ends in .npz" in capsys.readouterr().err


def test_a_number_that_is_none_is_named(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["a", "b", "--batch-size", "many"])
    assert stopped.value.code == 2
    assert "--batch-size: expected a whole number of at least 1, got 'many'" in capsys.readouterr().err


def test_output_that_cannot_be_written_is_an_error(tmp_path):
    np.savez(tmp_path / "x.npz", mu=np.zeros(2), sigma=np.eye(2))
    command = [sys.executable, "-m", "fidfast", "inspect", str(tmp_path / "x.npz")]
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    with open("/dev/full", "w") as full:
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("fidfast: error: ") and "Exception ignored" not in run.stderr


def test_weights_named_by_the_environment_must_be_there(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FIDFAST_WEIGHTS", str(tmp_path / "nowhere.pth"))
    status, out, _ = run(capsys, "weights")
    assert status == 1 and "nowhere.pth" in out


@pytest.mark.parametrize(
    ("device", "available", "message"),
    [
        ("cuda:0", True, "--device: expected cuda, each process then takes a GPU of its own, got cuda:0"),
        ("cuda", False, "--device: expected one that torch can use here, got cuda: no CUDA device"),
    ],
)
def test_a_device_that_not_every_rank_can_have(capsys, monkeypatch, tmp_path, device, available, message):
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    status, _, err = run(capsys, "stats", tmp_path, "-o", tmp_path / "out.npz", "--device", device)
    assert status == 1 and message in err


def test_help_on_a_terminal_that_only_knows_ascii():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "fidfast", "--help"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "usage: fidfast" in done.stdout, done.stderr


def test_the_metrics_of_the_command_are_those_of_the_function():
    from fidfast import arguments, measures

    assert arguments.METRICS == measures.METRICS
