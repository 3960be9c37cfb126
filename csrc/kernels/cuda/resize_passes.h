// What a thread of resize_normalize.cu does with unpacked rows: its output column of each of them (horizontal pass),
// the outputs that they add up to (vertical pass), and storing those.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

#include "kernels/cuda/resize_normalize.h"
#include "kernels/cuda/resize_tables.h"
#include "kernels/cuda/source_rows.h"

namespace fidfast {

struct Output {
    void* data;  // (N, 3, 299, 299) dense
    OutType type;
    bool channels_last;
    float centre, scale;
    bool clip;
};

// ---------------------------------------------------------------------------------------------------------------------
// Horizontal pass
// ---------------------------------------------------------------------------------------------------------------------

template <typename Real>
__device__ __forceinline__ void load_weights(const Real* from, Real (&w)[kChunk]) {
    if constexpr (sizeof(Real) == 8) {
        const double2 low = __ldg(reinterpret_cast<const double2*>(from));
        const double2 high = __ldg(reinterpret_cast<const double2*>(from) + 1);
        w[0] = low.x, w[1] = low.y, w[2] = high.x, w[3] = high.y;
    } else {
        const float4 all = __ldg(reinterpret_cast<const float4*>(from));
        w[0] = all.x, w[1] = all.y, w[2] = all.z, w[3] = all.w;
    }
}

// resize_tables.h: byte k of the word as a tiny number of which kWeightScale and kByteScale know.
template <typename Real>
__device__ __forceinline__ Real tiny_byte(uint32_t word, int k) {
    const uint32_t byte = __byte_perm(word, 0, unsigned(0x4440 | k));
    if constexpr (sizeof(Real) == 8)
        return __longlong_as_double(int64_t(uint64_t(byte) << 32));
    else
        return __uint_as_float(byte);
}

__device__ __forceinline__ float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ __forceinline__ double fused(double a, double b, double c) { return __fma_rn(a, b, c); }

// The thread's output column of kBatch unpacked rows -> values on the scale 0..255. `at` is its first tap's column in
// the region, `weights` those of its first chunk.
template <typename Real, int kBatch, Source kSource>
__device__ __forceinline__ void resize_along_x(const char* rows, int plane, int at, const Real* weights, int chunks,
                                               float (&values)[kBatch][3]) {
    Real sums[kBatch][3] = {};
    if constexpr (kSource == Source::floats) {
#pragma unroll 1
        for (int chunk = 0; chunk < chunks; chunk++) {
            Real w[kChunk];
            load_weights(weights + chunk * kTableOutputs * kChunk, w);
#pragma unroll
            for (int i = 0; i < kBatch * 3; i++) {
                const float* source = reinterpret_cast<const float*>(rows + i * plane) + at + chunk * kChunk;
#pragma unroll
                for (int k = 0; k < kChunk; k++) sums[i / 3][i % 3] = fused(Real(source[k]), w[k], sums[i / 3][i % 3]);
            }
        }
    } else {
        const char* words = rows + (at & ~3);
        const unsigned shift = 8 * unsigned(at & 3);
        uint32_t before[kBatch][3];
#pragma unroll
        for (int i = 0; i < kBatch * 3; i++)
            before[i / 3][i % 3] = *reinterpret_cast<const uint32_t*>(words + i * plane);
#pragma unroll 1
        for (int chunk = 0; chunk < chunks; chunk++) {
            Real w[kChunk];
            load_weights(weights + chunk * kTableOutputs * kChunk, w);
            words += 4;
#pragma unroll
            for (int i = 0; i < kBatch * 3; i++) {
                const uint32_t next = *reinterpret_cast<const uint32_t*>(words + i * plane);
                const uint32_t four = __funnelshift_r(before[i / 3][i % 3], next, shift);
                before[i / 3][i % 3] = next;
#pragma unroll
                for (int k = 0; k < kChunk; k++)
                    sums[i / 3][i % 3] = fused(tiny_byte<Real>(four, k), w[k], sums[i / 3][i % 3]);
            }
        }
    }
    const Real scale = Real(kSource == Source::floats ? 1.0 / kWeightScale<Real> : kByteScale<Real>);
#pragma unroll
    for (int i = 0; i < kBatch * 3; i++) values[i / 3][i % 3] = float(sums[i / 3][i % 3] * scale);
}

// The same where an output has at most two taps (bilinear without antialias, and enlarging with it): a byte of shared
// memory is a tiny number as it is loaded, so that nothing is shifted or permuted and no zero weight is multiplied.
template <int kBatch, Source kSource>
__device__ __forceinline__ void two_taps_along_x(const char* rows, int plane, int at, const float* weights,
                                                 float (&values)[kBatch][3]) {
    const float2 w = __ldg(reinterpret_cast<const float2*>(weights));
    const float scale = float(kSource == Source::floats ? 1.0 / kWeightScale<float> : kByteScale<float>);
#pragma unroll
    for (int i = 0; i < kBatch * 3; i++) {
        float first, second;
        if constexpr (kSource == Source::floats) {
            const float* source = reinterpret_cast<const float*>(rows + i * plane) + at;
            first = source[0], second = source[1];
        } else {
            const uint8_t* source = reinterpret_cast<const uint8_t*>(rows + i * plane) + at;
            first = __uint_as_float(source[0]), second = __uint_as_float(source[1]);
        }
        values[i / 3][i % 3] = fused(second, w.y, __fmul_rn(first, w.x)) * scale;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Storing an output row
// ---------------------------------------------------------------------------------------------------------------------

__device__ __forceinline__ void convert(float value, float* out) { *out = value; }
__device__ __forceinline__ void convert(float value, __half* out) { *out = __float2half_rn(value); }
__device__ __forceinline__ void convert(float value, __nv_bfloat16* out) { *out = __float2bfloat16_rn(value); }

// A warp's 32 columns lie side by side in memory: in a plane, a column a lane; channels last, 96 elements that pass
// through the warp's part of shared memory so that neighbouring lanes write neighbours.
template <typename Out>
__device__ __forceinline__ void store_row(const Output& output, int64_t index, int y, int first_x, int columns,
                                          const float (&pixel)[3], float* turned) {
    const int lane = int(threadIdx.x) % 32;
    Out* image = static_cast<Out*>(output.data) + index * 3 * kOut * kOut;
    if (!output.channels_last) {
        if (lane < columns)
#pragma unroll
            for (int c = 0; c < 3; c++) convert(pixel[c], image + (c * kOut + y) * kOut + first_x + lane);
        return;
    }
#pragma unroll
    for (int c = 0; c < 3; c++) turned[3 * lane + c] = pixel[c];
    __syncwarp();
#pragma unroll
    for (int i = lane; i < 96; i += 32)
        if (i < 3 * columns) convert(turned[i], image + (y * kOut + first_x) * 3 + i);
    __syncwarp();
}

template <typename Real>
__device__ __forceinline__ void emit(const Output& output, int64_t index, int y, int first_x, int columns,
                                     const Real (&sums)[3], float* turned) {
    float pixel[3];
#pragma unroll
    for (int c = 0; c < 3; c++) {
        const float value = float(sums[c]);
        pixel[c] = ((output.clip ? clamp_to_255(value) : value) - output.centre) * output.scale;
    }
    if (output.type == OutType::float32)
        store_row<float>(output, index, y, first_x, columns, pixel, turned);
    else if (output.type == OutType::bfloat16)
        store_row<__nv_bfloat16>(output, index, y, first_x, columns, pixel, turned);
    else
        store_row<__half>(output, index, y, first_x, columns, pixel, turned);
}

// ---------------------------------------------------------------------------------------------------------------------
// Vertical pass
// ---------------------------------------------------------------------------------------------------------------------

// The row table of resize_tables.h: all parts from one pointer.
template <typename Real, bool kScatter, int kWindow>
struct RowTable {
    const int32_t* base;
    int height;

    __device__ int start(int i) const { return __ldg(base + i); }
    __device__ int last(int i) const { return __ldg(base + kTableOutputs + i); }
    __device__ int open(int i) const { return __ldg(base + 2 * kTableOutputs + i); }
    __device__ const Real* weights(int i) const {
        return reinterpret_cast<const Real*>(base + 3 * kTableOutputs) + int64_t(i) * kWindow;
    }
    __device__ const int32_t* rank() const { return reinterpret_cast<const int32_t*>(weights(kOut)); }  // gather
    __device__ const int32_t* needed() const { return rank() + height + 1; }
    __device__ bool any_needed(int y, int end) const { return __ldg(rank() + y) != __ldg(rank() + end); }
};

// What a thread holds of its column: the last kWindow resized rows (gather) or the sums of the kWindow outputs that
// come next (scatter).
template <typename Real, bool kScatter, int kWindow>
class Column {
public:
    using Table = RowTable<Real, kScatter, kWindow>;

    __device__ __forceinline__ void add_row(const Table& table, int y, const float (&pixel)[3]) {
        if constexpr (kScatter) {
#pragma unroll
            for (int i = 0; i < kWindow; i++) {
                const Real w = __ldg(table.weights(y) + i);
#pragma unroll
                for (int c = 0; c < 3; c++) held_[i][c] = fused(Real(pixel[c]), w, held_[i][c]);
            }
        } else {
            shift();
#pragma unroll
            for (int c = 0; c < 3; c++) held_[kWindow - 1][c] = pixel[c];
        }
    }

    __device__ __forceinline__ void take_output(const Table& table, int y, Real (&sums)[3]) {
#pragma unroll
        for (int c = 0; c < 3; c++) sums[c] = kScatter ? Real(held_[0][c]) : Real(0);
        if constexpr (kScatter) {
            shift();
        } else {
#pragma unroll
            for (int i = 0; i < kWindow; i++) {
                const Real w = __ldg(table.weights(y) + i);
#pragma unroll
                for (int c = 0; c < 3; c++) sums[c] = fused(Real(held_[i][c]), w, sums[c]);
            }
        }
    }

private:
    __device__ __forceinline__ void shift() {
#pragma unroll
        for (int c = 0; c < 3; c++) {
#pragma unroll
            for (int i = 1; i < kWindow; i++) held_[i - 1][c] = held_[i][c];
            held_[kWindow - 1][c] = 0;
        }
    }

    using Held = typename std::conditional<kScatter, Real, float>::type;
    Held held_[kWindow][3] = {};
};

}  // namespace fidfast
