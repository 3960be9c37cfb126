"""The one table of tolerances. A tolerance is a sentence with a number: loosening a row is a reviewed change."""

from __future__ import annotations

from typing import NamedTuple


class Tolerance(NamedTuple):
    rtol: float
    atol: float
    reason: str


TOLERANCES: dict[str, Tolerance] = {
    "fid/peer": Tolerance(1e-4, 1e-4, "another tool, same images and weights: float32 convolutions in another order"),
    "compat/float32": Tolerance(0, 1e-5, "a tool's float32 kernel sums and softmaxes against ours in float64, below 2"),
    "resize/float64": Tolerance(0, 1e-4, "places of up to 400 pixels rounded to float32, neighbours up to 2 apart"),
    "resize/original": Tolerance(0, 5e-6, "float32 sums in another order, on [-1, 1]; up to 4096 pixels wide"),
    "resize/pillow": Tolerance(0, 3e-7, "the two passes in the other order: a float32 rounding of 255, on [-1, 1]"),
    "resize/fused": Tolerance(0, 3e-7, "fused float64 sums: one in 500,000 is the next float32, 2.4e-7 away above 256"),
    "resize/twin": Tolerance(0, 1e-6, "float32 sums of up to 30 taps against float64, on [-1, 1]"),
    "statistics/covariance": Tolerance(1e-12, 1e-13, "float64 sums in another order than numpy's"),
    "covariance/twin": Tolerance(0, 1e-14, "float64 sums of up to 130 products in another order, of the largest"),
    "product/twin": Tolerance(0, 1e-14, "float64 sums of up to 130 products in another order, of the largest"),
    "covariance/large": Tolerance(0, 1e-13, "float64 sums of 1000 products in another order, of the largest"),
    "product/large": Tolerance(0, 1e-13, "float64 sums of up to 2048 products in another order, of the largest"),
    "product/float32": Tolerance(0, 2e-6, "float32 sums of up to 130 products, of the largest"),
    "statistics/groups": Tolerance(1e-10, 1e-11, "groups summed in another order, and about a shift far from the mean"),
    "ranks/fid": Tolerance(1e-9, 0, "an FID from the same features on several ranks: 1e-12 of traces that cancel"),
    "ranks/error-bars": Tolerance(1e-8, 0, "the jackknife multiplies the differences of such FIDs by 9"),
    "ranks/features": Tolerance(1e-10, 0, "the same features summed on several ranks: float64, of tr(Σ1 + Σ2)"),
    "frechet/exact": Tolerance(1e-9, 1e-11, "full rank, against a value known in extended precision"),
    "frechet/scipy": Tolerance(1e-9, 2e-5, "scipy's sqrtm is itself off by 1e-5 on singular sets"),
    "frechet/self": Tolerance(1e-11, 1e-9, "traces of about 10 cancel to rounding, for any n and repeated rows"),
    "frechet/null": Tolerance(1e-9, 0.0, "one or two zero eigenvalues, too few for the route by singular values"),
    "frechet/gradient": Tolerance(1e-6, 1e-8, "fourth-order finite differences with a step of 1e-4"),
    "polar/schedule": Tolerance(
        1e-7, 0.0, "a narrow interval's coefficients are ill-conditioned, their polynomial is not"
    ),
    "polar/flat": Tolerance(0, 1e-11, "what is left of 1 - p on [l, 1], cubed by the last step of the value"),
    "polar/twin": Tolerance(0, 1e-10, "a factor whose singular values reach down to 1e-4: float64 rounding over that"),
    "polar/float32": Tolerance(5e-9, 1e-9, "the square of a rotation by float32 rounding, before traces cancel"),
    "sqrt/residual": Tolerance(1e-12, 0.0, "‖H² - A‖ against ‖A‖: float64 rounding of a product with itself"),
    "sqrt/scipy": Tolerance(0, 1e-7, "√(1e-16 ‖A‖) is what rounding of A moves the root of a near-singular one"),
    "network/twin": Tolerance(0, 5e-6, "94 float32 layers against float64, of the largest feature"),
    "network/winograd": Tolerance(0, 1e-5, "F(4x4, 3x3) rounds 5 times as much as the direct sum, F(4, 7) 16 times"),
    "network/known-fid": Tolerance(0, 2e-5, "float32 features, the value is known to five decimals"),
    "network/bf16": Tolerance(0, 3e-2, "8 bits of mantissa through the layers, of the largest feature"),
    "kid/twin": Tolerance(1e-12, 1e-13, "float64 kernel values of about 1 in another order; their means cancel"),
    "is/twin": Tolerance(1e-12, 0, "float64 sums of p log p in another order"),
    "nearest/twin": Tolerance(1e-12, 0, "a sum of squared float64 differences, or what a product leaves of two norms"),
    "cosine/twin": Tolerance(0, 1e-14, "1 minus a float64 product of unit rows"),
    "measures/peer": Tolerance(1e-5, 1e-6, "the tool's float32 kernel or softmax against float64 on the same features"),
    "taps/peer": Tolerance(0, 2e-5, "94 float32 layers in another order of sums, of the largest of a tap"),
}
