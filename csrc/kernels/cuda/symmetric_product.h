// Products known to be symmetric, with half the work of a general one.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fidfast {

// A matrix (m, d) of doubles with one of its axes side by side in memory.
struct MatrixView {
    const double* data;
    int64_t stride;  // in elements, along the other axis
};

// out = alpha XᵀY + beta E + gamma I, XᵀY and E symmetric: made on and below the diagonal and mirrored above it, so
// that out equals its transpose to the bit. With Y = X: XᵀX, X Xᵀ (by the transposed view), G² for a symmetric G, and
// with E = G the polynomial a I + b G + c G² of the polar iteration in one launch.
struct SymmetricProductParams {
    MatrixView x, y;  // (m, d); y may be x
    bool rows_apart;  // true: columns lie side by side (row-major), false: rows do (column-major)
    int64_t m, d;
    const double* addend;  // (d, d) row-major, its lower triangle read; may be null
    int64_t addend_stride;
    double alpha, beta, gamma;
    double* out;  // (d, d) row-major without gaps; overlaps no input
};

cudaError_t launch_symmetric_product(const SymmetricProductParams& params, cudaStream_t stream);

}  // namespace fidfast
