// fidfast._cuda, and for tests fidfast._cuda_emulated: a table of contents, no algorithm.
#include <cuda_runtime.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <vector>

#include "bindings/cuda_call.h"

namespace py = pybind11;

namespace fidfast {

void bind_devices(py::module_& m);

#if defined(FIDFAST_EMULATED)
void bind_emulation(py::module_& m);

PYBIND11_MODULE(_cuda_emulated, m) {
    m.doc() = "CUDA kernels of fidfast, run on the CPU for tests";
    bind_emulation(m);
#else
PYBIND11_MODULE(_cuda, m) {
    m.doc() = "CUDA kernels of fidfast";
#endif
    bind_devices(m);
}

}  // namespace fidfast
