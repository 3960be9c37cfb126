// Source rows of one image on their way through a block of resize_normalize.cu: from global memory, by asynchronous
// copies of 16 bytes where the layout allows, into `raw` rows as they lie in memory; from there, sixteen pixels a
// thread, into planes that all have the same alignment, and into the content hash.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/content_hash.h"
#include "kernels/cuda/async_copy.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/resize_normalize.h"

namespace fidfast {

constexpr int kRows = 4;    // source rows that go through a block together
constexpr int kStages = 2;  // raw rows being copied while others are worked on
constexpr int kItem = 16;   // pixels that a thread unpacks: a quarter of a segment of the hash

// Shared memory of a block, in this order; every part begins on 16 bytes.
struct SharedLayout {
    int raw_plane;  // bytes of a channel of a raw row (interleaved: a third of the row); 0 if nothing is copied raw
    int plane;      // bytes of a channel of an unpacked row
    int threads;

    __host__ __device__ int region() const { return 2 * kHashSegment * 4; }
    __host__ __device__ int sums() const { return region() + 64; }
    __host__ __device__ int raw_rows() const { return sums() + threads * 2 * 8; }
    __host__ __device__ int planes() const { return raw_rows() + kStages * kRows * 3 * raw_plane; }
    __host__ __device__ int turned() const { return planes() + kRows * 3 * plane; }
    __host__ __device__ int total() const { return turned() + threads * 3 * 4; }
};

// The rectangle of source pixels that a block brings in, and what of it is this block's own: to hash and to check.
struct Region {
    const char* data;            // the image's first byte
    int64_t index;               // the image's, in the batch
    int first_x, width;          // columns: both multiples of kHashSegment; may pass the image's edge
    int own_end_x;               // own columns: whole segments, first_x .. own_end_x - 1
    int first_row, end_row;      // positions of rows: themselves, or in the table of the needed ones
    int own_end_y;               // own rows: those before this one
    const int32_t* needed_rows;  // null: every row is visited

    // Threads keep it in shared memory: their registers are for sums.
    __device__ const Region& shared(const SharedLayout& layout) const {
        static_assert(sizeof(Region) <= 64);
        Region* to = reinterpret_cast<Region*>(dynamic_shared<char>() + layout.region());
        if (threadIdx.x == 0) *to = *this;
        __syncthreads();
        return *to;
    }

    __device__ int row_at(int position) const { return needed_rows ? __ldg(needed_rows + position) : position; }
};

// Four pixels: one word of four bytes a channel.
struct FourPixels {
    uint32_t red, green, blue;

    // R | G << 8 | B << 16 of pixel k
    __device__ uint32_t packed(int k) const {
        const uint32_t two = __byte_perm(red, green, unsigned(k | (4 + k) << 4));
        return __byte_perm(two, blue, unsigned(0x10 | (4 + k) << 8)) & 0xffffffu;
    }
};

__device__ __forceinline__ float load_float(const void* data, int64_t at, SourceType type) {
    if (type == SourceType::float32) return __ldg(static_cast<const float*>(data) + at);
    if (type == SourceType::float16) return __half2float(__ldg(static_cast<const __half*>(data) + at));
    return __bfloat162float(__ldg(static_cast<const __nv_bfloat16*>(data) + at));
}

// What comes in and what unpacked rows hold: bytes of bytes, bytes of floats, or floats on the scale 0..255.
enum class Source { bytes, quantised, floats };

template <Source kSource>
class SourceRows {
public:
    // `type` says which floats
    __device__ SourceRows(const DeviceImage& image, const Region& region, SourceType type, const FloatInput& input,
                          const SharedLayout& layout, bool hash)
        : image_(image), region_(region), type_(type), input_(input), layout_(layout), hash_(hash) {
        // The keys of content_hash.h: read by every thread, four at a time.
        uint32_t* keys = dynamic_shared<uint32_t>();
        for (int i = int(threadIdx.x); i < 2 * kHashSegment; i += int(blockDim.x)) keys[i] = hash_key(i);
        for (int j = 0; j < 2; j++) sum(j) = 0;
    }

    // What the thread's own pixels add to half j of the hash: in shared memory, registers are for the resize.
    __device__ uint64_t& sum(int j) const {
        return reinterpret_cast<uint64_t*>(dynamic_shared<char>() + layout_.sums())[j * blockDim.x + threadIdx.x];
    }

    // Asks for the rows of one step: kRows rows from `position`.
    __device__ void copy(int position, int stage) const {
        if (kSource != Source::bytes || image_.layout == Layout::any) return;
        const int channels = image_.layout == Layout::planes ? 3 : 1;
        const int bytes = (min(region_.first_x + region_.width, image_.width) - region_.first_x) * (4 - channels);
        const int rows = min(kRows, region_.end_row - position), lane = int(threadIdx.x) % 32;
        for (int i = int(threadIdx.x) / 32; i < rows * channels; i += int(blockDim.x) / 32) {
            const int row = i / channels, channel = i - row * channels;
            const char* source = row_start(region_.row_at(position + row), channel);
            const char* from = source - misalignment(source);
            char* to = raw_row(stage, row, channel);
            for (int at = 16 * lane; from + at < source + bytes; at += 16 * 32) {
                const char* piece = from + at;
                if (piece >= region_.data && region_.data + image_.extent - piece >= 16)
                    async_copy_16(to + at, piece);
                else  // past the image's first or last byte: perhaps nobody's memory
#pragma unroll 1
                    for (int k = 0; k < 16; k++) {
                        const int64_t place = piece + k - region_.data;
                        if (place >= 0 && place < image_.extent) to[at + k] = piece[k];
                    }
            }
        }
    }

    // Rows of one step -> planes, hash, check; copies have landed and are visible. False if one of the
    // thread's values is unusable.
    __device__ bool unpack(int position, int stage) const {
        const int items = region_.width / kItem;  // of a row: a multiple of four, so that a segment lies in four lanes
        const int total = min(kRows, region_.end_row - position) * items;
        bool usable = true;
        for (int first = int(threadIdx.x) & ~31; first < total; first += int(blockDim.x)) {
            const int i = first + int(threadIdx.x) % 32;
            const int row = min(i, total - 1) / items, item = min(i, total - 1) - row * items;
            const int x = region_.first_x + item * kItem, y = region_.row_at(position + row);
            const bool own = i < total && y < region_.own_end_y && x < region_.own_end_x;
            uint64_t products[2] = {0, 0};
            if (i < total) {
                if constexpr (kSource != Source::bytes)
                    usable &= unpack_floats(row, item, x, y, own, products);
                else if (image_.layout == Layout::interleaved)
                    unpack_interleaved(row, item, x, y, stage, own, products);
                else if (image_.layout == Layout::planes)
                    unpack_planes(row, item, x, y, stage, own, products);
                else
                    unpack_any(row, item, x, y, own, products);
            }
            if (!hash_) continue;
            for (int j = 0; j < 2; j++) {
                products[j] += __shfl_xor_sync(0xffffffffu, products[j], 1);
                products[j] += __shfl_xor_sync(0xffffffffu, products[j], 2);
                if (own && item % 4 == 0) sum(j) += mix_segment(j, products[j], y, x / kHashSegment);
            }
        }
        return usable;
    }

    __device__ const char* unpacked(int row, int channel) const {
        return dynamic_shared<char>() + layout_.planes() + (row * 3 + channel) * layout_.plane;
    }

private:
    static __device__ uint32_t hash_key(int i) {
        return uint32_t((1u << 30) + (mix64(uint64_t(i + 1) * kGolden) >> 33));
    }

    static __device__ int misalignment(const char* pointer) { return int(reinterpret_cast<uintptr_t>(pointer) & 15); }

    // First byte of the region in a row, or in one channel of it.
    __device__ const char* row_start(int y, int channel) const {
        return region_.data + y * image_.stride_y + channel * image_.stride_c + region_.first_x * image_.stride_x;
    }

    __device__ char* raw_row(int stage, int row, int channel) const {
        return dynamic_shared<char>() + layout_.raw_rows() +
               ((stage * kRows + row) * 3 + channel) * layout_.raw_plane;
    }

    __device__ void store(int row, int item, int group, const FourPixels& four) const {
        char* to = dynamic_shared<char>() + layout_.planes() + row * 3 * layout_.plane + item * kItem + group * 4;
        *reinterpret_cast<uint32_t*>(to) = four.red;
        *reinterpret_cast<uint32_t*>(to + layout_.plane) = four.green;
        *reinterpret_cast<uint32_t*>(to + 2 * layout_.plane) = four.blue;
    }

    // Four pixels of the item that begins at x, to the sums of products of its segment.
    __device__ void hash_if_own(const FourPixels& four, int item, int group, int x, bool own,
                                uint64_t products[2]) const {
        if (!hash_ || !own) return;
        const int at = item % 4 * kItem + 4 * group;
        uint32_t w[4];
#pragma unroll
        for (int k = 0; k < 4; k++) w[k] = x + 4 * group + k < image_.width ? four.packed(k) : 0;
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const uint4 key = *reinterpret_cast<const uint4*>(dynamic_shared<uint32_t>() + j * kHashSegment + at);
            products[j] += uint64_t(w[0] + key.x) * (w[1] + key.y) + uint64_t(w[2] + key.z) * (w[3] + key.w);
        }
    }

    __device__ void finish_four(const FourPixels& four, int row, int item, int group, int x, bool own,
                                uint64_t products[2]) const {
        store(row, item, group, four);
        hash_if_own(four, item, group, x, own, products);
    }

    __device__ void unpack_interleaved(int row, int item, int x, int y, int stage, bool own,
                                       uint64_t products[2]) const {
        const int at = misalignment(row_start(y, 0)) + 3 * kItem * item;
        const uint32_t* words = reinterpret_cast<const uint32_t*>(raw_row(stage, row, 0) + (at & ~3));
        const unsigned shift = 8 * unsigned(at & 3);
        uint32_t before = x < image_.width ? words[0] : 0;
#pragma unroll 1
        for (int group = 0; group < kItem / 4; group++) {
            FourPixels four{0, 0, 0};
            if (x < image_.width) {  // bytes behind the row's end may be any
                const uint32_t next0 = words[3 * group + 1], next1 = words[3 * group + 2], next2 = words[3 * group + 3];
                const uint32_t a = __funnelshift_r(before, next0, shift);  // R0 G0 B0 R1
                const uint32_t b = __funnelshift_r(next0, next1, shift);   // G1 B1 R2 G2
                const uint32_t c = __funnelshift_r(next1, next2, shift);   // B2 R3 G3 B3
                four.red = __byte_perm(__byte_perm(a, b, 0x0630), c, 0x5210);
                four.green = __byte_perm(__byte_perm(a, b, 0x0741), c, 0x6210);
                four.blue = __byte_perm(__byte_perm(a, b, 0x0052), c, 0x7410);
                before = next2;
            }
            finish_four(four, row, item, group, x, own, products);
        }
    }

    __device__ uint32_t four_of_plane(const char* raw, int at, unsigned group) const {
        const uint32_t* words = reinterpret_cast<const uint32_t*>(raw + (at & ~3)) + group;
        return __funnelshift_r(words[0], words[1], 8 * unsigned(at & 3));
    }

    __device__ void unpack_planes(int row, int item, int x, int y, int stage, bool own, uint64_t products[2]) const {
        const int red = misalignment(row_start(y, 0)) + kItem * item;
        const int green = misalignment(row_start(y, 1)) + kItem * item;
        const int blue = misalignment(row_start(y, 2)) + kItem * item;
#pragma unroll 1
        for (int group = 0; group < kItem / 4; group++) {
            FourPixels four{0, 0, 0};
            if (x < image_.width) {
                four.red = four_of_plane(raw_row(stage, row, 0), red, unsigned(group));
                four.green = four_of_plane(raw_row(stage, row, 1), green, unsigned(group));
                four.blue = four_of_plane(raw_row(stage, row, 2), blue, unsigned(group));
            }
            finish_four(four, row, item, group, x, own, products);
        }
    }

    // Bytes of any strides, one by one from global memory.
    __device__ void unpack_any(int row, int item, int x, int y, bool own, uint64_t products[2]) const {
        const uint8_t* image = reinterpret_cast<const uint8_t*>(region_.data);
        const uint8_t* begin = image + y * image_.stride_y + x * image_.stride_x;
#pragma unroll 1
        for (int group = 0; group < kItem / 4; group++) {
            uint32_t words[3] = {0, 0, 0};
#pragma unroll
            for (int k = 0; k < 4; k++) {
                if (x + 4 * group + k >= image_.width) continue;
                const uint8_t* pixel = begin + (4 * group + k) * image_.stride_x;
#pragma unroll
                for (int channel = 0; channel < 3; channel++)
                    words[channel] |= uint32_t(__ldg(pixel + channel * image_.stride_c)) << 8 * k;
            }
            finish_four({words[0], words[1], words[2]}, row, item, group, x, own, products);
        }
    }

    // Floats of any strides; false for NaN and values far outside the range.
    __device__ bool unpack_floats(int row, int item, int x, int y, bool own, uint64_t products[2]) const {
        const int64_t begin = y * image_.stride_y + x * image_.stride_x;
        bool usable = true;
#pragma unroll 1
        for (int group = 0; group < kItem / 4; group++) {
            uint32_t words[3] = {0, 0, 0};
#pragma unroll
            for (int i = 0; i < 12; i++) {
                const int channel = i / 4, column = 4 * group + i % 4;
                float value = 0.0f;
                if (x + column < image_.width) {
                    const float v =
                        load_float(region_.data, begin + channel * image_.stride_c + column * image_.stride_x, type_);
                    usable &= v >= input_.lowest && v <= input_.highest;
                    value = __fadd_rn(__fmul_rn(v, input_.scale), input_.offset);  // not fused: the CPU's bytes
                }
                if constexpr (kSource == Source::floats)
                    reinterpret_cast<float*>(const_cast<char*>(unpacked(row, channel)))[item * kItem + column] = value;
                const float in_range = clamp_to_255(value);
                const float byte =
                    input_.quantize == Quantize::truncate ? truncf(in_range) : round_to_integer(in_range);
                words[channel] |= uint32_t(int(byte)) << 8 * (i % 4);
            }
            const FourPixels four{words[0], words[1], words[2]};
            if constexpr (kSource == Source::floats)
                hash_if_own(four, item, group, x, own, products);
            else
                finish_four(four, row, item, group, x, own, products);
        }
        return usable;
    }

    const DeviceImage& image_;
    const Region& region_;
    SourceType type_;
    const FloatInput& input_;
    const SharedLayout& layout_;
    bool hash_;
};

}  // namespace fidfast
