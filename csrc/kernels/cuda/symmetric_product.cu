// alpha XᵀY + beta E + gamma I in float64 where the result is symmetric: lower tiles by tensor cores, mirrored.
//
// A block makes one 64 x 64 tile. While 16 rows of X and Y are multiplied, the next 16 are copied to shared memory by
// asynchronous copies. Speed on a GPU, and whether cuBLAS is faster: not measured; fidfast/ops/symmetric_product.py has
// the table that chooses.
#include "kernels/cuda/symmetric_product.h"

#include "kernels/cuda/async_copy.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/symmetric_tile.h"

namespace fidfast {
namespace {

// Two stages of two slabs: 34,816 bytes where k is the slow axis (16 x 68 doubles a slab), 40,960 where it is the fast
// one (64 x 20). Four blocks take 136 or 160 KB of an SM's 228 (sm_90) or 164 (sm_80).
template <bool kRowsApart>
constexpr int kSlab = kRowsApart ? kDepth * kSlabRow : kTile * kSlabColumn;
template <bool kRowsApart>
constexpr int kSharedBytes = 4 * kSlab<kRowsApart> * int(sizeof(double));

constexpr int kPairs = kTile * kDepth / 2;  // of neighbouring doubles in a slab
constexpr int kPasses = kPairs / kTileThreads;

// One matrix's slabs, 16 rows of 64 columns each, one after another into shared memory; zeros for what does not exist.
// A thread copies the same place of every slab: 4 pairs of doubles along the fast axis, some steps apart on the slow.
template <bool kRowsApart>
struct SlabCopier {
    static constexpr int kFast = kRowsApart ? kTile : kDepth, kAcross = kFast / 2;
    static constexpr int kStride = kRowsApart ? kSlabRow : kSlabColumn;
    static constexpr int kApart = kTileThreads / kAcross;

    const double* from;
    int64_t stride, columns_left;  // the latter from this thread's first

    __device__ SlabCopier(const MatrixView& matrix, int64_t column, int64_t d) : stride(matrix.stride) {
        const int64_t mine = column + (kRowsApart ? fast() : slow());
        from = matrix.data + (kRowsApart ? slow() * stride + mine : mine * stride + fast());
        columns_left = d - mine;
    }

    static __device__ int slow() { return int(threadIdx.x) / kAcross; }
    static __device__ int fast() { return int(threadIdx.x) % kAcross * 2; }

    __device__ void copy(double* slab, int64_t rows_left, bool aligned) {
        double* to = slab + slow() * kStride + fast();
#pragma unroll
        for (int pass = 0; pass < kPasses; pass++) {
            const int64_t fast_left = kRowsApart ? columns_left : rows_left - fast();
            const int64_t slow_left = (kRowsApart ? rows_left - slow() : columns_left) - pass * kApart;
            const bool exists = slow_left > 0 && fast_left > 0;
            const double* source = from + pass * kApart * stride;
            if (aligned) {  // both of a pair exist or neither: whole copies or none, which the hardware does at once
                async_copy_16(to + pass * kApart * kStride, source, exists ? 16 : 0);
            } else {
                async_copy_8(to + pass * kApart * kStride, source, exists ? 8 : 0);
                async_copy_8(to + pass * kApart * kStride + 1, source + 1, exists && fast_left > 1 ? 8 : 0);
            }
        }
        from += kRowsApart ? kDepth * stride : kDepth;
    }
};

__device__ inline bool is_aligned(const MatrixView& matrix) {
    return reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0 && matrix.stride % 2 == 0;
}

template <bool kRowsApart>
__global__ void __launch_bounds__(kTileThreads, 4) symmetric_product_kernel(SymmetricProductParams p) {
    double* slabs = dynamic_shared<double>();
    const TilePlace tile = tile_place(blockIdx.x);
    const bool diagonal = tile.row == tile.column;
    const bool same = diagonal && p.x.data == p.y.data && p.x.stride == p.y.stride;  // one slab is both
    const bool aligned = is_aligned(p.x) && is_aligned(p.y) && (kRowsApart ? p.d : p.m) % 2 == 0;
    SlabCopier<kRowsApart> left(p.x, tile.row * kTile, p.d), right(p.y, tile.column * kTile, p.d);
    const auto copy_stage = [&](int64_t first) {
        double* slab = slabs + first / kDepth % 2 * 2 * kSlab<kRowsApart>;
        left.copy(slab, p.m - first, aligned);
        if (!same) right.copy(slab + kSlab<kRowsApart>, p.m - first, aligned);
        async_commit();
    };

    TileSums sums;
    if (p.m > 0) copy_stage(0);
    for (int64_t first = 0; first < p.m; first += kDepth) {
        async_wait<0>();
        __syncthreads();  // the stage is there for every warp, and every warp is through with the one before it
        if (first + kDepth < p.m) copy_stage(first + kDepth);
        const double* x = slabs + first / kDepth % 2 * 2 * kSlab<kRowsApart>;
        const double* y = same ? x : x + kSlab<kRowsApart>;
        if (!diagonal || !above_diagonal()) {
            if (kRowsApart)
                sums.add<kSlabRow, 1>(x, y);
            else
                sums.add<1, kSlabColumn>(x, y);
        }
    }

    sums.each([&](int tile_row, int tile_column, double value) {
        const int64_t i = tile.row * kTile + tile_row, j = tile.column * kTile + tile_column;
        if (i >= p.d || j > i) return;
        double result = p.alpha * value;
        if (p.addend) result += p.beta * p.addend[i * p.addend_stride + j];
        if (i == j) result += p.gamma;
        p.out[i * p.d + j] = result;
        p.out[j * p.d + i] = result;
    });
}

}  // namespace

cudaError_t launch_symmetric_product(const SymmetricProductParams& p, cudaStream_t stream) {
    if (p.d == 0) return cudaSuccess;
    constexpr int64_t kMostTiles = 0x7fffffff;  // a grid's limit
    if (lower_tiles(p.d) > kMostTiles) return cudaErrorInvalidValue;
    const dim3 grid(unsigned(lower_tiles(p.d))), block(kTileThreads);
    return p.rows_apart ? launch(symmetric_product_kernel<true>, grid, block, kSharedBytes<true>, stream, p)
                        : launch(symmetric_product_kernel<false>, grid, block, kSharedBytes<false>, stream, p);
}

}  // namespace fidfast
