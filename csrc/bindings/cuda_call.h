// What every binding of a CUDA kernel does: views of tensors on the device, the device guard, errors with a name.
#pragma once

#include <cuda_runtime.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "bindings/tensor_view.h"

namespace fidfast {

#if defined(FIDFAST_EMULATED)
constexpr int32_t kKernelDevice = kOnCpu;
#else
constexpr int32_t kKernelDevice = kOnCuda;
#endif

// A tensor where this module's kernels run: on a CUDA device, or on the CPU in emulation.
struct DeviceView : TensorView {
    DeviceView(const pybind11::handle& capsule, std::string name)
        : TensorView(capsule, std::move(name), kKernelDevice) {}
};

inline void check(cudaError_t error, const char* kernel) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // it is reported here, and must not be met again by the next launch
    throw std::runtime_error(std::string(kernel) + ": " + cudaGetErrorString(error));
}

class DeviceGuard {
public:
    DeviceGuard(int device, const char* kernel) {
        check(cudaGetDevice(&before_), kernel);
        if (before_ != device) check(cudaSetDevice(device), kernel);
        changed_ = before_ != device;
    }
    ~DeviceGuard() {
        if (changed_) cudaSetDevice(before_);
    }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;

private:
    int before_ = 0;
    bool changed_ = false;
};

// Runs launch_it(stream) -> cudaError_t on the device of `view`, without the GIL. The stream crossed as an integer.
template <class Launch>
void run_kernel(const char* kernel, const TensorView& view, uintptr_t stream, Launch launch_it) {
    const pybind11::gil_scoped_release release;
    const DeviceGuard guard(view.device_id(), kernel);
    check(launch_it(reinterpret_cast<cudaStream_t>(stream)), kernel);
}

}  // namespace fidfast
