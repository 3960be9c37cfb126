"""Symmetric float64 products on a GPU: our kernel against cuBLAS, for the table in fidfast/ops/symmetric_product.py.

Three jobs of the polar iteration at sizes D: G = XᵀX; P = aI + bG + cG²; and the whole step X (aI + bG + cG²).
Bound: the float64 matrix-product rate of the device at that size, on D³ operations for each symmetric product (half of
a general one) and 2 D³ for the product with X.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_timing import device_gemm_rate, device_seconds
from benchmarks.timing import Keep, check_close, forget
from fidfast.ops.modules import cuda_module, cuda_module_error
from fidfast.ops.symmetric_product import symmetric_product_kernel, symmetric_product_torch

Product = Callable[..., Tensor]
A, B, C = 1.875, -1.25, 0.375


def by_kernel(x: Tensor, addend: Tensor | None, alpha: float, beta: float, gamma: float) -> Tensor:
    stream = torch.cuda.current_stream().cuda_stream
    return symmetric_product_kernel(cuda_module(), x, None, addend, alpha, beta, gamma, stream)


def by_torch(x: Tensor, addend: Tensor | None, alpha: float, beta: float, gamma: float) -> Tensor:
    return symmetric_product_torch(x, None, addend, alpha, beta, gamma)


def by_plain_torch(x: Tensor, addend: Tensor | None, alpha: float, beta: float, gamma: float) -> Tensor:
    """Without the mirroring that makes the result symmetric to the bit: the least that cuBLAS needs."""
    product = x.T @ x if addend is None else torch.addmm(addend, x.T, x, beta=beta, alpha=alpha)
    product.diagonal().add_(gamma)
    return product


def jobs(product: Product, x: Tensor, g: Tensor) -> dict[str, Callable[[], Tensor]]:
    def step() -> Tensor:
        gram = product(x, None, 1.0, 1.0, 0.0)
        return x @ product(gram, gram, C, B, A)

    return {
        "gram": lambda: product(x, None, 1.0, 1.0, 0.0),
        "polynomial": lambda: product(g, g, C, B, A),
        "step": step,
    }


def run(*, quick: bool = False, keep: Keep = forget) -> dict[str, Any]:
    if cuda_module() is None:
        raise SystemExit(f"fidfast._cuda does not load: {cuda_module_error()}")
    operations = {"gram": 1, "polynomial": 1, "step": 4}  # times D³
    rows = []
    for size in (512, 2048) if quick else (128, 256, 512, 768, 1024, 1536, 2048, 4096):
        generator = torch.Generator("cuda").manual_seed(size)
        x = torch.randn(size, size, dtype=torch.float64, device="cuda", generator=generator)
        x /= torch.linalg.matrix_norm(x)
        g = x.T @ x
        g = (g + g.T) / 2
        rate = device_gemm_rate(torch.float64, size=size)
        makers = {"kernel": by_kernel, "torch": by_torch, "torch, not mirrored": by_plain_torch}
        made = {name: jobs(product, x, g) for name, product in makers.items()}
        for job, work in operations.items():
            ours, theirs = made["kernel"][job](), made["torch"][job]()
            apart = float((ours - theirs).abs().max() / theirs.abs().max())
            check_close(f"{job} at {size}", apart, 0.0, absolute=1e-12)
            if job != "step" and not torch.equal(ours, ours.T):
                raise SystemExit(f"{job} at {size}: not symmetric to the bit: not timing wrong results")
            taken = {name: device_seconds(found[job]) for name, found in made.items()}
            rows.append(
                {
                    "size": size,
                    "job": job,
                    "max_relative_difference": apart,
                    "seconds": taken,
                    "fraction_of_gemm": work * size**3 / rate / taken["kernel"],
                    "ratio_torch": taken["torch"] / taken["kernel"],
                    "ratio_torch, not mirrored": taken["torch, not mirrored"] / taken["kernel"],
                }
            )
            keep({"rows": rows})
    return {"rows": rows}
