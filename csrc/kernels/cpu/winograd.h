// Convolution of stride 1, bias and ReLU on the CPU by Winograd's minimal filtering (Lavin and Gray, arXiv:1509.09308).
//
// Along an axis m outputs of a filter of r taps cost m + r - 1 products, one a point, instead of m r. The points are 0,
// infinity and pairs +-p with p and 1 / p: for six points a third of the rounding error of the usual 0, +-1, +-2.
#pragma once

#include <cstdint>

namespace fidfast {

constexpr int kWinogradMaxRows = 48;   // tiles of one block: their transforms stay in the second-level cache
constexpr int kWinogradRowGroup = 12;  // and they come in groups of this
constexpr int kWinogradMaxPanel = 32;
constexpr int kWinogradChannels = 16;     // input channels come in multiples of it
constexpr int kWinogradOutChannels = 32;  // and output channels of this

// The positive finite points of an axis; six or ten points in all.
constexpr float kSixPoints[2] = {0.70710678118654752f, 1.41421356237309505f};
constexpr float kTenPoints[4] = {0.4f, 0.8f, 1.25f, 2.5f};

struct WinogradParams {
    const float* x;  // (N, H, W, C) dense
    int64_t n, h, w, c;
    int64_t padding_y, padding_x;  // zeros on every side
    const float* weight;           // (K / panel, points, C, panel): every filter at the points
    const float* bias;             // (K,)
    int64_t k;
    float* out;  // (N, H + 2 padding_y - taps_y + 1, W + 2 padding_x - taps_x + 1, K) dense
    int threads;
};

// Where the tiles of all images lie.
struct WinogradGrid {
    int64_t out_h, out_w, tiles_y, tiles_x, tiles;
    int64_t v_plane, m_plane;  // floats between the planes of two points: transformed inputs, and products
};

struct WinogradKernel {
    int taps_y, taps_x;        // of the filter
    int outputs_y, outputs_x;  // of a tile
    int points_y, points_x;    // 1 where the axis has one tap
    const char* level;
    int panel;  // output channels computed together: the layout of the weight depends on it
    // Tiles first .. first + count (at most kWinogradMaxRows). `scratch`: points (v_plane + m_plane) floats.
    void (*block)(const WinogradParams& params, const WinogradGrid& grid, int64_t first, int64_t count, float* scratch);
};

struct WinogradKernels {
    const WinogradKernel* kernels;
    int count;
};

extern const WinogradKernels kAvx2Winograd, kAvx512Winograd;

// The best kernel of this CPU for such a filter, or that of the named level ("avx2", "avx512"); null if there is none.
const WinogradKernel* winograd_kernel(int64_t taps_y, int64_t taps_x, const char* level);

void winograd(const WinogradKernel& kernel, const WinogradParams& params);

}  // namespace fidfast
