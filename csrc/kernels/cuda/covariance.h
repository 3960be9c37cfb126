// Running sums of features for mean and covariance, in float64.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fidfast {

enum class FeatureType { float32, float16, bfloat16 };

// Adds to group g = (first_index + row) mod groups the sum of (x - shift) and the lower triangle of the sum of
// (x - shift)(x - shift)^T, over that group's rows x. What stands above the diagonal is neither read nor written.
struct CovarianceParams {
    const void* rows;  // (n, d), columns side by side
    FeatureType type;
    int64_t n, d, row_stride;  // the stride in elements
    const float* shift;        // (d,)
    int64_t groups, first_index;
    double* total;    // (groups, d)
    double* scatter;  // (groups, d, d)
};

// The bits of the result depend on the rows of the call alone: not on the device's load, its size or the stream.
cudaError_t launch_covariance(const CovarianceParams& params, cudaStream_t stream);

}  // namespace fidfast
