// Bindings of kernels/cuda/covariance.h: checks only.
#include <pybind11/pybind11.h>

#include <cstdint>

#include "bindings/cuda_call.h"
#include "kernels/cuda/covariance.h"

namespace py = pybind11;

namespace fidfast {

void bind_covariance(py::module_& m);

namespace {

FeatureType feature_type(const TensorView& rows) {
    switch (rows.dtype()) {
    case DType::float32: return FeatureType::float32;
    case DType::float16: return FeatureType::float16;
    case DType::bfloat16: return FeatureType::bfloat16;
    default: rows.fail("float32, float16 or bfloat16", "another dtype");
    }
}

// rows (n, D), shift (D,) float32, total (K, D) and scatter (K, D, D) float64.
void add_covariance(const py::object& rows, const py::object& shift, const py::object& total,
                    const py::object& scatter, int64_t first_index, uintptr_t stream) {
    const DeviceView x(rows, "rows"), k(shift, "shift"), sums(total, "total"), products(scatter, "scatter");
    x.expect_shape({-1, -1});
    const int64_t d = x.size(1);
    k.expect_shape({d});
    sums.expect_shape({-1, d});
    const int64_t groups = sums.size(0);
    products.expect_shape({groups, d, d});
    k.expect_dense({0});
    sums.expect_dense({0, 1});
    products.expect_dense({0, 1, 2});
    if (d > 1 && x.stride(1) != 1) x.fail("columns side by side", "a column stride of " + std::to_string(x.stride(1)));
    if (groups < 1) sums.fail("at least one accumulator", "none");
    if (k.dtype() != DType::float32) k.fail("float32", "another dtype");
    for (const TensorView* view : {&sums, &products})
        if (view->dtype() != DType::float64) view->fail("float64", "another dtype");
    for (const TensorView* view : {&k, &sums, &products}) view->expect_same_device(x);
    CovarianceParams params{};
    params.rows = x.data();
    params.type = feature_type(x);
    params.n = x.size(0), params.d = d, params.row_stride = x.stride(0);
    params.shift = reinterpret_cast<const float*>(k.data());
    params.groups = groups, params.first_index = first_index;
    params.total = reinterpret_cast<double*>(sums.data());
    params.scatter = reinterpret_cast<double*>(products.data());
    run_kernel("add_covariance", x, stream, [&](cudaStream_t s) { return launch_covariance(params, s); });
}

}  // namespace

void bind_covariance(py::module_& m) {
    m.def("add_covariance", &add_covariance, py::arg("rows"), py::arg("shift"), py::arg("total"), py::arg("scatter"),
          py::arg("first_index"), py::arg("stream"));
}

}  // namespace fidfast
