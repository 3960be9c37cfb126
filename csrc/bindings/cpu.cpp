// fidfast._cpu: a table of contents, no algorithm.
#include <pybind11/pybind11.h>

PYBIND11_MODULE(_cpu, m) {
    m.doc() = "CPU kernels of fidfast";
    m.def("simd_level", [] { return "scalar"; }, "Best instruction set of this CPU that the kernels use.");
}
