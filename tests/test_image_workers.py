"""Worker processes: none outlives its source, none dies unnoticed; and memory that does not grow with the images."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from fidfast import workers
from fidfast.files import Names
from fidfast.images import open_images

ROOT = Path(__file__).resolve().parents[1]


def save_folder(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:05d}.png")
    return folder


def test_default_workers_leave_a_core_and_small_sets_alone(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2), raising=False)
    assert (workers.default_workers(31), workers.default_workers(1000)) == (0, 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    assert workers.default_workers(1000) == 8


def test_full_shared_memory_sends_images_through_the_pipe(tmp_path, monkeypatch):
    def no_space(self: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("unable to write to file </torch_1>: No space left on device (28)")

    folder = save_folder(tmp_path, 20)
    with open_images(folder, num_workers=0) as source:
        expected = [image for batch in source for image in batch]
    monkeypatch.setattr(torch.Tensor, "share_memory_", no_space)
    assert isinstance(workers.pack([torch.zeros(3, 2, 2)]).data, np.ndarray)
    with open_images(folder, num_workers=2) as source:
        assert all(map(torch.equal, (image for batch in source for image in batch), expected))


SLOW = """
import os, signal, sys, time, torch
from torch.utils.data import Dataset
from fidfast.images import ImagesError, open_images

class Slow(Dataset):
    def __len__(self):
        return 400
    def __getitem__(self, index):
        if index == 40 and sys.argv[1] == "suicide":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
        return torch.zeros(3, 8, 8)

try:
    with open_images(Slow(), num_workers=2, name="real") as source:
        for number, batch in enumerate(source):
            if number == 0:
                print("started", flush=True)
except ImagesError as error:
    print("ImagesError:", error, flush=True)
"""


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_worker_that_is_killed_is_an_error_and_no_hang():
    run = subprocess.run([sys.executable, "-c", SLOW, "suicide"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "ImagesError: real: " in run.stdout and "a decoding process died" in run.stdout
    assert "--num-workers 0" in run.stdout and run.stderr == ""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to see the child processes")
def test_ctrl_c_ends_the_workers_with_one_traceback():
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, "interrupt"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    workers = children_of(process.pid)
    assert len(workers) == 2
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: to the main process and to the workers
    _, stderr = process.communicate(timeout=30)
    assert process.returncode != 0 and stderr.count("Traceback") == 1 and stderr.rstrip().endswith("KeyboardInterrupt")
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


LEFT = """
import os, socket
from multiprocessing.resource_sharer import DupFd
from fidfast.workers import _start_worker

_start_worker(0)
batch = DupFd(os.dup(1))  # of a worker's batch: taken over through a socket
with socket.socket(socket.AF_UNIX) as main:
    main.connect(batch._id[0])  # and the main process ends
os.close(batch.detach())  # the thread has gone on to the next one
"""


def test_a_worker_says_nothing_where_the_main_process_ends_while_it_takes_a_batch():
    done = subprocess.run([sys.executable, "-c", LEFT], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to see the child processes")
@pytest.mark.parametrize("how", ["exception", "close", "end"])
def test_no_worker_outlives_its_source(tmp_path, how):
    folder = save_folder(tmp_path, 60)
    before = set(children_of(os.getpid()))
    handles = len(os.listdir("/proc/self/fd"))
    source = open_images(folder, num_workers=2)
    if how == "exception":
        with pytest.raises(ZeroDivisionError), source:
            for _ in source:
                assert set(children_of(os.getpid())) - before
                raise ZeroDivisionError
    elif how == "close":
        next(iter(source))
        source.close()
    else:
        list(source)
    assert set(children_of(os.getpid())) <= before
    gc.collect()  # the traceback holds the batches that were on their way
    assert len(os.listdir("/proc/self/fd")) <= handles + 4


def test_many_batches_at_once_need_few_file_handles(tmp_path):
    folder = save_folder(tmp_path, 120)
    with open_images(folder, num_workers=2) as source:
        kept = list(source)  # the consumer holds every image: one handle for each task, not one for each image
        assert sum(map(len, kept)) == 120
        assert len(os.listdir("/proc/self/fd")) < 100


def test_a_loader_inside_a_loader_decodes_in_process(tmp_path):
    folder = save_folder(tmp_path, 40)

    class Nested(Dataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> torch.Tensor:
            with open_images(folder) as source:  # daemons may have no children
                return torch.stack([image for batch in source for image in batch])[index]

    with open_images(Nested(), num_workers=1) as nested:
        assert sum(map(len, nested)) == 2


# Memory


def test_names_cost_their_bytes_and_eight_more():
    names = Names(b"image_%05d.png" % index for index in range(1000))
    assert (names[0], names[999]) == (b"image_00000.png", b"image_00999.png")
    with pytest.raises(IndexError):
        names[1000]
    shuffled = Names(names[index] for index in np.random.default_rng(0).permutation(1000))
    assert [shuffled[index] for index in shuffled.order()] == sorted(names)


GROWTH = """
import resource, sys
from fidfast.images import open_images
with open_images(sys.argv[1], num_workers=int(sys.argv[2])) as source:
    count = sum(map(len, source))
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_peak_memory_grows_by_less_than_64_bytes_an_image(tmp_path):
    folder = save_folder(tmp_path, 1)
    peaks = {}
    for before, target in ((1, 2_000), (2_000, 20_000)):
        for index in range(before, target):
            os.link(folder / "00000.png", folder / f"{index:05d}.png")
        command = [sys.executable, "-c", GROWTH, str(folder), "1"]
        found, peak = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
        assert int(found) == target
        peaks[target] = int(peak) * 1024
    assert (peaks[20_000] - peaks[2_000]) / 18_000 <= 64


class Interrupted(Dataset):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return torch.zeros(3, 4, 4)


def test_ctrl_c_is_for_the_main_process_alone():
    with open_images(Interrupted(), num_workers=2) as source:
        assert sum(map(len, source)) == 20
