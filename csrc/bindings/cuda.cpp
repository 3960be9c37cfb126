// fidfast._cuda, and for tests fidfast._cuda_emulated: a table of contents, no algorithm.
#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace fidfast {

void bind_covariance(py::module_& m);
void bind_devices(py::module_& m);
void bind_emulation(py::module_& m);  // bindings/cuda_emulation.cpp
void bind_resize_normalize(py::module_& m);
void bind_symmetric_product(py::module_& m);

// FIDFAST_MODULE: _cuda, _cuda_emulated, or _cuda_emulated_asan
PYBIND11_MODULE(FIDFAST_MODULE, m) {
    m.doc() = "CUDA kernels of fidfast";
#if defined(FIDFAST_EMULATED)
    bind_emulation(m);
#endif
    bind_devices(m);
    bind_resize_normalize(m);
    bind_covariance(m);
    bind_symmetric_product(m);
}

}  // namespace fidfast
