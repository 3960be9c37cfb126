"""matrix_sqrt by both of its routes: residual, scipy, singular and refused matrices, gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_frechet import _covariance
from tolerances import TOLERANCES

from fidfast import matrix_sqrt, reference, square_root
from fidfast.statistics import StatisticsError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=["eigenvectors", "polar"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(square_root, "takes_polar", lambda device: request.param == "polar")
    return str(request.param)


@pytest.mark.parametrize("size", [1, 2, 65, 128])
@pytest.mark.parametrize("condition", [1.0, 1e4, 1e8, 1e12])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_residual_and_scipy(route: str, size: int, condition: float, scale: float) -> None:
    a = scale * _covariance(torch.logspace(0, -float(np.log10(condition)), size, dtype=torch.float64), size)
    if route == "polar":
        assert square_root._by_polar(a) is not None
    root = matrix_sqrt(a)
    assert torch.equal(root, root.T)
    assert float(torch.linalg.eigvalsh(root)[0]) > 0
    assert float(torch.linalg.norm(root @ root - a)) <= TOLERANCES["sqrt/residual"].rtol * float(torch.linalg.norm(a))
    expected = torch.from_numpy(reference.matrix_sqrt((a / scale).numpy())) * scale**0.5
    torch.testing.assert_close(root, expected, rtol=0, atol=TOLERANCES["sqrt/scipy"].atol * scale**0.5)


def test_singular_and_zero(route: str) -> None:
    spectrum = torch.logspace(0, -4, 64, dtype=torch.float64)
    spectrum[40:] = 0
    a = _covariance(spectrum, 1)
    assert square_root._by_polar(a) is None
    root = matrix_sqrt(a)
    assert float(torch.linalg.norm(root @ root - a)) <= TOLERANCES["sqrt/residual"].rtol * float(torch.linalg.norm(a))
    torch.testing.assert_close(root, _covariance(spectrum.sqrt(), 1), rtol=0, atol=1e-9)
    assert torch.equal(matrix_sqrt(torch.zeros(3, 3)), torch.zeros(3, 3, dtype=torch.float64))


def test_numpy_in_numpy_out(route: str) -> None:
    root = matrix_sqrt(np.diag([4.0, 9.0]))
    assert isinstance(root, np.ndarray)
    np.testing.assert_allclose(root, np.diag([2.0, 3.0]), rtol=1e-14, atol=1e-15)


def test_refused_and_clipped(route: str) -> None:
    with pytest.raises(StatisticsError, match=r"a: expected a symmetric matrix"):
        matrix_sqrt(np.triu(np.ones((3, 3))))
    with pytest.raises(StatisticsError, match=r"a: expected a square matrix, got shape \(3, 2\)"):
        matrix_sqrt(np.ones((3, 2)))
    with pytest.raises(StatisticsError, match=r"a: expected finite numbers"):
        matrix_sqrt(np.full((3, 3), np.nan))
    with pytest.warns(UserWarning, match=r"a: expected a positive semidefinite matrix.*sum to -1"):
        clipped = matrix_sqrt(np.diag([36.0, -1.0]))
    np.testing.assert_allclose(clipped, np.diag([6.0, 0.0]), atol=1e-14)
    with pytest.raises(StatisticsError, match=r"a: expected.*positive semidefinite.*negative eigenvalues sum to -1 "):
        matrix_sqrt(np.diag([4.0, -1.0]))


def test_gradient(route: str) -> None:
    a = _covariance(torch.logspace(0, -2, 6, dtype=torch.float64), 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: matrix_sqrt((x + x.T) / 2), a)
    singular = torch.diag(torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64)).requires_grad_()
    matrix_sqrt(singular).sum().backward()
    assert bool(torch.isfinite(singular.grad).all())
    assert float(singular.grad[0, 0]) == pytest.approx(0.25)


@pytest.mark.cuda
def test_cuda_root_is_by_the_polar_factor() -> None:
    a = _covariance(torch.logspace(0, -8, 200, dtype=torch.float64), 1)
    assert square_root._by_polar(a.cuda()) is not None
    root = matrix_sqrt(a.cuda())
    assert root.is_cuda
    torch.testing.assert_close(root.cpu(), matrix_sqrt(a), rtol=0, atol=TOLERANCES["sqrt/scipy"].atol)
