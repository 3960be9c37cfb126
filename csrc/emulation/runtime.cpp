// The few calls of CUDA's runtime that need a body.
#include "emulation/cuda_runtime.h"

const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorLaunchFailure: return fidfast::emulation::last_error().c_str();
    default: return "a CUDA error";
    }
}

// A device with strong float64, as an H100 has, and the shared memory that every device of sm_80 and later has.
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    if (device) return cudaErrorInvalidDevice;
    switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = 4; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrSingleToDoublePrecisionPerfRatio: *value = 2; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 48 * 1024; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = 100 * 1024; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = int(fidfast::emulation::shared_memory_limit());
        break;
    default: return cudaErrorInvalidValue;
    }
    return cudaSuccess;
}
