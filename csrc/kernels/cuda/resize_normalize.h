// Resize to 299 x 299, normalise, convert and hash a batch of images of any sizes, on a CUDA device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/resample.h"

namespace fidfast {

enum class OutType { float32, bfloat16, float16 };
enum class SourceType { uint8, float32, bfloat16, float16 };

// How pixels lie in memory: RGB RGB ..., three planes of adjacent bytes, or anything else. The first two are copied to
// shared memory in pieces of 16 bytes.
enum class Layout { interleaved, planes, any };

// One image on the device; strides count elements.
struct DeviceImage {
    const void* data;  // (3, H, W)
    int64_t stride_c, stride_y, stride_x;
    int32_t height, width;
    int64_t index;        // in the batch
    int64_t extent;       // elements from data to the last one of the image, that one included
    const void* columns;  // resize_tables.h, of its width and height; null if it is only hashed
    const void* rows;
    int32_t chunks;  // of horizontal taps
    Layout layout;
    bool two_taps;  // at most, along a row
    bool scatter;   // row_method
};

struct ResizeNormalizeParams {
    const DeviceImage* images;  // (N,) on the host: they travel as arguments of the kernel
    int64_t count;              // N
    SourceType source;
    PresetSpec preset;
    FloatInput input;
    void* out;  // (N, 3, 299, 299) dense, or null: only hash
    OutType out_type;
    bool channels_last;   // out is (N, 299, 299, 3) in memory
    uint64_t* hashes;     // (N, 2) zeros, or null
    int32_t* unusable;    // (N,) zeros, set to 1 for an image with NaN or far out of range; null for uint8
};

// A side that is longer does not fit the kernel's shared memory at every preset and type.
constexpr int64_t kMaxSide = 16384;

cudaError_t launch_resize_normalize(const ResizeNormalizeParams& params, cudaStream_t stream);

}  // namespace fidfast
