"""The running sums for mean and covariance: the kernel and the op against their twin."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from backends import Backend
from tolerances import TOLERANCES
from torch import Tensor
from torch.utils.dlpack import to_dlpack

from fidfast import ops, reference
from fidfast.ops.covariance import ROW_DTYPES
from fidfast.statistics import FeatureStatistics

Sums = tuple[Tensor, Tensor]  # (K, D), (K, D, D) float64


def _rows(count: int, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(count * 1000 + size)
    return (torch.randn(count, size, generator=generator) * torch.logspace(0, -1, size) + 3.0).to(dtype)


def _shift(size: int) -> Tensor:
    return 3.0 + torch.linspace(-0.5, 0.5, size)


def _start(size: int, groups: int) -> Sums:
    generator = torch.Generator().manual_seed(size)
    shapes = ((groups, size), (groups, size, size))
    total, scatter = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in shapes)
    return total, scatter


def _by_twin(rows: Tensor, shift: Tensor, groups: int, first_index: int) -> Sums:
    total, scatter = _start(rows.shape[1], groups)
    reference.add_covariance(rows, shift, total, scatter, first_index)
    return total, scatter


def _by_kernel(backend: Backend, rows: Tensor, shift: Tensor, groups: int, first_index: int) -> Sums:
    def run() -> Sums:
        total, scatter = (tensor.to(backend.device) for tensor in _start(rows.shape[1], groups))
        views = [to_dlpack(tensor) for tensor in (rows, shift.to(backend.device), total, scatter)]
        backend.module.add_covariance(*views, first_index, backend.stream())
        return total, scatter

    total, scatter = backend.run(run)
    return total.cpu(), scatter.cpu()


def _assert_sums(got: Sums, rows: Tensor, shift: Tensor, groups: int = 1, first_index: int = 0) -> None:
    _assert_close(got, _by_twin(rows, shift, groups, first_index), "covariance/twin")


def _assert_close(got: Sums, expected: Sums, name: str) -> None:
    row = TOLERANCES[name]
    for ours, theirs in ((got[0], expected[0]), (got[1].tril(), expected[1].tril())):
        scale = float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, rtol=row.rtol, atol=row.atol * scale)


def _assert_kernel(backend: Backend, rows: Tensor, groups: int = 1, first_index: int = 0) -> None:
    """The kernel on rows of any strides, which must lie on the backend's device already."""
    size = rows.shape[1]
    got = _by_kernel(backend, rows, _shift(size), groups, first_index)
    _assert_sums(got, rows.cpu(), _shift(size), groups, first_index)
    assert torch.equal(got[1].triu(1), _start(size, groups)[1].triu(1))  # neither read nor written


@pytest.mark.parametrize(("count", "size"), [(0, 8), (1, 1), (37, 8), (130, 64), (16, 65), (37, 129), (20, 200)])
def test_kernel(backend: Backend, count: int, size: int) -> None:
    _assert_kernel(backend, _rows(count, size).to(backend.device))


@pytest.mark.parametrize("dtype", ROW_DTYPES)
def test_kernel_of_every_dtype_and_stride(backend: Backend, dtype: torch.dtype) -> None:
    wide = _rows(40, 77, dtype).to(backend.device)
    for rows in (wide[:21, :70], wide[::2, 3:73], wide[:17, 2:72].contiguous(), wide[:5, :66].contiguous()):
        _assert_kernel(backend, rows)
    _assert_kernel(backend, wide[:1].expand(20, 77))


def test_kernel_widens_float16_exactly(backend: Backend) -> None:
    halves = torch.arange(-512, 512, dtype=torch.int32).view(16, 64).to(torch.float32) * 2.0**-24  # subnormal
    halves[0] = 65504.0 * 2.0**-24
    _assert_same_as_float32(backend, halves.to(torch.float16))


def _assert_same_as_float32(backend: Backend, rows: Tensor) -> None:
    shift = torch.zeros(rows.shape[1])
    found = [_by_kernel(backend, x.to(backend.device), shift, 1, 0) for x in (rows, rows.float())]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("dtype", ROW_DTYPES)
def test_kernel_passes_on_what_is_not_finite(backend: Backend, dtype: torch.dtype) -> None:
    rows = _rows(18, 66, dtype)
    rows[3, 5], rows[17, 65] = float("nan"), float("inf")
    total, scatter = _by_kernel(backend, rows.to(backend.device), _shift(66), 1, 0)
    finite = torch.ones(66, dtype=torch.bool)
    finite[[5, 65]] = False
    assert torch.equal(total[0].isfinite(), finite)
    assert torch.equal(scatter[0].tril().isfinite(), (finite[:, None] & finite) | ~torch.ones(66, 66).tril().bool())


@pytest.mark.parametrize(("count", "groups", "first_index"), [(45, 2, 0), (45, 3, 5), (33, 10, 10**12 + 7), (2, 5, 4)])
def test_kernel_keeps_groups_apart(backend: Backend, count: int, groups: int, first_index: int) -> None:
    _assert_kernel(backend, _rows(count, 66).to(backend.device), groups, first_index)


def test_kernel_finds_rows_further_apart_than_32_bits_count(
    backend: Backend, vast: Callable[[int, torch.dtype], Tensor]
) -> None:
    rows = vast(2**31 + 64, torch.float16).as_strided((2, 64), (2**31, 1))
    rows.copy_(_rows(2, 64))
    _assert_kernel(backend, rows)


def test_kernel_refuses_what_does_not_fit(backend: Backend) -> None:
    total, scatter = (tensor.to(backend.device) for tensor in _start(8, 1))
    rows, shift = _rows(5, 8).to(backend.device), _shift(8).to(backend.device)
    for name, wrong, message in (
        ("rows", rows.double(), "rows: expected float32, float16 or bfloat16, got another dtype"),
        ("rows", rows.T.contiguous().T, "rows: expected columns side by side, got a column stride of 5"),
        ("shift", shift[:7], r"shift: expected shape \(8\), got \(7\)"),
        ("shift", shift.double(), "shift: expected float32"),
        ("total", total.float(), "total: expected float64"),
        ("total", total[:0], r"scatter: expected shape \(0, 8, 8\), got \(1, 8, 8\)"),
        ("scatter", scatter.mT, "scatter: expected dense memory"),
    ):
        given = {"rows": rows, "shift": shift, "total": total, "scatter": scatter, name: wrong}
        with pytest.raises(ValueError, match=message):
            backend.module.add_covariance(*map(to_dlpack, given.values()), 0, backend.stream())


@pytest.mark.parametrize("dtype", ROW_DTYPES)
@pytest.mark.parametrize(("count", "size", "groups"), [(0, 8, 1), (1, 1, 1), (37, 64, 3), (130, 129, 1), (20, 500, 2)])
def test_op_on_the_cpu(count: int, size: int, groups: int, dtype: torch.dtype) -> None:
    rows, shift = _rows(count, size, dtype), _shift(size)
    total, scatter = _start(size, groups)
    ops.add_covariance(rows, shift, total, scatter, 2)
    _assert_sums((total, scatter), rows, shift, groups, 2)
    if groups == 1:
        plain, square = (tensor[0].clone() for tensor in _start(size, 1))
        ops.add_covariance(rows, shift, plain, square)
        assert torch.equal(plain, total[0])
        assert torch.equal(square.tril(), scatter[0].tril())


def test_op_checks_its_arguments() -> None:
    total, scatter = _start(8, 2)
    rows, shift = _rows(5, 8), _shift(8)
    for name, wrong, error, message in (
        ("rows", rows.double(), TypeError, "rows: expected float32, float16 or bfloat16, got torch.float64"),
        ("rows", rows[0], ValueError, r"rows: expected shape \(n, D\), got \(8,\)"),
        ("rows", rows.to("meta"), ValueError, "shift: expected device meta as rows, got cpu"),
        ("shift", shift.double(), TypeError, "shift: expected torch.float32, got torch.float64"),
        ("total", total[:, :7], ValueError, r"total: expected shape \(2, 8\), got \(2, 7\)"),
        ("total", total[0], ValueError, r"scatter: expected shape \(8, 8\), got \(2, 8, 8\)"),
        ("total", total[:0], ValueError, "total: expected at least one accumulator, got 0"),
        ("scatter", scatter.float(), TypeError, "scatter: expected torch.float64, got torch.float32"),
        ("scatter", scatter.mT, ValueError, r"scatter: expected contiguous memory, got strides \(64, 1, 8\)"),
    ):
        given = {"rows": rows, "shift": shift, "total": total, "scatter": scatter, name: wrong}
        with pytest.raises(error, match=message):
            ops.add_covariance(**given)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.mark.parametrize("device", DEVICES)
def test_op_is_registered_properly(device: str) -> None:
    for count, groups in ((5, 1), (5, 3), (0, 2)):
        given = [tensor.to(device) for tensor in (_rows(count, 8), _shift(8), *_start(8, groups))]
        torch.library.opcheck(torch.ops.fidfast.add_covariance.default, (*given, 1))


@pytest.mark.parametrize("device", DEVICES)
def test_op_compiles(device: str) -> None:
    def step(rows: Tensor, shift: Tensor, total: Tensor, scatter: Tensor) -> Tensor:
        ops.add_covariance(rows * 2, shift, total, scatter)
        return total * 0.5

    rows, shift = _rows(20, 8).to(device), _shift(8).to(device)
    ours, theirs = ([tensor.to(device) for tensor in _start(8, 1)] for _ in range(2))
    expected = step(rows, shift, *theirs)
    assert torch.equal(torch.compile(step, fullgraph=True, backend="aot_eager")(rows, shift, *ours), expected)
    assert torch.equal(ours[1].tril(), theirs[1].tril())


# ---------------------------------------------------------------------------------------------------------------------
# On a GPU
# ---------------------------------------------------------------------------------------------------------------------


def _on_device(rows: Tensor, device: str = "cuda") -> Sums:
    total, scatter = (tensor.to(device) for tensor in _start(rows.shape[1], 1))
    ops.add_covariance(rows.to(device), _shift(rows.shape[1]).to(device), total, scatter)
    return total.cpu(), scatter.cpu()


@pytest.mark.cuda
@pytest.mark.parametrize("size", [2047, 2048])
def test_op_on_a_gpu_at_full_size(size: int) -> None:
    rows = _rows(1000, size)
    expected = _start(size, 1)
    ops.add_covariance(rows, _shift(size), *expected)
    _assert_close(_on_device(rows), expected, "covariance/large")


@pytest.mark.cuda
def test_op_on_another_stream_and_in_a_graph() -> None:
    rows, shift = _rows(600, 192).cuda(), _shift(192).cuda()
    expected = _on_device(rows)[1].tril()
    total, scatter = (tensor.cuda() for tensor in _start(192, 1))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        ops.add_covariance(rows, shift, total, scatter)
    stream.synchronize()
    assert torch.equal(scatter.cpu().tril(), expected)

    total, scatter = (tensor.cuda() for tensor in _start(192, 1))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.add_covariance(rows, shift, total, scatter)
    assert torch.equal(scatter.cpu(), _start(192, 1)[1])  # captured, not run
    graph.replay()
    assert torch.equal(scatter.cpu().tril(), expected)


@pytest.mark.cuda
def test_op_on_the_second_device() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    rows = _rows(100, 70)
    assert torch.equal(_on_device(rows, "cuda:1")[1], _on_device(rows, "cuda:0")[1])
    assert torch.cuda.current_device() == 0


@pytest.mark.cuda
def test_statistics_on_a_gpu_are_bit_equal_for_every_batch_size() -> None:
    features = _rows(3000, 300).cuda()
    found = []
    for batch in (1, 64, 1000):
        found.append(FeatureStatistics(300))
        for part in features.split(batch):
            found[-1].update(part)
    for other in found[1:]:
        assert torch.equal(other.mu, found[0].mu)
        assert torch.equal(other.sigma, found[0].sigma)
