// The inner loops of resize_normalize and content_hash, on rows. One table of functions per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/resample.h"

namespace fidfast {

constexpr int kBlock = 8;                    // source rows that go through the horizontal pass together
constexpr int kOutPadded = (kOut + 7) / 8 * 8;
constexpr int kRowFloats = 3 * kOutPadded;   // a horizontally resized row: x, c interleaved, or planes kOutPadded apart

enum class OutType { float32, bfloat16, float16 };

static inline size_t size_of(OutType type) { return type == OutType::float32 ? 4 : 2; }

// One image on the host; strides count elements.
struct ImageView {
    const void* data;  // (3, H, W) uint8 or float32
    int64_t stride_c, stride_y, stride_x, height, width;
    bool is_float;
};

// Taps of all outputs of one axis.
struct AxisTaps {
    int64_t max_count;        // weights per output, zero beyond `count`
    const int64_t* start;     // (kOutPadded,)
    const int64_t* count;     // (kOutPadded,); the horizontal pass uses max_count for all
    const double* weights;    // (kOutPadded, max_count)
    const float* weights32;   // the same as float32
};

// A run of outputs of the horizontal pass, a multiple of 8, whose source columns fit the first-level cache.
struct Tile {
    int first_output, end_output;
    int64_t first_column, columns;
};

struct RowKernels {
    const char* name;

    // Source row -> pixels[x] = R | G << 8 | B << 16. The caller provides the zeros beyond the width.
    void (*load_bytes)(const ImageView& image, int64_t y, uint32_t* pixels);

    // Float source row -> pixels (rounded when quantize is none) and, when quantize is none, planes of values on the
    // scale 0..255, `plane` floats apart. Either output may be null. False if a value is NaN or far out of range.
    bool (*load_floats)(const ImageView& image, int64_t y, const FloatInput& input, uint32_t* pixels, float* planes,
                        int64_t plane);

    // Adds the mixed segments of row y to sums[2]; pixels hold zeros up to a multiple of kHashSegment.
    void (*hash_row)(const uint32_t* pixels, int64_t y, int64_t width, uint64_t sums[2]);

    // Resizes kBlock rows horizontally into `out` rows. `rows` point at pixels, or at float planes when plane > 0.
    // `columns` is scratch: (columns of the widest tile rounded up to 8, 3, kBlock) doubles.
    void (*horizontal)(const void* const rows[kBlock], int64_t plane, const AxisTaps& taps, const Tile* tiles,
                       int num_tiles, bool sum_in_double, bool interleaved, double* columns, float* const out[kBlock]);

    // Output row y: weighted sum of its taps.count[y] resized `rows`, normalised, converted and stored.
    void (*vertical)(const float* const* rows, const AxisTaps& taps, int y, const PresetSpec& preset, OutType type,
                     bool interleaved, void* out, int64_t out_plane);
};

extern const RowKernels kScalarRows;
extern const RowKernels kAvx2Rows;
extern const RowKernels kAvx512Rows;

}  // namespace fidfast
