"""The emulation of the device: it computes what the device does, and finds every fault that is planted."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "tests" / "kernels"
FAULTS = re.findall(r"^    CASE\((\w+), \d\),$", (KERNELS / "faults.cu").read_text(), re.M)

# Which build of the kernels finds a fault: the one that records accesses (fidfast._cuda_emulated), the one under
# AddressSanitizer (fidfast._cuda_emulated_asan), or either.
ONLY_BY_ASAN = {"store_past_global", "load_past_global"}
ONLY_BY_RECORD = {"blocks_write_one_place", "threads_write_one_place"}
MESSAGES = {  # of the build that records accesses
    "syncthreads": r"thread \(\d+,0,0\): race at faults\.cu:\d+: it reads 4 bytes of shared memory",
    "syncthreads_by_shuffle": "race at faults.cu",
    "syncthreads_before_reuse": "race at faults.cu",
    "syncwarp": "race at faults.cu",
    "async_wait_forgotten": "race at faults.cu",
    "async_wait_too_few": "race at faults.cu",
    "async_copy_never_waited_for": "asynchronous copies that it never waited for",
    "barrier_after_return": r"waits at __syncthreads \(faults\.cu:\d+\), but thread \(95,0,0\) has ended",
    "barrier_in_branches": r"divergent barrier: thread \(0,0,0\) .* but thread \(32,0,0\) waits at __syncthreads",
    "barrier_or_shuffle": r"lane 7 of its mask does not come: thread \(7,0,0\) waits at __syncthreads",
    "mask_without_own_lane": r"its own lane, 16, is not in the mask 0x0000ffff",
    "mask_of_absent_lanes": r"lane 16 of its mask does not come: thread \(16,0,0\) has ended",
    "masks_that_differ": "warp call never complete",
    "shuffle_from_outside_the_mask": "the source is not in the mask",
    "store_past_shared": r"writes 4 bytes at byte 384 of its 384 bytes of shared memory \(faults\.cu:\d+\)",
    "load_past_shared": r"reads 4 bytes at byte 384 of its 384 bytes of shared memory",
    "shared_read_before_written": "the thread orders give different bits",
    "block_reads_another": "another block of the same launch wrote",
    "blocks_write_one_place": "another block of the same launch wrote",
    "threads_write_one_place": "race at faults.cu",
    "float_atomics": "the thread orders give different bits",
    "mma_by_half_a_warp": "lane 16 of its mask does not come",
}


def compiler() -> list[str]:
    command = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    if not shutil.which(command[0]):
        pytest.skip(f"no {command[0]} here")
    return command


def start_build(folder: Path, source: str, *, kernel_flags: list[str], flags: list[str]) -> Callable[[], Path]:
    """Starts compiling tests/kernels/<source>.cu with the emulation; the returned call waits and gives the program."""
    includes = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc/emulation'}"]
    common = [*compiler(), "-std=c++17", "-O1", "-g1", "-ffp-contract=off", "-pthread", "-DFIDFAST_EMULATED", *includes]
    common += ["-Wall", "-Wextra", "-Werror", *flags]
    folder.mkdir(parents=True)
    emulation = sorted(str(path) for path in (ROOT / "csrc/emulation").glob("*.cpp"))
    kernel = [*common, *kernel_flags, "-x", "c++", "-c", str(KERNELS / f"{source}.cu"), "-o", "kernel.o"]
    program = folder / source
    link = [*common, *emulation, "kernel.o", "-o", str(program), "-ldl"]
    running = subprocess.Popen(
        ["sh", "-c", f"{shlex.join(kernel)} && {shlex.join(link)}"], cwd=folder, stderr=subprocess.PIPE, text=True
    )

    def wait() -> Path:
        _, errors = running.communicate()
        assert running.returncode == 0, errors
        return program

    return wait


RECORDED = ["-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kernels")
    builds = {
        "record": start_build(folder / "record", "faults", kernel_flags=RECORDED, flags=[]),
        "asan": start_build(folder / "asan", "faults", kernel_flags=[], flags=["-fsanitize=address"]),
    }
    return {name: wait() for name, wait in builds.items()}


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """functions.cu, by way of ucontext: the switch that machines other than x86-64 use."""
    folder = tmp_path_factory.mktemp("functions") / "build"
    return start_build(folder, "functions", kernel_flags=RECORDED, flags=["-DFIDFAST_EMULATION_UCONTEXT"])()


def run_fault(program: Path, name: str, which: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, name, which], capture_output=True, text=True, timeout=60, check=False)


def test_every_fault_is_in_the_tables() -> None:
    assert set(FAULTS) == set(MESSAGES) | ONLY_BY_ASAN and len(FAULTS) > 20


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_right_passes_and_what_is_planted_is_found(programs: dict[str, Path], name: str) -> None:
    for build in ("record", "asan"):
        right = run_fault(programs[build], name, "right")
        assert right.returncode == 0, f"{build}: {right.stdout}{right.stderr}"
        planted = run_fault(programs[build], name, "planted")
        blind = ONLY_BY_ASAN if build == "record" else ONLY_BY_RECORD
        assert (planted.returncode == 0) == (name in blind), f"{build}: {planted.stdout}{planted.stderr}"
        if build == "record" and name in MESSAGES:
            assert re.search(MESSAGES[name], planted.stdout), planted.stdout
        if build == "asan" and name in ONLY_BY_ASAN:
            assert "heap-buffer-overflow" in planted.stderr and "faults.cu" in planted.stderr


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("unordered", "no thread order is set: run kernels through backend.run"),
        ("crowded", "a block of 1056 threads: the device takes 1 to 1024"),
        ("greedy", "102400 bytes of shared memory: a block may have 101376"),
    ],
)
def test_a_launch_that_no_device_would_take_is_refused(programs: dict[str, Path], how: str, why: str) -> None:
    refused = run_fault(programs["record"], "syncthreads", how)
    assert refused.returncode == 1 and why in refused.stdout


# ---------------------------------------------------------------------------------------------------------------------
# Functions of the device
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.cuda)])
def device_function(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, np.ndarray], np.ndarray]:
    """call(name, words): the kernel of functions.cu on 32-bit words, in emulation or on the GPU."""
    program = request.getfixturevalue("functions" if request.param == "emulated" else "functions_on_gpu")

    def call(name: str, words: np.ndarray) -> np.ndarray:
        run = subprocess.run([program, name], input=words.tobytes(), capture_output=True, timeout=60, check=False)
        assert run.returncode == 0, run.stderr.decode()
        return np.frombuffer(run.stdout, dtype=np.uint32)

    return call


@pytest.fixture(scope="module")
def functions_on_gpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("functions_on_gpu") / "functions"
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    source = str(KERNELS / "functions.cu")
    subprocess.run(
        [nvcc, "-std=c++17", "-arch=native", f"-I{ROOT / 'csrc'}", source, "-o", str(program)], check=True, timeout=300
    )
    return program


RNG = np.random.default_rng(3)
WORDS = RNG.integers(0, 2**32, 64, dtype=np.uint32)
SPECIAL = np.array(
    [
        0.0,
        -0.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        -2.5,
        1e-8,
        2**-24,
        2**-25,
        1.5 * 2**-25,
        6.1e-5,
        65504,
        65519.99,
        65520,
        3.4e38,
        -65520,
        2147483500,
        2147483648,
        3e9,
        5e9,
        -3e9,
        -1.0,
        0.99999,
        np.inf,
        -np.inf,
        np.nan,
    ],
    dtype=np.float32,
)
FLOATS = np.concatenate([SPECIAL, RNG.integers(0, 2**32, 4000, dtype=np.uint32).view(np.float32)])
SCALED = (RNG.normal(size=2000) * 10.0 ** RNG.integers(-8, 6, 2000)).astype(np.float32)
FLOATS = np.concatenate([FLOATS, SCALED])


def test_floats_become_16_bits_as_in_torch(device_function: Callable[[str, np.ndarray], np.ndarray]) -> None:
    got = device_function("halves", FLOATS.view(np.uint32))
    number = ~np.isnan(FLOATS)
    for dtype, bits in ((torch.float16, got & 0xFFFF), (torch.bfloat16, got >> 16)):
        expected = torch.from_numpy(FLOATS).to(dtype).view(torch.int16).numpy().astype(np.uint16)
        np.testing.assert_array_equal(bits[number], expected[number])
        assert torch.from_numpy(bits[~number].astype(np.uint16).view(np.int16)).view(dtype).isnan().all()


def test_16_bits_become_floats_as_in_torch(device_function: Callable[[str, np.ndarray], np.ndarray]) -> None:
    bits = np.arange(65536, dtype=np.uint32)
    for name, dtype in (("from_half", torch.float16), ("from_bfloat16", torch.bfloat16)):
        expected = torch.from_numpy(bits.astype(np.uint16).view(np.int16)).view(dtype).float().numpy()
        np.testing.assert_array_equal(device_function(name, bits).view(np.float32), expected)


def test_roundings_saturate(device_function: Callable[[str, np.ndarray], np.ndarray]) -> None:
    got = device_function("roundings", FLOATS.view(np.uint32)).reshape(-1, 4)
    with np.errstate(invalid="ignore"):  # signalling NaN
        exact = np.nan_to_num(FLOATS.astype(np.float64), nan=0.0)
    low, high = -(2.0**31), 2.0**31 - 1
    np.testing.assert_array_equal(got[:, 0].view(np.int32), np.clip(np.rint(exact), low, high).astype(np.int64))
    np.testing.assert_array_equal(got[:, 1].view(np.int32), np.clip(np.trunc(exact), low, high).astype(np.int64))
    np.testing.assert_array_equal(got[:, 2], np.clip(np.rint(exact), 0, 2.0**32 - 1).astype(np.int64))
    np.testing.assert_array_equal(got[:, 3].copy().view(np.float32), np.clip(exact, 0, 1).astype(np.float32))


def test_bit_functions(device_function: Callable[[str, np.ndarray], np.ndarray]) -> None:
    words = np.concatenate([np.array([0, 0, 1, 2**31, 2**32 - 1, 2**32 - 1], dtype=np.uint32), WORDS])
    got = device_function("bits", words).reshape(-1, 8)
    for (a, b), row in zip(words.reshape(-1, 2).tolist(), got.tolist(), strict=True):
        signed = [x - 2**32 if x >> 31 else x for x in (a, b)]
        bytes_of = [x >> 8 * i & 255 for x in (a, b) for i in range(4)]
        expected = [
            a * b >> 32,
            (signed[0] * signed[1] >> 32) % 2**32,
            a.bit_count(),
            32 - a.bit_length(),
            (a & -a).bit_length(),
            sum(bytes_of[j] << 8 * i for i, j in enumerate((1, 7, 0, 6))),
            ((b << 32 | a) >> 9) % 2**32,
            (7 + sum(x * y for x, y in zip(bytes_of[:4], bytes_of[4:], strict=True))) % 2**32,
        ]
        assert row == expected, (a, b)


def test_shuffles_votes_and_reductions(device_function: Callable[[str, np.ndarray], np.ndarray]) -> None:
    got = device_function("shuffles", WORDS).reshape(64, 12)
    x = WORDS.astype(object)
    for i in range(64):
        warp, lane = x[i // 32 * 32 :][:32], i % 32
        odd = [int(v & 1) for v in warp]
        expected = [
            warp[5],
            warp[lane // 8 * 8 + (lane + 3) % 8],
            warp[lane - 3] if lane >= 3 else warp[lane],
            warp[lane + 3] if lane % 16 < 13 else warp[lane],
            warp[lane ^ 9],
            sum(bit << j for j, bit in enumerate(odd)),
            int(i >= 32),
            int(i < 32),
            sum(warp) % 2**32,
            max(warp),
            int((WORDS & 1).sum()),
            2,
        ]
        assert got[i].tolist() == expected, i


def test_calls_of_some_lanes(device_function: Callable[[str, np.ndarray], np.ndarray]) -> None:
    got = device_function("partial_masks", WORDS).view(np.uint64)
    warps = WORDS.astype(np.uint64).reshape(2, 2, 16)
    low = np.broadcast_to(warps[:, 0].sum(-1, keepdims=True), (2, 16))
    high = np.concatenate([warps[:, 1, 1:], warps[:, 1, -1:]], 1)
    np.testing.assert_array_equal(got.reshape(2, 2, 16), np.stack([low, high], 1))


def test_float64_tensor_core(device_function: Callable[[str, np.ndarray], np.ndarray]) -> None:
    a, b, c = RNG.normal(size=(8, 4)), RNG.normal(size=(4, 8)), RNG.normal(size=(8, 8))
    got = device_function("mma", np.concatenate([a.ravel(), b.ravel(), c.ravel()]).view(np.uint32)).view(np.float64)
    np.testing.assert_allclose(got.reshape(8, 8), a @ b + c, rtol=0, atol=4e-15)


def test_asynchronous_copies_cut_short(device_function: Callable[[str, np.ndarray], np.ndarray]) -> None:
    source = RNG.integers(0, 2**32, 256, dtype=np.uint32)
    got = device_function("async_copies", source).tobytes()
    expected = b""
    for size, most in ((16, 17), (8, 9), (4, 5)):
        chunks = [source.tobytes()[size * i :][:size][: i % most] for i in range(64)]
        expected += b"".join(chunk.ljust(size, b"\0") for chunk in chunks)
    assert got == expected


def test_atomics(device_function: Callable[[str, np.ndarray], np.ndarray]) -> None:
    got = device_function("atomics", WORDS)
    total = int(WORDS.astype(np.uint64).sum())
    assert got[:2].view(np.uint64)[0] == total
    assert got[2] == WORDS.max() and got[3] == np.bitwise_or.reduce(WORDS & 0x0F0F0F0F)
    assert got[4] == np.bitwise_xor.reduce(WORDS) and got[5] == 77
    assert got[6:].view(np.float64)[0] == 64.0
