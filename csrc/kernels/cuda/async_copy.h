// Asynchronous copies from global to shared memory (cp.async), sm_80 and later; plain copies on what is older.
//
//     async_copy_16(&tile[i], &source[j]);            // or async_copy_16(to, from, bytes): the rest becomes zero
//     async_commit();                                 // what was asked for so far is one group
//     async_wait<1>();                                // all but the latest group have landed, for this thread
//     __syncthreads();                                // and now for all
//
// Both addresses are aligned to the size of the copy. In emulation nothing lands before the wait.
#pragma once

#include <cuda_runtime.h>

namespace fidfast {

// The first `bytes` (0 to Size) are copied, the others set to zero; with bytes = 0 the source is not read.
template <int Size>
__device__ __forceinline__ void async_copy(void* shared, const void* global, int bytes = Size) {
    static_assert(Size == 4 || Size == 8 || Size == 16);
#if defined(FIDFAST_EMULATED)
    emulation::copy_later(shared, global, Size, size_t(bytes));
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    const unsigned to = unsigned(__cvta_generic_to_shared(shared));
    const size_t from = __cvta_generic_to_global(global);
    if constexpr (Size == 16)  // past the first-level cache: the data go to shared memory only
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(Size), "r"(bytes)
                     : "memory");
#else
    for (int i = 0; i < Size; i++)
        static_cast<char*>(shared)[i] = i < bytes ? static_cast<const char*>(global)[i] : char(0);
#endif
}

__device__ __forceinline__ void async_copy_16(void* shared, const void* global, int bytes = 16) {
    async_copy<16>(shared, global, bytes);
}
__device__ __forceinline__ void async_copy_8(void* shared, const void* global, int bytes = 8) {
    async_copy<8>(shared, global, bytes);
}
__device__ __forceinline__ void async_copy_4(void* shared, const void* global, int bytes = 4) {
    async_copy<4>(shared, global, bytes);
}

__device__ __forceinline__ void async_commit() {
#if defined(FIDFAST_EMULATED)
    emulation::commit_copies();
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// All groups but the latest GroupsLeft have landed.
template <int GroupsLeft>
__device__ __forceinline__ void async_wait() {
#if defined(FIDFAST_EMULATED)
    emulation::wait_for_copies(GroupsLeft);
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(GroupsLeft) : "memory");
#endif
}

}  // namespace fidfast
