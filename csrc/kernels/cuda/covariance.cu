// Σ(x - k) and the lower triangle of Σ(x - k)(x - k)ᵀ by float64 tensor cores, in one pass over the rows.
//
// A block makes one 64 x 64 tile over all rows of its group. 16 rows of the tile's two column slabs are widened to
// float64, shifted and laid in shared memory while the 16 rows before them are multiplied; no float64 copy of the rows
// ever exists in device memory. Speed on a GPU: not measured.
#include "kernels/cuda/covariance.h"

#include <cuda_fp16.h>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/symmetric_tile.h"

namespace fidfast {
namespace {

// Two stages of two slabs of 16 x 68 doubles and the two slabs' shift: 35,840 bytes; four blocks take 140 KB of an SM.
constexpr int kSlab = kDepth * kSlabRow;
constexpr int kSharedBytes = (4 * kSlab + 2 * kTile) * int(sizeof(double));

// A thread moves two columns of 4 of the 16 rows of a slab: its 16-byte stores to shared memory then meet no bank
// conflict, which four columns would; a warp still reads 256 (or 128) bytes of a row side by side.
constexpr int kPairs = kTile / 2;
constexpr int kRowsAtOnce = kTileThreads / kPairs;
constexpr int kPasses = kDepth / kRowsAtOnce;

struct alignas(16) DoublePair {
    double x, y;
};

template <FeatureType type>
struct Pair;  // the bits of two neighbouring features

template <>
struct Pair<FeatureType::float32> {
    using Element = uint32_t;
    struct alignas(8) Bits {
        uint32_t x, y;
    };
    static __device__ Bits make(uint32_t x, uint32_t y) { return {x, y}; }
    static __device__ float first(Bits bits) { return __uint_as_float(bits.x); }
    static __device__ float second(Bits bits) { return __uint_as_float(bits.y); }
};

struct HalfPair {
    using Element = uint16_t;
    using Bits = uint32_t;
    static __device__ Bits make(uint16_t x, uint16_t y) { return uint32_t(x) | uint32_t(y) << 16; }
};

template <>
struct Pair<FeatureType::bfloat16> : HalfPair {
    static __device__ float first(Bits bits) { return __uint_as_float(bits << 16); }
    static __device__ float second(Bits bits) { return __uint_as_float(bits & 0xffff0000u); }
};

template <>
struct Pair<FeatureType::float16> : HalfPair {
    static __device__ float first(Bits bits) { return __half2float(__ushort_as_half(uint16_t(bits))); }
    static __device__ float second(Bits bits) { return __half2float(__ushort_as_half(uint16_t(bits >> 16))); }
};

// The rows first, first + step, ... of one group, and the two columns of a slab that this thread moves.
template <FeatureType type>
struct SlabReader {
    using Bits = typename Pair<type>::Bits;
    using Element = typename Pair<type>::Element;

    const Element* column;  // of the group's row that this thread moves next
    int inside;             // how many of the two columns exist
    Bits held[kPasses];

    // Rows of the group lie `step` elements apart.
    __device__ void read(int64_t step, bool aligned, int64_t rows_left) {
        const int row = threadIdx.x / kPairs;
#pragma unroll
        for (int pass = 0; pass < kPasses; pass++) {
            const int ahead = pass * kRowsAtOnce;
            const Element* from = column + ahead * step;
            held[pass] = Pair<type>::make(0, 0);
            if (row + ahead < rows_left && inside > 0) {
                if (inside == 2 && aligned)
                    held[pass] = *reinterpret_cast<const Bits*>(from);
                else
                    held[pass] = Pair<type>::make(from[0], inside == 2 ? from[1] : Element(0));
            }
        }
        column += kDepth * step;
    }

    __device__ void store(double* slab, const double* shift, int64_t rows_left) const {
        const int row = threadIdx.x / kPairs, pair = threadIdx.x % kPairs;
        const DoublePair offset = *reinterpret_cast<const DoublePair*>(shift + 2 * pair);
#pragma unroll
        for (int pass = 0; pass < kPasses; pass++) {
            const int to = row + pass * kRowsAtOnce;
            const bool exists = to < rows_left;  // a row that does not must add nothing, so not minus the shift
            const DoublePair value = {exists ? double(Pair<type>::first(held[pass])) - offset.x : 0.0,
                                      exists ? double(Pair<type>::second(held[pass])) - offset.y : 0.0};
            *reinterpret_cast<DoublePair*>(slab + to * kSlabRow + 2 * pair) = value;
        }
    }
};

template <FeatureType type>
__global__ void __launch_bounds__(kTileThreads, 4) covariance_kernel(CovarianceParams p) {
    using Element = typename Pair<type>::Element;
    double* slabs = dynamic_shared<double>();
    double* shift = slabs + 4 * kSlab;
    const TilePlace tile = tile_place(blockIdx.x);
    const bool diagonal = tile.row == tile.column;
    const int64_t group = blockIdx.y;
    const int64_t skipped = ((group - p.first_index) % p.groups + p.groups) % p.groups;
    const int64_t count = skipped < p.n ? (p.n - skipped + p.groups - 1) / p.groups : 0;
    if (count == 0) return;

    const int row = threadIdx.x / kPairs, pair = threadIdx.x % kPairs;
    const int64_t step = p.groups * p.row_stride;
    const bool aligned = reinterpret_cast<uintptr_t>(p.rows) % (2 * sizeof(Element)) == 0 && p.row_stride % 2 == 0;
    const auto reader = [&](int64_t tile_column) {
        const int64_t column = tile_column * kTile + 2 * pair, left = p.d - column;
        const Element* rows = static_cast<const Element*>(p.rows) + skipped * p.row_stride;
        SlabReader<type> made;
        made.column = rows + row * step + column;
        made.inside = left >= 2 ? 2 : int(left);
        return made;
    };
    SlabReader<type> left = reader(tile.row), right = reader(tile.column);
    const int64_t shift_column = (threadIdx.x < kTile ? tile.row : tile.column) * kTile + threadIdx.x % kTile;
    shift[threadIdx.x] = shift_column < p.d ? double(p.shift[shift_column]) : 0.0;
    __syncthreads();

    TileSums sums;
    // In a diagonal tile the warp above the diagonal adds up columns lane and lane + 32, in two of its 32 sums.
    double &total_x = sums.value[0][0][0], &total_y = sums.value[0][0][1];
    left.read(step, aligned, count);
    if (!diagonal) right.read(step, aligned, count);
    double* a = slabs;
    for (int64_t rows_left = count; rows_left > 0; rows_left -= kDepth) {
        double* b = diagonal ? a : a + kSlab;
        left.store(a, shift, rows_left);
        if (!diagonal) right.store(b, shift + kTile, rows_left);
        __syncthreads();  // also: every warp is through with the other stage, which is written next
        left.read(step, aligned, rows_left - kDepth);
        if (!diagonal) right.read(step, aligned, rows_left - kDepth);
        if (!diagonal || !above_diagonal()) {
            sums.add<kSlabRow, 1>(a, b);
        } else {
#pragma unroll
            for (int k = 0; k < kDepth; k++) {
                total_x += a[k * kSlabRow + threadIdx.x % 32];
                total_y += a[k * kSlabRow + threadIdx.x % 32 + 32];
            }
        }
        a = a == slabs ? slabs + 2 * kSlab : slabs;
    }

    double* scatter = p.scatter + group * p.d * p.d;
    sums.each([&](int tile_row, int tile_column, double value) {
        const int64_t i = tile.row * kTile + tile_row, j = tile.column * kTile + tile_column;
        if (i < p.d && j <= i) scatter[i * p.d + j] += value;
    });
    if (diagonal && above_diagonal()) {
        const int64_t column = tile.row * kTile + threadIdx.x % 32;
        double* total = p.total + group * p.d;
        if (column < p.d) total[column] += total_x;
        if (column + 32 < p.d) total[column + 32] += total_y;
    }
}

}  // namespace

cudaError_t launch_covariance(const CovarianceParams& p, cudaStream_t stream) {
    if (p.n == 0 || p.d == 0) return cudaSuccess;
    constexpr int64_t kMostTiles = 0x7fffffff, kMostGroups = 65535;  // a grid's limits
    if (p.groups < 1 || p.groups > kMostGroups || lower_tiles(p.d) > kMostTiles) return cudaErrorInvalidValue;
    const dim3 grid(unsigned(lower_tiles(p.d)), unsigned(p.groups));
    switch (p.type) {
    case FeatureType::float32:
        return launch(covariance_kernel<FeatureType::float32>, grid, dim3(kTileThreads), kSharedBytes, stream, p);
    case FeatureType::float16:
        return launch(covariance_kernel<FeatureType::float16>, grid, dim3(kTileThreads), kSharedBytes, stream, p);
    case FeatureType::bfloat16:
        return launch(covariance_kernel<FeatureType::bfloat16>, grid, dim3(kTileThreads), kSharedBytes, stream, p);
    }
    return cudaErrorInvalidValue;
}

}  // namespace fidfast
