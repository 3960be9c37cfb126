// Bindings of kernels/cuda/symmetric_product.h: checks only.
#include <pybind11/pybind11.h>

#include <cstdint>

#include "bindings/cuda_call.h"
#include "kernels/cuda/symmetric_product.h"

namespace py = pybind11;

namespace fidfast {

void bind_symmetric_product(py::module_& m);

namespace {

// Axis `fast` lies side by side, and rows or columns do not overlap.
MatrixView matrix_view(const TensorView& tensor, int fast) {
    const int slow = 1 - fast;
    const bool one_wide = tensor.size(fast) <= 1, one_long = tensor.size(slow) <= 1;
    if ((!one_wide && tensor.stride(fast) != 1) || (!one_long && tensor.stride(slow) < tensor.size(fast)))
        tensor.fail(fast ? "row-major memory" : "column-major memory", "other strides");
    return {reinterpret_cast<const double*>(tensor.data()), tensor.stride(slow)};
}

// x, y (m, D) float64, both row-major or both column-major; addend (D, D) row-major or None; out (D, D), dense.
void symmetric_product(const py::object& x, const py::object& y, const py::object& addend, const py::object& out,
                       bool row_major, double alpha, double beta, double gamma, uintptr_t stream) {
    const DeviceView left(x, "x"), right(y, "y"), result(out, "out");
    left.expect_shape({-1, -1});
    const int64_t m = left.size(0), d = left.size(1);
    right.expect_shape({m, d});
    result.expect_shape({d, d});
    result.expect_dense({0, 1});
    for (const TensorView* view : {&left, &right, &result})
        if (view->dtype() != DType::float64) view->fail("float64", "another dtype");
    for (const TensorView* view : {&right, &result}) view->expect_same_device(left);
    SymmetricProductParams params{};
    params.x = matrix_view(left, row_major), params.y = matrix_view(right, row_major);
    params.rows_apart = row_major;
    params.m = m, params.d = d;
    params.alpha = alpha, params.beta = beta, params.gamma = gamma;
    params.out = reinterpret_cast<double*>(result.data());
    if (!addend.is_none()) {
        const DeviceView added(addend, "addend");
        added.expect_shape({d, d});
        added.expect_same_device(left);
        if (added.dtype() != DType::float64) added.fail("float64", "another dtype");
        const MatrixView view = matrix_view(added, 1);
        params.addend = view.data, params.addend_stride = view.stride;
    }
    run_kernel("symmetric_product", left, stream, [&](cudaStream_t s) { return launch_symmetric_product(params, s); });
}

}  // namespace

void bind_symmetric_product(py::module_& m) {
    m.def("symmetric_product", &symmetric_product, py::arg("x"), py::arg("y"), py::arg("addend"), py::arg("out"),
          py::arg("row_major"), py::arg("alpha"), py::arg("beta"), py::arg("gamma"), py::arg("stream"));
}

}  // namespace fidfast
