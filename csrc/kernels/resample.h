// Filters, coordinate rules and tap tables of every preset, and the arithmetic around them; for host and device code.
//
// Tables are made on the host, in the arithmetic of the tool whose numbers the preset must give (float32 for torch and
// TensorFlow 1, double for Pillow), and handed to the kernels: no kernel computes a coordinate. Compile with
// -ffp-contract=off.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define FIDFAST_HOST_DEVICE __host__ __device__
#else
#define FIDFAST_HOST_DEVICE
#endif

namespace fidfast {

// Functions are static: each file keeps the code made for its own instruction set.

constexpr int kOut = 299;  // the network's input is (3, kOut, kOut)

enum class Resampling { bilinear, bilinear_tf1, bilinear_antialias, bicubic_pillow };

struct PresetSpec {
    const char* name;
    Resampling resampling;
    float centre, scale;  // the network sees (value - centre) * scale, value in [0, 255]
    bool clip;            // to [0, 255] before that: bicubic overshoots, clean-fid clips
    bool sum_in_double;   // as Pillow does; the others sum in float32
};

constexpr PresetSpec kPresets[] = {
    {"pytorch-fid", Resampling::bilinear, 127.5f, float(2.0 / 255.0), false, false},
    {"tensorflow", Resampling::bilinear_tf1, 128.0f, 1.0f / 128.0f, false, false},
    {"clean-fid", Resampling::bicubic_pillow, 128.0f, 1.0f / 128.0f, true, true},
    {"torchmetrics", Resampling::bilinear_antialias, 128.0f, 1.0f / 128.0f, false, false},
};

// What becomes of float images on the scale [0, 255]; uint8 images are integers already.
enum class Quantize { none, round, truncate };

// Float images in [low, high]: value * scale + offset is on the scale [0, 255]. Values that lie further outside than a
// quarter of the range are taken for a wrong range, not for overshoot.
struct FloatInput {
    float scale, offset, lowest, highest;
    Quantize quantize;
};

static inline FloatInput float_input(float low, float high, Quantize quantize) {
    const float width = high - low, scale = 255.0f / width;
    return {scale, -low * scale, low - 0.25f * width, high + 0.25f * width, quantize};
}

// The nearest integer, ties to even, of 0 <= x <= 255: as rint, but the compiler can vectorise it.
FIDFAST_HOST_DEVICE static inline float round_to_integer(float x) { return (x + 12582912.0f) - 12582912.0f; }

FIDFAST_HOST_DEVICE static inline float clamp_to_255(float x) {
    x = x < 0.0f ? 0.0f : x;
    return x > 255.0f ? 255.0f : x;
}

// ---------------------------------------------------------------------------------------------------------------------
// Filters
// ---------------------------------------------------------------------------------------------------------------------

static inline double triangle(double x) { return std::fabs(x) < 1.0 ? 1.0 - std::fabs(x) : 0.0; }

// Keys' cubic with a = -0.5, factored as in Pillow's Resample.c.
static inline double keys_cubic(double x) {
    x = std::fabs(x);
    if (x < 1.0) return ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1.0;
    if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5;
    return 0.0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Taps of one output
// ---------------------------------------------------------------------------------------------------------------------

struct Taps {
    int64_t start;  // first source index
    int64_t count;  // source indices start .. start + count - 1, all inside the image
};

// Upper bound of Taps::count for a source of `size`.
static inline int64_t max_taps(Resampling rule, int64_t size) {
    if (rule == Resampling::bilinear || rule == Resampling::bilinear_tf1) return 2;
    const double support = (rule == Resampling::bicubic_pillow ? 2.0 : 1.0) * std::fmax(double(size) / kOut, 1.0);
    return int64_t(std::ceil(support)) * 2 + 1;
}

static inline Taps two_taps(float source, int64_t size, double* weights) {
    const int64_t low = int64_t(source) < size - 1 ? int64_t(source) : size - 1;
    weights[1] = source - float(low);
    weights[0] = 1.0f - float(weights[1]);
    if (low + 1 < size) return {low, 2};
    weights[0] = 1.0;  // both taps of the last pixel fall on it
    return {low, 1};
}

// A filter that widens with the reduction, normalised to sum 1. Real is the type in which the original keeps its
// values; the expressions between them are double in both (ATen's UpSampleKernel.cpp mixes in double literals).
template <typename Real, typename Filter>
Taps windowed_taps(int64_t size, int i, double filter_support, Filter filter, double* weights) {
    const Real scale = Real(size) / Real(kOut);
    const Real support = Real(filter_support * (scale >= Real(1) ? double(scale) : 1.0));
    const Real inverse = Real(scale >= Real(1) ? 1.0 / double(scale) : 1.0);
    const Real centre = Real(double(scale) * (i + 0.5));
    int64_t low = int64_t(double(centre - support) + 0.5);
    int64_t high = int64_t(double(centre + support) + 0.5);
    low = low < 0 ? 0 : low;
    high = high > size ? size : high;
    Real total = 0;
    for (int64_t k = 0; k < high - low; k++) {
        const Real w = Real(filter(Real((double(Real(k + low) - centre) + 0.5) * double(inverse))));
        weights[k] = w;
        total += w;
    }
    for (int64_t k = 0; k < high - low; k++) weights[k] = Real(Real(weights[k]) / total);
    return {low, high - low};
}

// Source interval and weights of output i (0 <= i < kOut); `weights` has room for max_taps.
static inline Taps make_taps(Resampling rule, int64_t size, int i, double* weights) {
    const float scale = float(size) / float(kOut);
    switch (rule) {
    case Resampling::bilinear: {  // torch, align_corners=False: its AVX and CUDA builds fuse this multiply-add
        if (size == kOut) return two_taps(float(i), size, weights);
        const float source = float(double(scale) * (i + 0.5) - 0.5);
        return two_taps(source < 0.0f ? 0.0f : source, size, weights);
    }
    case Resampling::bilinear_tf1:  // no half-pixel centres
        return two_taps(float(i) * scale, size, weights);
    case Resampling::bilinear_antialias:
        return windowed_taps<float>(size, i, 1.0, triangle, weights);
    case Resampling::bicubic_pillow:
        break;
    }
    return windowed_taps<double>(size, i, 2.0, keys_cubic, weights);
}

}  // namespace fidfast
