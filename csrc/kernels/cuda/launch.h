// launch(kernel, grid, block, shared_bytes, stream, arguments...): the one place with <<<>>>; and shared memory.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

namespace fidfast {

// A grid without blocks is success. Arguments are converted to the kernel's parameter types.
template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                   A&&... arguments) {
    if (!grid.x || !grid.y || !grid.z) return cudaSuccess;
    constexpr size_t kGrantedToAll = 48 * 1024;
    if (shared_bytes > kGrantedToAll) {
        const cudaError_t refused =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
        if (refused != cudaSuccess) return cudaGetLastError(), refused;  // and forget it: it is reported here
    }
#if defined(FIDFAST_EMULATED)
    (void)stream;
    return emulation::launch(kernel, grid, block, shared_bytes, std::forward<A>(arguments)...);
#else
    kernel<<<grid, block, shared_bytes, stream>>>(std::forward<A>(arguments)...);
    return cudaGetLastError();
#endif
}

// The block's dynamic shared memory. Kernels have no other: `__shared__` variables do not exist in emulation.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
#if defined(FIDFAST_EMULATED)
    return reinterpret_cast<T*>(emulation::shared_memory());
#else
    extern __shared__ __align__(128) unsigned char fidfast_dynamic_shared[];
    return reinterpret_cast<T*>(fidfast_dynamic_shared);
#endif
}

}  // namespace fidfast
