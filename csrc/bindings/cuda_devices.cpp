// What this module was built for, and which devices it sees. Nothing here needs a driver.
#include <cuda_runtime.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "bindings/cuda_call.h"

#if !defined(FIDFAST_CUDA_ARCHITECTURES)
#define FIDFAST_CUDA_ARCHITECTURES ""
#endif

namespace py = pybind11;

namespace fidfast {

void bind_devices(py::module_& m);

namespace {

int attribute(cudaDeviceAttr which, int device) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, device), "devices");
    return value;
}

py::dict describe(int device) {
    py::dict found;
    found["capability"] = py::make_tuple(attribute(cudaDevAttrComputeCapabilityMajor, device),
                                         attribute(cudaDevAttrComputeCapabilityMinor, device));
    found["multiprocessors"] = attribute(cudaDevAttrMultiProcessorCount, device);
    found["shared_memory"] = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    // how many times faster float32 is than float64: 2 on data centre devices, 32 or 64 on others
    found["float64_ratio"] = attribute(cudaDevAttrSingleToDoublePrecisionPerfRatio, device);
    return found;
}

std::vector<py::dict> devices() {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) {  // no driver, no device: none is visible
        cudaGetLastError();
        return {};
    }
    std::vector<py::dict> found;
    for (int device = 0; device < count; device++) found.push_back(describe(device));
    return found;
}

int version_of(cudaError_t (*query)(int*)) {
    int version = 0;
    if (query(&version) != cudaSuccess) cudaGetLastError();
    return version;
}

py::dict build() {
    py::dict found;
    found["architectures"] = FIDFAST_CUDA_ARCHITECTURES;
    found["runtime"] = version_of(&cudaRuntimeGetVersion);
    found["driver"] = version_of(&cudaDriverGetVersion);  // 0 without one
#if defined(FIDFAST_EMULATED)
    found["emulated"] = true;
#else
    found["emulated"] = false;
#endif
    return found;
}

}  // namespace

void bind_devices(py::module_& m) {
    m.def("devices", &devices);
    m.def("build", &build);
}

}  // namespace fidfast
