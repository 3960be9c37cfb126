// The float64 tensor core's product: D (8, 8) += A (8, 4) B (4, 8) by the 32 lanes of a warp.
//
// Lane i holds A[i / 4][i % 4], B[i % 4][i / 4] and D[i / 4][2 (i % 4)], D[i / 4][2 (i % 4) + 1]. All lanes call it
// together. Devices before sm_80 have no such instruction and use shuffles and multiply-adds.
#pragma once

#include <cuda_runtime.h>

namespace fidfast {

#if defined(FIDFAST_EMULATED)

namespace emulation {

struct MmaLane {
    double d0, d1, a, b;
};

inline void finish_mma(unsigned, void* const* lanes) {
    const auto lane = [&](int i) -> MmaLane& { return *static_cast<MmaLane*>(lanes[i]); };
    for (int i = 0; i < 32; i++) {
        const int row = i / 4, column = 2 * (i % 4);
        for (int k = 0; k < 4; k++) {
            const double a = lane(4 * row + k).a;
            lane(i).d0 = std::fma(a, lane(4 * column + k).b, lane(i).d0);
            lane(i).d1 = std::fma(a, lane(4 * column + 4 + k).b, lane(i).d1);
        }
    }
}

}  // namespace emulation

inline void mma_f64_8x8x4(double& d0, double& d1, double a, double b, int line = __builtin_LINE(),
                          const char* file = __builtin_FILE()) {
    emulation::MmaLane lane{d0, d1, a, b};
    emulation::warp_call({"mma_f64_8x8x4", 0xffffffffu, &emulation::finish_mma, &lane, {file, line}});
    d0 = lane.d0;
    d1 = lane.d1;
}

#else

__device__ __forceinline__ void mma_f64_8x8x4(double& d0, double& d1, double a, double b) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+d"(d0), "+d"(d1)
                 : "d"(a), "d"(b));
#else
    const int lane = threadIdx.x % 32, row = lane / 4, column = 2 * (lane % 4);
    for (int k = 0; k < 4; k++) {
        const double left = __shfl_sync(0xffffffffu, a, 4 * row + k);
        d0 = fma(left, __shfl_sync(0xffffffffu, b, 4 * column + k), d0);
        d1 = fma(left, __shfl_sync(0xffffffffu, b, 4 * column + 4 + k), d1);
    }
#endif
}

#endif

}  // namespace fidfast
