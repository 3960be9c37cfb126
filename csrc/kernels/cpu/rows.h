// The row kernels, written once; rows_<level>.cpp compiles them for its instruction set.
#pragma once

#include "kernels/content_hash.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/simd.h"

namespace fidfast {
namespace {

constexpr HashKeys kHashKeys = make_hash_keys();

// ---------------------------------------------------------------------------------------------------------------------
// Loading a source row
// ---------------------------------------------------------------------------------------------------------------------

void load_bytes(const ImageView& image, int64_t y, uint32_t* pixels) {
    const uint8_t* red = static_cast<const uint8_t*>(image.data) + y * image.stride_y;
    const uint8_t* green = red + image.stride_c;
    const uint8_t* blue = green + image.stride_c;
    const int64_t width = image.width, step = image.stride_x;
    int64_t x = 0;
    if (step == 1) {
        for (; x < width; x++) pixels[x] = uint32_t(red[x]) | uint32_t(green[x]) << 8 | uint32_t(blue[x]) << 16;
    } else if (step == 3 && image.stride_c == 1) {
        for (; x + 10 <= width; x += 8) pack_triples(red + 3 * x, pixels + x);  // reads 9 1/3 pixels
    }
    for (; x < width; x++) {
        pixels[x] = uint32_t(red[x * step]) | uint32_t(green[x * step]) << 8 | uint32_t(blue[x * step]) << 16;
    }
}

template <bool adjacent, bool truncate>
bool load_floats_as(const ImageView& image, int64_t y, FloatInput input, uint32_t* pixels, float* planes, int64_t plane) {
    const float scale = input.scale, offset = input.offset, lowest = input.lowest, highest = input.highest;
    const int64_t width = image.width, step = adjacent ? 1 : image.stride_x;
    int outside = 0;
    for (int c = 0; c < 3; c++) {
        const float* source = static_cast<const float*>(image.data) + y * image.stride_y + c * image.stride_c;
        if (planes) {
            float* values = planes + c * plane;
            for (int64_t x = 0; x < width; x++) {
                const float v = source[x * step];
                outside |= !(v >= lowest) | !(v <= highest);  // true for NaN
                values[x] = v * scale + offset;
            }
        }
        if (pixels) {
            const int shift = 8 * c;
            for (int64_t x = 0; x < width; x++) {
                const float v = source[x * step];
                outside |= !(v >= lowest) | !(v <= highest);
                const float value = clamp_to_255(v * scale + offset);
                const uint32_t q = uint32_t(int32_t(truncate ? value : round_to_integer(value))) << shift;
                pixels[x] = c == 0 ? q : pixels[x] | q;
            }
        }
    }
    return !outside;
}

bool load_floats(const ImageView& image, int64_t y, const FloatInput& input, uint32_t* pixels, float* planes, int64_t plane) {
    const bool truncate = input.quantize == Quantize::truncate;
    const auto load = image.stride_x == 1 ? (truncate ? load_floats_as<true, true> : load_floats_as<true, false>)
                                          : (truncate ? load_floats_as<false, true> : load_floats_as<false, false>);
    return load(image, y, input, pixels, planes, plane);
}

void hash_row(const uint32_t* pixels, int64_t y, int64_t width, uint64_t sums[2]) {
    for (int64_t segment = 0; segment * kHashSegment < width; segment++) {
        uint64_t products[2] = {0, 0};
        add_segment_products(pixels + segment * kHashSegment, kHashKeys.k[0], kHashKeys.k[1], products);
        for (int j = 0; j < 2; j++) sums[j] += mix_segment(j, products[j], y, segment);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Horizontal pass: eight source rows side by side in the lanes, so that no tap needs a gather
// ---------------------------------------------------------------------------------------------------------------------

// Source columns first .. first + count (rounded up to 8) of kBlock rows -> columns[x][channel][row].
void turn_pixels(const void* const rows[kBlock], int64_t first, int64_t count, double* columns) {
    for (int64_t x = 0; x < count; x += 8, columns += 8 * 3 * kBlock) {
        Words8 m[8];
        for (int i = 0; i < 8; i++) m[i] = Words8::load(static_cast<const uint32_t*>(rows[i]) + first + x);
        transpose(m);
        for (int i = 0; i < 8; i++) {
            channel_of<0>(m[i]).store(columns + (3 * i + 0) * kBlock);
            channel_of<1>(m[i]).store(columns + (3 * i + 1) * kBlock);
            channel_of<2>(m[i]).store(columns + (3 * i + 2) * kBlock);
        }
    }
}

void turn_planes(const void* const rows[kBlock], int64_t plane, int64_t first, int64_t count, double* columns) {
    for (int64_t x = 0; x < count; x += 8, columns += 8 * 3 * kBlock) {
        for (int c = 0; c < 3; c++) {
            Words8 m[8];
            for (int i = 0; i < 8; i++) m[i] = Words8::load(static_cast<const float*>(rows[i]) + c * plane + first + x);
            transpose(m);
            for (int i = 0; i < 8; i++) floats_of(m[i]).store(columns + (3 * i + c) * kBlock);
        }
    }
}

// Taps of eight outputs applied to the turned columns: sums[output * 3 + channel] holds kBlock rows.
// fixed_count > 0 lets the compiler unroll the common cases.
template <int fixed_count>
void sum_taps(const AxisTaps& taps, int output, int64_t first_column, const double* columns, Words8 sums[24]) {
    const int64_t count = fixed_count ? fixed_count : taps.max_count;
    const double* weights = taps.weights + output * count;
    for (int i = 0; i < 8; i++, weights += count) {
        const double* source = columns + (taps.start[output + i] - first_column) * 3 * kBlock;
        Doubles8 red = Doubles8::zero(), green = red, blue = red;
        for (int64_t k = 0; k < count; k++, source += 3 * kBlock) {
            const Doubles8 w = Doubles8::broadcast(weights[k]);
            red.add_product(Doubles8::load(source), w);
            green.add_product(Doubles8::load(source + kBlock), w);
            blue.add_product(Doubles8::load(source + 2 * kBlock), w);
        }
        sums[3 * i] = float_bits(red);
        sums[3 * i + 1] = float_bits(green);
        sums[3 * i + 2] = float_bits(blue);
    }
}

void horizontal(const void* const rows[kBlock], int64_t plane, const AxisTaps& taps, const Tile* tiles, int num_tiles,
                bool interleaved, double* columns, float* const out[kBlock]) {
    const auto sum = taps.max_count == 1   ? sum_taps<1>
                     : taps.max_count == 2 ? sum_taps<2>
                     : taps.max_count == 4 ? sum_taps<4>
                                           : sum_taps<0>;
    for (int t = 0; t < num_tiles; t++) {
        const Tile tile = tiles[t];
        if (plane)
            turn_planes(rows, plane, tile.first_column, tile.columns, columns);
        else
            turn_pixels(rows, tile.first_column, tile.columns, columns);
        for (int x = tile.first_output; x < tile.end_output; x += 8) {
            Words8 sums[24];
            sum(taps, x, tile.first_column, columns, sums);
            for (int part = 0; part < 3; part++) {  // eight columns x eight rows each
                Words8 m[8];
                for (int i = 0; i < 8; i++) m[i] = interleaved ? sums[8 * part + i] : sums[3 * i + part];
                transpose(m);
                const int64_t at = interleaved ? 3 * x + 8 * part : part * kOutPadded + x;
                for (int i = 0; i < 8; i++) m[i].store(out[i] + at);
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Vertical pass, normalisation and conversion
// ---------------------------------------------------------------------------------------------------------------------

inline void convert(const float* values, float* out) { std::memcpy(out, values, 8 * sizeof(float)); }

struct Half {
    uint16_t bits;
};
struct BFloat16 {
    uint16_t bits;
};
inline void convert(const float* values, Half* out) {
    for (int i = 0; i < 8; i++) out[i].bits = half_of(values[i]);
}
inline void convert(const float* values, BFloat16* out) {
    for (int i = 0; i < 8; i++) out[i].bits = bfloat16_of(values[i]);
}

// `length` outputs from column `first` of the resized rows.
template <typename Out>
void sum_rows(const float* const* rows, const double* weights, int64_t count, int64_t first, int length,
              const PresetSpec& preset, Out* out) {
    const float floor = preset.clip ? 0.0f : -3.4e38f, ceiling = preset.clip ? 255.0f : 3.4e38f;
    const float centre = preset.centre, scale = preset.scale;
    for (int x = 0; x < length; x += 8) {
        Doubles8 sum = Doubles8::zero();
        for (int64_t k = 0; k < count; k++) sum.add_product(Doubles8::load(rows[k] + first + x), Doubles8::broadcast(weights[k]));
        float values[8];
        store_floats(sum, values);
        for (int i = 0; i < 8; i++) {
            float v = values[i];
            v = v < floor ? floor : v;
            v = v > ceiling ? ceiling : v;
            values[i] = (v - centre) * scale;
        }
        if (x + 8 <= length) {
            convert(values, out + x);
        } else {
            Out last[8];
            convert(values, last);
            for (int i = 0; x + i < length; i++) out[x + i] = last[i];
        }
    }
}

template <typename Out>
void vertical_as(const float* const* rows, const double* weights, int64_t count, const PresetSpec& preset,
                 bool interleaved, void* out, int64_t out_plane) {
    Out* to = static_cast<Out*>(out);
    if (interleaved) {
        sum_rows(rows, weights, count, 0, 3 * kOut, preset, to);
    } else {
        for (int c = 0; c < 3; c++) sum_rows(rows, weights, count, c * kOutPadded, kOut, preset, to + c * out_plane);
    }
}

void vertical(const float* const* rows, const double* weights, int64_t count, const PresetSpec& preset, OutType type,
              bool interleaved, void* out, int64_t out_plane) {
    const auto run = type == OutType::float32    ? vertical_as<float>
                     : type == OutType::bfloat16 ? vertical_as<BFloat16>
                                                 : vertical_as<Half>;
    run(rows, weights, count, preset, interleaved, out, out_plane);
}

constexpr RowKernels kernels_of_level(const char* name) {
    return {name, load_bytes, load_floats, hash_row, horizontal, vertical};
}

}  // namespace
}  // namespace fidfast
