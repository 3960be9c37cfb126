// One 64 x 64 tile of a symmetric float64 product by one block: what covariance.cu and symmetric_product.cu share.
//
// Only tiles on and below the diagonal exist, and each belongs to one block: no atomics, the same bits every time.
// Why 64: 4 warps hold 32 x 32 sums each, 64 registers a thread, so 4 blocks fit an SM; D = 2048 makes 528 tiles, which
// is 4 for each of 132 SMs: one full wave of an H200. 128 would halve the traffic but make 136 tiles, two waves.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/mma.h"

namespace fidfast {

constexpr int kTile = 64;
constexpr int kTileThreads = 128;
constexpr int kDepth = 16;  // k of one stage in shared memory
// A half-warp reads 4 k x 4 columns of doubles at once, 16 of the 16 places that shared memory serves in a cycle. A
// padding of 4 puts neighbours along the slow axis 4 places apart: all 16 differ.
constexpr int kSlabRow = kTile + 4;    // slab [k][column]
constexpr int kSlabColumn = kDepth + 4;  // slab [column][k]

struct TilePlace {
    int64_t row, column;  // in tiles, row >= column
};

inline int64_t tiles_across(int64_t d) { return (d + kTile - 1) / kTile; }
inline int64_t lower_tiles(int64_t d) { return tiles_across(d) * (tiles_across(d) + 1) / 2; }

// Tiles are counted along the rows of the lower triangle.
__device__ inline TilePlace tile_place(int64_t index) {
    int64_t row = int64_t((sqrtf(8.0f * float(index) + 1.0f) - 1.0f) * 0.5f);
    while (row * (row + 1) / 2 > index) row--;
    while ((row + 1) * (row + 2) / 2 <= index) row++;
    return {row, index - row * (row + 1) / 2};
}

// D (16 x 8) += A (16 x 4) B (4 x 8). A thread, with g = lane / 4 and t = lane % 4, gives A[g][t], A[g + 8][t] and
// B[t][g], and holds D[g][2t], D[g][2t + 1], D[g + 8][2t], D[g + 8][2t + 1].
__device__ inline void mma_f64_16x8x4(double (&d)[4], double a0, double a1, double b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile(
        "mma.sync.aligned.m16n8k4.row.col.f64.f64.f64.f64 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+d"(d[0]), "+d"(d[1]), "+d"(d[2]), "+d"(d[3])
        : "d"(a0), "d"(a1), "d"(b));
#else
    mma_f64_8x8x4(d[0], d[1], a0, b);
    mma_f64_8x8x4(d[2], d[3], a1, b);
#endif
}

// The sums of one thread: warp w makes rows 32 (w / 2) and columns 32 (w % 2) onwards of the tile.
struct TileSums {
    double value[2][4][4] = {};

    // Adds the product of two slabs; element (k, column) of a slab lies at k * kStepK + column * kStepColumn.
    template <int kStepK, int kStepColumn>
    __device__ void add(const double* left, const double* right) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
        left += (warp / 2 * 32 + g) * kStepColumn + t * kStepK;
        right += (warp % 2 * 32 + g) * kStepColumn + t * kStepK;
#pragma unroll
        for (int k = 0; k < kDepth; k += 4) {
            const double* a = left + k * kStepK;
            const double* b = right + k * kStepK;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const double across = b[j * 8 * kStepColumn];
#pragma unroll
                for (int i = 0; i < 2; i++)
                    mma_f64_16x8x4(value[i][j], a[i * 16 * kStepColumn], a[(i * 16 + 8) * kStepColumn], across);
            }
        }
    }

    // use(row, column, value) for each sum of this thread, places within the tile.
    template <typename Use>
    __device__ void each(Use use) const {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const int row = warp / 2 * 32 + lane / 4, column = warp % 2 * 32 + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
                for (int q = 0; q < 4; q++) use(row + 16 * i + 8 * (q / 2), column + 8 * j + q % 2, value[i][j][q]);
    }
};

// The warp whose 32 x 32 of a tile on the diagonal lies above it: nothing that it would add is kept.
__device__ inline bool above_diagonal() { return threadIdx.x / 32 == 1; }

}  // namespace fidfast
