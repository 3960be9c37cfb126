// The row kernels, written once; rows_<level>.cpp compiles them for its instruction set.
#pragma once

#include <cfloat>

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
bool load_floats_as(const ImageView& image, int64_t y, FloatInput input, uint32_t* pixels, float* planes,
                    int64_t plane) {
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

bool load_floats(const ImageView& image, int64_t y, const FloatInput& input, uint32_t* pixels, float* planes,
                 int64_t plane) {
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
template <typename Lanes>
void turn_pixels(const void* const rows[kBlock], int64_t first, int64_t count, typename Lanes::Real* columns) {
    for (int64_t x = 0; x < count; x += 8, columns += 8 * 3 * kBlock) {
        Words8 m[8];
        for (int i = 0; i < 8; i++) m[i] = Words8::load(static_cast<const uint32_t*>(rows[i]) + first + x);
        transpose(m);
        for (int i = 0; i < 8; i++) {
            channel_of<Lanes, 0>(m[i]).store(columns + (3 * i + 0) * kBlock);
            channel_of<Lanes, 1>(m[i]).store(columns + (3 * i + 1) * kBlock);
            channel_of<Lanes, 2>(m[i]).store(columns + (3 * i + 2) * kBlock);
        }
    }
}

template <typename Lanes>
void turn_planes(const void* const rows[kBlock], int64_t plane, int64_t first, int64_t count,
                 typename Lanes::Real* columns) {
    for (int64_t x = 0; x < count; x += 8, columns += 8 * 3 * kBlock) {
        for (int c = 0; c < 3; c++) {
            Words8 m[8];
            for (int i = 0; i < 8; i++) m[i] = Words8::load(static_cast<const float*>(rows[i]) + c * plane + first + x);
            transpose(m);
            for (int i = 0; i < 8; i++) floats_of<Lanes>(m[i]).store(columns + (3 * i + c) * kBlock);
        }
    }
}

const double* weights_of(const AxisTaps& taps, int output, double) { return taps.weights + output * taps.max_count; }
const float* weights_of(const AxisTaps& taps, int output, float) { return taps.weights32 + output * taps.max_count; }

// Taps of eight outputs applied to the turned columns: sums[output * 3 + channel] holds kBlock rows.
// fixed_count > 0 lets the compiler unroll the common cases.
template <typename Lanes, int fixed_count>
void sum_taps(const AxisTaps& taps, int output, int64_t first_column, const typename Lanes::Real* columns,
              Words8 sums[24]) {
    const int64_t count = fixed_count ? fixed_count : taps.max_count;
    const auto* weights = weights_of(taps, output, typename Lanes::Real());
    for (int i = 0; i < 8; i++, weights += count) {
        const auto* source = columns + (taps.start[output + i] - first_column) * 3 * kBlock;
        Lanes red = Lanes::zero(), green = red, blue = red;
        for (int64_t k = 0; k < count; k++, source += 3 * kBlock) {
            const Lanes w = Lanes::broadcast(weights[k]);
            red.add_product(Lanes::load(source), w);
            green.add_product(Lanes::load(source + kBlock), w);
            blue.add_product(Lanes::load(source + 2 * kBlock), w);
        }
        sums[3 * i] = float_bits(red.to_floats());
        sums[3 * i + 1] = float_bits(green.to_floats());
        sums[3 * i + 2] = float_bits(blue.to_floats());
    }
}

template <typename Lanes>
void horizontal_in(const void* const rows[kBlock], int64_t plane, const AxisTaps& taps, const Tile* tiles,
                   int num_tiles, bool interleaved, typename Lanes::Real* columns, float* const out[kBlock]) {
    const auto sum = taps.max_count == 1   ? sum_taps<Lanes, 1>
                     : taps.max_count == 2 ? sum_taps<Lanes, 2>
                     : taps.max_count == 4 ? sum_taps<Lanes, 4>
                                           : sum_taps<Lanes, 0>;
    for (int t = 0; t < num_tiles; t++) {
        const Tile tile = tiles[t];
        if (plane)
            turn_planes<Lanes>(rows, plane, tile.first_column, tile.columns, columns);
        else
            turn_pixels<Lanes>(rows, tile.first_column, tile.columns, columns);
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

void horizontal(const void* const rows[kBlock], int64_t plane, const AxisTaps& taps, const Tile* tiles,
                int num_tiles, bool sum_in_double, bool interleaved, double* columns, float* const out[kBlock]) {
    if (sum_in_double)
        horizontal_in<Doubles8>(rows, plane, taps, tiles, num_tiles, interleaved, columns, out);
    else
        horizontal_in<Floats8>(rows, plane, taps, tiles, num_tiles, interleaved, reinterpret_cast<float*>(columns),
                               out);
}

// ---------------------------------------------------------------------------------------------------------------------
// Vertical pass, normalisation and conversion
// ---------------------------------------------------------------------------------------------------------------------

struct Half {
    uint16_t bits;
};
struct BFloat16 {
    uint16_t bits;
};

void convert(const Floats8& values, float* out) { values.store(out); }
void convert(const Floats8& values, Half* out) {
    const auto halves = values.to_half();
    std::memcpy(out, &halves, 16);
}
void convert(const Floats8& values, BFloat16* out) {
    const auto halves = values.to_bfloat16();
    std::memcpy(out, &halves, 16);
}

// `length` outputs from column `first` of the resized rows.
template <typename Lanes, int fixed_count, typename Out>
void sum_rows(const float* const* rows, const typename Lanes::Real* weights, int64_t any_count, int64_t first,
              int length, const PresetSpec& preset, Out* out) {
    const int64_t count = fixed_count ? fixed_count : any_count;
    const float low = preset.clip ? 0.0f : -FLT_MAX, high = preset.clip ? 255.0f : FLT_MAX;
    const float centre = preset.centre, scale = preset.scale;
    for (int x = 0; x < length; x += 8) {
        Lanes sum = Lanes::zero();
        for (int64_t k = 0; k < count; k++)
            sum.add_product(Lanes::load(rows[k] + first + x), Lanes::broadcast(weights[k]));
        const Floats8 values = sum.to_floats().clamp(low, high).normalise(centre, scale);
        if (x + 8 <= length) {
            convert(values, out + x);
        } else {
            Out last[8];
            convert(values, last);
            for (int i = 0; x + i < length; i++) out[x + i] = last[i];
        }
    }
}

template <typename Lanes, typename Out>
void vertical_as(const float* const* rows, const AxisTaps& taps, int y, const PresetSpec& preset, bool interleaved,
                 void* out, int64_t out_plane) {
    const int64_t count = taps.count[y];
    const auto* weights = weights_of(taps, y, typename Lanes::Real());
    const auto sum = count == 2   ? sum_rows<Lanes, 2, Out>
                     : count == 4 ? sum_rows<Lanes, 4, Out>
                                  : sum_rows<Lanes, 0, Out>;
    Out* to = static_cast<Out*>(out);
    if (interleaved) {
        sum(rows, weights, count, 0, 3 * kOut, preset, to);
    } else {
        for (int c = 0; c < 3; c++) sum(rows, weights, count, c * kOutPadded, kOut, preset, to + c * out_plane);
    }
}

template <typename Lanes>
void vertical_in(const float* const* rows, const AxisTaps& taps, int y, const PresetSpec& preset, OutType type,
                 bool interleaved, void* out, int64_t out_plane) {
    const auto run = type == OutType::float32    ? vertical_as<Lanes, float>
                     : type == OutType::bfloat16 ? vertical_as<Lanes, BFloat16>
                                                 : vertical_as<Lanes, Half>;
    run(rows, taps, y, preset, interleaved, out, out_plane);
}

void vertical(const float* const* rows, const AxisTaps& taps, int y, const PresetSpec& preset, OutType type,
              bool interleaved, void* out, int64_t out_plane) {
    const auto run = preset.sum_in_double ? vertical_in<Doubles8> : vertical_in<Floats8>;
    run(rows, taps, y, preset, type, interleaved, out, out_plane);
}

constexpr RowKernels kernels_of_level(const char* name) {
    return {name, load_bytes, load_floats, hash_row, horizontal, vertical};
}

}  // namespace
}  // namespace fidfast
