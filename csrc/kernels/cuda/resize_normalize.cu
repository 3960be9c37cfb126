// Resize to 299 x 299, normalise, convert and hash, in one pass over the source rows.
//
// A block makes some columns (all 299 while the source rows fit its shared memory) of a strip of output rows. Source
// rows stream through it four at a time: copied to shared memory while the four before are worked on, turned into
// planes and hashed (source_rows.h), resized along x by a thread per output column, and added at once to the outputs
// that they belong to, which the same thread holds in registers. So a row is read and resized once per strip whatever
// the reduction, and nothing is written but the output.
//
// Bytes: strips share the source rows of the taps that cross their boundary: of 299 / strips output rows' worth, 3
// (bicubic) or 1 more. There are at most 20 strips, so at most 1.2 times the rows are asked for, while 1056 blocks
// (132 multiprocessors, two blocks each, four times) are wanted; with 100 images or more 1.1 times, and mostly from the
// second-level cache, since the strips of an image run side by side. Images too wide for one tile of columns are cut:
// then the tiles share up to 63 pixels and the taps across the boundary, 8 % at 2048 pixels.
//
// Speed on a GPU: not measured. Predictions, and what to try first: benchmarks/NOTES.md.
#include "kernels/cuda/resize_normalize.h"

#include <algorithm>

#include "kernels/cuda/resize_passes.h"
#include "kernels/cuda/source_rows.h"

namespace fidfast {
namespace {

constexpr int kImagesPerLaunch = 32;
constexpr int kMaxThreads = 320;        // 299 columns in whole warps
constexpr int kWantedBlocks = 1056;
constexpr int kMaxStrips = 20;
constexpr int kSharedBudget = 48 << 10;  // what every device grants unasked; four such blocks fit one multiprocessor

// Travels by value, in constant memory: no upload, and a CUDA graph keeps it.
struct Launch {
    DeviceImage images[kImagesPerLaunch];
    int64_t step;  // bytes from one image to the next where all are like images[0]; else 0
    int strips, tiles, columns;
    SharedLayout shared;
    SourceType source;
    FloatInput input;
    Output output;
    uint64_t* hashes;
    int32_t* unusable;
};
static_assert(sizeof(Launch) <= 4096, "what a kernel's arguments may take");

// ---------------------------------------------------------------------------------------------------------------------
// The kernel
// ---------------------------------------------------------------------------------------------------------------------

struct Place {  // of a block
    int64_t n;
    int strip, tile;
};

__device__ __forceinline__ Place place_of_block(const Launch& p) {
    const int per_image = p.strips * p.tiles, rest = int(blockIdx.x) % per_image;
    return {int64_t(blockIdx.x) / per_image, rest / p.tiles, rest % p.tiles};
}

// Brings the region's rows through the block; work(position) sees kRows unpacked ones, all threads together. Then adds
// up the hash and reports what is unusable.
template <Source kSource, typename Work>
__device__ __forceinline__ void stream_rows(const Launch& p, const DeviceImage& image, const Region& region,
                                            const Work& work) {
    const SourceRows<kSource> source(image, region, p.source, p.input, p.shared, p.hashes != nullptr);
    bool usable = true;
    source.copy(region.first_row, 0);
    async_commit();
    source.copy(region.first_row + kRows, 1);
    async_commit();
    for (int position = region.first_row, stage = 0; position < region.end_row; position += kRows, stage ^= 1) {
        async_wait<kStages - 1>();
        __syncthreads();  // these rows have landed, and the unpacked ones before them are done with
        usable &= source.unpack(position, stage);
        __syncthreads();
        source.copy(position + kStages * kRows, stage);
        async_commit();
        work(source, position);
    }
    if (p.hashes) {
        for (int j = 0; j < 2; j++) {
            uint64_t sum = source.sum(j);
            for (int bit = 16; bit; bit /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bit);
            // Sums modulo 2^64: the same in any order.
            if (threadIdx.x % 32 == 0)
                atomicAdd(reinterpret_cast<unsigned long long*>(p.hashes) + 2 * region.index + j,
                          static_cast<unsigned long long>(sum));
        }
    }
    if (!usable) atomicOr(p.unusable + region.index, 1);
}

// Blocks that share a multiprocessor's registers. Sums in double of float images spill on sm_80 with two.
template <typename Real, Source kSource>
constexpr int kBlocks = sizeof(Real) == 8 && kSource != Source::bytes ? 1 : 2;

template <typename Real, bool kScatter, int kWindow, Source kSource>
__global__ void __launch_bounds__(kMaxThreads, kBlocks<Real, kSource>) resize_kernel(const __grid_constant__ Launch p) {
    // Rows that a thread resizes together, so that a weight is loaded once for all. Two blocks leave 96 registers a
    // thread: twelve sums of four rows are too many where each takes two.
    constexpr int kBatch = sizeof(Real) == 8 ? 2 : kRows;
    const Place place = place_of_block(p);
    const DeviceImage& image = p.images[p.step ? 0 : place.n];
    const RowTable<Real, kScatter, kWindow> table{static_cast<const int32_t*>(image.rows), image.height};
    const int32_t* starts = static_cast<const int32_t*>(image.columns);
    const Real* weights = reinterpret_cast<const Real*>(starts + kTableOutputs);

    // Output rows and columns of this block, and the source pixels that they need or that are its own to hash.
    const int first_y = kOut * place.strip / p.strips, end_y = kOut * (place.strip + 1) / p.strips;
    const int first_x = place.tile * p.columns, end_x = min(kOut, first_x + p.columns);
    const int end_of_taps = __ldg(starts + end_x - 1) + image.chunks * kChunk;
    Region made;
    made.data = static_cast<const char*>(image.data) + (p.step ? place.n * p.step : 0);
    made.index = image.index + (p.step ? place.n : 0);
    made.first_x = place.tile ? __ldg(starts + first_x) & -kHashSegment : 0;
    made.own_end_x = (end_x < kOut ? __ldg(starts + end_x) : image.width + kHashSegment - 1) & -kHashSegment;
    const int needed_width = max(end_of_taps + kChunk, made.own_end_x) - made.first_x;
    made.width = (needed_width + kHashSegment - 1) & -kHashSegment;
    const int first_row = place.strip ? table.start(first_y) : 0, end_row = table.last(end_y - 1) + 1;
    made.own_end_y = end_y < kOut ? table.start(end_y) : image.height;
    // To hash, and to check floats, every row is visited. A filter that widens with the reduction needs them all.
    const bool visit_all = kScatter || p.hashes || kSource != Source::bytes;
    made.needed_rows = visit_all ? nullptr : table.needed();
    made.first_row = visit_all ? first_row : __ldg(table.rank() + first_row);
    made.end_row = !visit_all ? __ldg(table.rank() + end_row)
                     : p.hashes || kSource != Source::bytes ? max(end_row, made.own_end_y) : end_row;

    const Region& region = made.shared(p.shared);
    const int x = min(first_x + int(threadIdx.x), end_x - 1);
    const int warp_x = first_x + (int(threadIdx.x) & ~31), columns = min(32, end_x - warp_x);
    float* turned = reinterpret_cast<float*>(dynamic_shared<char>() + p.shared.turned()) + 3 * (threadIdx.x & ~31u);
    const int at = __ldg(starts + x) - region.first_x;
    const Real* column_weights = weights + x * kChunk;
    Column<Real, kScatter, kWindow> column;
    int y = kScatter ? table.open(first_y) : first_y;  // the next output; those before first_y are not ours
    int due = table.last(y);                           // the source row that completes it

    stream_rows<kSource>(p, image, region, [&](const SourceRows<kSource>& source, int position) {
        const int rows = min(kRows, region.end_row - position);
        if constexpr (!kScatter)
            if (visit_all && !table.any_needed(position, position + rows)) return;
#pragma unroll 1
        for (int first = 0; first < rows; first += kBatch) {
            float values[kBatch][3];
            const char* unpacked = source.unpacked(first, 0);
            if constexpr (sizeof(Real) == 4) {
                if (image.two_taps)
                    two_taps_along_x<kBatch, kSource>(unpacked, p.shared.plane, at, column_weights, values);
                else
                    resize_along_x<Real, kBatch, kSource>(unpacked, p.shared.plane, at, column_weights, image.chunks,
                                                          values);
            } else {
                resize_along_x<Real, kBatch, kSource>(unpacked, p.shared.plane, at, column_weights, image.chunks,
                                                      values);
            }
#pragma unroll 1
            for (int row = first; row < min(rows, first + kBatch); row++) {
                const int source_y = region.row_at(position + row);
                if (kScatter || !visit_all || table.any_needed(source_y, source_y + 1))
                    column.add_row(table, source_y, values[0]);
                while (y < end_y && due == source_y) {
                    Real sums[3];
                    column.take_output(table, y, sums);
                    if (y >= first_y) emit(p.output, region.index, y, warp_x, columns, sums, turned);
                    y++;
                    due = table.last(y);
                }
#pragma unroll
                for (int i = 0; i < 3 * (kBatch - 1); i++) values[i / 3][i % 3] = values[i / 3 + 1][i % 3];
            }
        }
    });
}

template <Source kSource>
__global__ void __launch_bounds__(kMaxThreads, 2) hash_kernel(const __grid_constant__ Launch p) {
    const Place place = place_of_block(p);
    const DeviceImage& image = p.images[p.step ? 0 : place.n];
    const int first_x = place.tile * p.columns;
    const int width = min(p.columns, image.width - first_x);
    if (width <= 0) return;  // a narrow image among wide ones
    Region made;
    made.data = static_cast<const char*>(image.data) + (p.step ? place.n * p.step : 0);
    made.index = image.index + (p.step ? place.n : 0);
    made.first_x = first_x;
    made.width = (width + kHashSegment - 1) & -kHashSegment;
    made.own_end_x = first_x + made.width;
    made.first_row = int(int64_t(image.height) * place.strip / p.strips);
    made.end_row = made.own_end_y = int(int64_t(image.height) * (place.strip + 1) / p.strips);
    made.needed_rows = nullptr;
    stream_rows<kSource>(p, image, made.shared(p.shared), [](const SourceRows<kSource>&, int) {});
}

__global__ void finish_hash_kernel(const __grid_constant__ Launch p, int64_t count) {
    const int64_t n = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n >= count) return;
    const DeviceImage& image = p.images[p.step ? 0 : n];
    uint64_t* hash = p.hashes + 2 * (image.index + (p.step ? n : 0));
    for (int j = 0; j < 2; j++) hash[j] = finish_hash(hash[j], image.height, image.width);
}

// ---------------------------------------------------------------------------------------------------------------------
// Launching
// ---------------------------------------------------------------------------------------------------------------------

using Kernel = void (*)(const Launch);

Source source_of(const ResizeNormalizeParams& params) {
    if (params.source == SourceType::uint8) return Source::bytes;
    return params.out && params.input.quantize == Quantize::none ? Source::floats : Source::quantised;
}

template <typename Real, bool kScatter, int kWindow>
Kernel kernel_for(Source source) {
    return source == Source::bytes       ? resize_kernel<Real, kScatter, kWindow, Source::bytes>
           : source == Source::quantised ? resize_kernel<Real, kScatter, kWindow, Source::quantised>
                                         : resize_kernel<Real, kScatter, kWindow, Source::floats>;
}

Kernel kernel_for(const ResizeNormalizeParams& params, bool scatter) {
    const Source source = source_of(params);
    if (!params.out) return source == Source::bytes ? hash_kernel<Source::bytes> : hash_kernel<Source::quantised>;
    if (params.preset.sum_in_double)
        return scatter ? kernel_for<double, true, 5>(source) : kernel_for<double, false, 4>(source);
    return scatter ? kernel_for<float, true, 3>(source) : kernel_for<float, false, 2>(source);
}

// Widest region of a tile of `columns` outputs (only hashed: of source pixels) of an image. Starts of neighbouring
// outputs lie width / 299 apart, two more for their rounding; then 63 of the first's segment, the last one's taps and
// the word behind them; in whole segments.
int64_t region_width(const Launch& p, const DeviceImage& image, int64_t columns) {
    const int64_t width = image.width, behind = (image.chunks + 1) * kChunk;
    const int64_t widest = p.output.data ? std::min(columns * width / kOut + 2 + 63, width) + behind
                                         : std::min(columns, width);
    return (widest + kHashSegment - 1) / kHashSegment * kHashSegment;
}

// 1024 pixels wide, all 299 outputs: 576 bytes, 5 KB of sums, two stages of four raw rows of 3 (1024 + 32) bytes, four
// unpacked ones of 3 (1088 + 16), 3.75 KB to turn outputs: 47 KB.
SharedLayout shared_layout(const Launch& p, int64_t images, int64_t columns, Source source) {
    SharedLayout shared{};
    for (int64_t i = 0; i < images; i++) {
        const DeviceImage& image = p.images[i];
        const int64_t width = region_width(p, image, columns), inside = (int64_t(image.width) + 15) / 16 * 16;
        shared.plane = std::max(shared.plane, int(width + 16) * (source == Source::floats ? 4 : 1));
        if (image.layout != Layout::any)  // 15 bytes in front, whole pieces
            shared.raw_plane = std::max(shared.raw_plane, int(std::min(width, inside) + 32));
    }
    shared.threads = p.output.data ? int(columns + 31) / 32 * 32 : kMaxThreads;
    return shared;
}

// One kernel for all of `images`, which run by the same method; `count` of them if they are all like the first.
cudaError_t launch_together(const ResizeNormalizeParams& params, Launch& p, int64_t images, int64_t count,
                            cudaStream_t stream) {
    int64_t outputs = kOut;
    if (!params.out) {
        outputs = 1;
        for (int64_t i = 0; i < images; i++) outputs = std::max<int64_t>(outputs, p.images[i].width);
    }
    // As few tiles of columns as fit the budget. Only hashed, a tile is a multiple of a segment.
    p.tiles = 0;
    do {
        p.tiles++;
        p.columns = int((outputs + p.tiles - 1) / p.tiles);
        if (!params.out) p.columns = (p.columns + kHashSegment - 1) & -kHashSegment;
        p.shared = shared_layout(p, images, p.columns, source_of(params));
    } while (p.shared.total() > kSharedBudget && p.columns > 1 && p.tiles < outputs);
    if (p.shared.total() > kSharedBudget) return cudaErrorInvalidValue;
    p.tiles = int((outputs + p.columns - 1) / p.columns);
    const int64_t wanted = (kWantedBlocks + count * p.tiles - 1) / (count * p.tiles);
    p.strips = int(std::min<int64_t>(wanted, kMaxStrips));
    const int64_t per_launch = (int64_t(1) << 31) / (p.strips * p.tiles) - 1;  // the grid's limit
    for (int64_t first = 0; first < count; first += per_launch) {
        const int64_t now = std::min(count - first, per_launch);
        const unsigned blocks = unsigned(now * p.strips * p.tiles);
        const Kernel kernel = kernel_for(params, p.images[0].scatter);
        cudaError_t error = launch(kernel, dim3(blocks), dim3(unsigned(p.shared.threads)),
                                   size_t(p.shared.total()), stream, p);
        if (error == cudaSuccess && p.hashes)
            error = launch(finish_hash_kernel, dim3(unsigned((now + 127) / 128)), dim3(128), 0, stream, p, now);
        if (error != cudaSuccess) return error;
        p.images[0].data = static_cast<const char*>(p.images[0].data) + per_launch * p.step;
        p.images[0].index += per_launch;
    }
    return cudaSuccess;
}

// The distance between images that differ in nothing but their place, which is the same from each to the next; else 0.
int64_t common_step(const DeviceImage* images, int64_t count) {
    if (count < 2) return 0;
    const char* first = static_cast<const char*>(images[0].data);
    const int64_t step = static_cast<const char*>(images[1].data) - first;
    for (int64_t i = 1; i < count; i++) {
        const DeviceImage &a = images[0], &b = images[i];
        if (static_cast<const char*>(b.data) - first != i * step || b.index != a.index + i || a.width != b.width ||
            a.height != b.height || a.stride_c != b.stride_c || a.stride_y != b.stride_y ||
            a.stride_x != b.stride_x || a.columns != b.columns || a.rows != b.rows)
            return 0;
    }
    return step;
}

}  // namespace

cudaError_t launch_resize_normalize(const ResizeNormalizeParams& params, cudaStream_t stream) {
    Launch p{};
    p.source = params.source;
    p.input = params.input;
    p.output = {params.out,          params.out_type,     params.channels_last, params.preset.centre,
                params.preset.scale, params.preset.clip};
    p.hashes = params.hashes;
    p.unusable = params.unusable;
    if (params.count == 0) return cudaSuccess;
    p.step = common_step(params.images, params.count);
    if (p.step) {
        p.images[0] = params.images[0];
        return launch_together(params, p, 1, params.count, stream);
    }
    for (bool scatter : {false, true}) {
        int64_t gathered = 0;
        for (int64_t i = 0; i <= params.count; i++) {
            const bool full = gathered == kImagesPerLaunch || (i == params.count && gathered > 0);
            if (full) {
                const cudaError_t error = launch_together(params, p, gathered, gathered, stream);
                if (error != cudaSuccess) return error;
                gathered = 0;
            }
            if (i < params.count && params.images[i].scatter == scatter) p.images[gathered++] = params.images[i];
        }
    }
    return cudaSuccess;
}

}  // namespace fidfast
