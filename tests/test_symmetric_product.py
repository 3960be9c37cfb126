"""alpha XᵀY + beta E + gamma I: the kernel and the op against their twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from backends import Backend
from tolerances import TOLERANCES
from torch import Tensor
from torch.utils.dlpack import to_dlpack

from fidfast import ops, reference
from fidfast.ops.symmetric_product import symmetric_product_kernel, symmetric_product_torch


def _matrix(rows: int, columns: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 1000 * rows + columns)
    return torch.randn(rows, columns, dtype=torch.float64, generator=generator).to(dtype)


def _symmetric(size: int, seed: int = 0) -> Tensor:
    matrix = _matrix(size, size, seed)
    return matrix + matrix.T


def _assert_product(
    got: Tensor, x: Tensor, y: Tensor | None = None, *, row: str = "product/twin", **options: Any
) -> None:
    expected = reference.symmetric_product(x, y, **options)
    scale = float(expected.abs().max()) if expected.numel() else 1.0
    torch.testing.assert_close(got.double(), expected, rtol=TOLERANCES[row].rtol, atol=TOLERANCES[row].atol * scale)
    assert torch.equal(got, got.T)


def _by_kernel(
    backend: Backend,
    x: Tensor,
    y: Tensor | None = None,
    *,
    addend: Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float = 0.0,
) -> Tensor:
    """The product of tensors that lie on the backend's device, with the strides that they have."""
    numbers = (alpha, beta, gamma)
    return backend.run(lambda: symmetric_product_kernel(backend.module, x, y, addend, *numbers, backend.stream())).cpu()


@pytest.mark.parametrize(("m", "size"), [(0, 8), (1, 1), (37, 8), (130, 64), (16, 65), (37, 129)])
@pytest.mark.parametrize("row_major", [True, False])
def test_kernel(backend: Backend, m: int, size: int, row_major: bool) -> None:
    x = _matrix(m, size)
    given = x.to(backend.device) if row_major else x.T.contiguous().to(backend.device).T
    _assert_product(_by_kernel(backend, given), x)


def test_kernel_makes_a_polynomial_of_the_lower_triangle(backend: Backend) -> None:
    g = _symmetric(70)
    half = torch.where(torch.ones(70, 70).tril().bool(), g, torch.full_like(g, float("nan")))
    numbers = {"alpha": 0.5, "beta": -1.25, "gamma": 1.875}
    got = _by_kernel(backend, g.to(backend.device), addend=half.to(backend.device), **numbers)
    _assert_product(got, g, addend=g, **numbers)


@pytest.mark.parametrize("row_major", [True, False])
def test_kernel_of_two_matrices(backend: Backend, row_major: bool) -> None:
    x = _matrix(35, 69)
    y = _symmetric(35) @ x
    left, right = (m.to(backend.device) if row_major else m.T.contiguous().to(backend.device).T for m in (x, y))
    _assert_product(_by_kernel(backend, left, right, alpha=2.0), x, y, alpha=2.0)
    other_layout = y.T.contiguous().to(backend.device).T if row_major else y.to(backend.device)
    _assert_product(_by_kernel(backend, left, other_layout, alpha=2.0), x, y, alpha=2.0)


@pytest.mark.parametrize("row_major", [True, False])
def test_kernel_of_every_stride(backend: Backend, row_major: bool) -> None:
    wide = _matrix(48, 80)
    for place in ((slice(21), slice(66)), (slice(21), slice(1, 67)), (slice(0, 40, 2), slice(2, 68))):
        given, x = wide.to(backend.device)[place], wide[place]
        got = _by_kernel(backend, given if row_major else given.T)
        _assert_product(got, x if row_major else x.T)
    _assert_product(_by_kernel(backend, wide.to(backend.device)[:20, ::2]), wide[:20, ::2])  # copied


@pytest.mark.parametrize("row_major", [True, False])
def test_kernel_finds_rows_further_apart_than_32_bits_count(
    backend: Backend, row_major: bool, vast: Callable[[int, torch.dtype], Tensor]
) -> None:
    step = 2**31 + 8  # of doubles
    x = vast(step + 128, torch.float64).as_strided((2, 66), (step, 1))
    x.copy_(_matrix(2, 66))
    given = x if row_major else x.T
    _assert_product(_by_kernel(backend, given), given.cpu())


def test_kernel_refuses_what_does_not_fit(backend: Backend) -> None:
    x, out, addend = (_matrix(5, 8), _matrix(8, 8), _matrix(8, 8))
    for name, wrong, message in (
        ("x", x.T.contiguous().T, "x: expected row-major memory, got other strides"),
        ("x", x.float(), "x: expected float64, got another dtype"),
        ("y", x[:4], r"y: expected shape \(5, 8\), got \(4, 8\)"),
        ("addend", addend[:, :7], r"addend: expected shape \(8, 8\), got \(8, 7\)"),
        ("out", out.T, "out: expected dense memory"),
    ):
        given = {"x": x, "y": x, "addend": addend, "out": out, name: wrong}
        views = [to_dlpack(tensor.to(backend.device)) for tensor in given.values()]
        with pytest.raises(ValueError, match=message):
            backend.module.symmetric_product(*views, True, 1.0, 1.0, 0.0, backend.stream())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("m", "size"), [(0, 8), (1, 1), (37, 64), (130, 129), (20, 500)])
def test_op_on_the_cpu(m: int, size: int, dtype: torch.dtype) -> None:
    x, addend = _matrix(m, size, dtype=dtype), _symmetric(size).to(dtype)
    row = "product/twin" if dtype == torch.float64 else "product/float32"
    _assert_product(ops.symmetric_product(x), x, row=row)
    _assert_product(ops.symmetric_product(x.T), x.T, row=row)
    numbers = {"alpha": 0.5, "beta": -1.25, "gamma": 1.875}
    got = ops.symmetric_product(x, addend=addend, **numbers)
    _assert_product(got, x, addend=addend, row=row, **numbers)
    assert got.dtype == dtype


def test_op_of_two_matrices() -> None:
    x = _matrix(35, 200)
    y = _symmetric(35) @ x
    _assert_product(ops.symmetric_product(x, y), x, y)


def test_op_checks_its_arguments() -> None:
    x, addend = _matrix(5, 8), _symmetric(8)
    for given, error, message in (
        ({"x": x.half()}, TypeError, "x: expected float64 or float32, got torch.float16"),
        ({"x": x[0]}, ValueError, r"x: expected shape \(m, D\), got \(8,\)"),
        ({"x": x, "y": x.float()}, TypeError, "y: expected torch.float64 as x, got torch.float32"),
        ({"x": x, "y": x[:4]}, ValueError, r"y: expected shape \(5, 8\), got \(4, 8\)"),
        ({"x": x, "addend": addend[:7]}, ValueError, r"addend: expected shape \(8, 8\), got \(7, 8\)"),
        ({"x": x, "addend": addend.to("meta")}, ValueError, "addend: expected device cpu as x, got meta"),
    ):
        with pytest.raises(error, match=message):
            ops.symmetric_product(**given)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [8, 300], ids=["below the kernel's least D", "above it"])
def test_op_is_registered_properly(device: str, size: int) -> None:
    x, g = _matrix(5, size).to(device), _symmetric(size).to(device)
    two = (x.T, x.T.clone(), _symmetric(5).to(device), 0.5, 2.0, 1.0)
    for given in ((x, None, None, 1.0, 1.0, 0.0), two, (g, None, g, 1.0, 1.0, 3.0)):
        torch.library.opcheck(torch.ops.fidfast.symmetric_product.default, given)


@pytest.mark.parametrize("device", DEVICES)
def test_op_compiles(device: str) -> None:
    def step(x: Tensor) -> Tensor:
        g = ops.symmetric_product(x)
        return x @ ops.symmetric_product(g, addend=g, alpha=0.375, beta=-1.25, gamma=1.875)

    x = (_matrix(400, 300) / 400).to(device)
    assert torch.equal(torch.compile(step, fullgraph=True, backend="aot_eager")(x), step(x))


# ---------------------------------------------------------------------------------------------------------------------
# On a GPU
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.parametrize(("m", "size"), [(2048, 2048), (1000, 2047), (0, 300)])
def test_both_routes_on_a_gpu(m: int, size: int) -> None:
    from fidfast.ops.modules import cuda_module

    x, addend = _matrix(m, size).cuda(), _symmetric(size).cuda()
    numbers = (0.5, -1.25, 1.875)
    expected = symmetric_product_torch(x.cpu(), None, addend.cpu(), *numbers)
    kernels = cuda_module()
    assert kernels is not None
    stream = torch.cuda.current_stream().cuda_stream
    row = TOLERANCES["product/large"]
    for got in (
        symmetric_product_torch(x, None, addend, *numbers),
        symmetric_product_kernel(kernels, x, None, addend, *numbers, stream),
        ops.symmetric_product(x, addend=addend, alpha=numbers[0], beta=numbers[1], gamma=numbers[2]),
    ):
        scale = float(expected.abs().max())
        torch.testing.assert_close(got.cpu(), expected, rtol=row.rtol, atol=row.atol * scale)
        assert torch.equal(got, got.T)


@pytest.mark.cuda
def test_op_on_another_stream_and_in_a_graph() -> None:
    x = _matrix(300, 320).cuda()
    expected = ops.symmetric_product(x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = ops.symmetric_product(x)
    stream.synchronize()
    assert torch.equal(got, expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = ops.symmetric_product(x)
    got.zero_()
    graph.replay()
    assert torch.equal(got, expected)


@pytest.mark.cuda
def test_op_on_the_second_device() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    x = _matrix(100, 300)
    assert torch.equal(ops.symmetric_product(x.to("cuda:1")).cpu(), ops.symmetric_product(x.to("cuda:0")).cpu())
    assert torch.cuda.current_device() == 0
