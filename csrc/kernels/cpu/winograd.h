// 3 x 3 convolution of stride 1, bias and ReLU on the CPU by Winograd's minimal filtering F(4 x 4, 3 x 3).
//
// A tile of 4 x 4 outputs costs 36 products per channel pair instead of 144 (Lavin and Gray, arXiv:1509.09308). The
// points are 0, +-1/sqrt(2), +-sqrt(2) and infinity: a third of the rounding error of the usual 0, +-1, +-2.
#pragma once

#include <cstdint>

namespace fidfast {

constexpr int kWinogradPoints = 36;
constexpr int kWinogradTiles = 24;        // tiles of one block: their transforms stay in the second-level cache
constexpr int kWinogradMaxPanel = 32;
constexpr int kWinogradChannels = 16;     // input channels come in multiples of it
constexpr int kWinogradOutChannels = 32;  // and output channels of this

struct WinogradParams {
    const float* x;  // (N, H, W, C) dense
    int64_t n, h, w, c;
    int64_t padding;      // zeros on every side
    const float* weight;  // (K / panel, 36, C, panel): G g G^T of every filter g
    const float* bias;    // (K,)
    int64_t k;
    float* out;           // (N, H + 2 padding - 2, W + 2 padding - 2, K) dense
    int threads;
};

// Where the 4 x 4 tiles of all images lie.
struct WinogradGrid {
    int64_t out_h, out_w, tiles_y, tiles_x, tiles;
    int64_t v_plane, m_plane;  // floats between two of the 36 planes of transformed inputs, and of products
};

struct WinogradKernel {
    const char* name;
    int panel;  // output channels computed together: the layout of the weight depends on it
    // Tiles first .. first + count (at most kWinogradTiles). `scratch`: 36 (v_plane + m_plane) floats.
    void (*block)(const WinogradParams& params, const WinogradGrid& grid, int64_t first, int64_t count, float* scratch);
};

extern const WinogradKernel kAvx2Winograd;
extern const WinogradKernel kAvx512Winograd;

// The best kernel of this CPU, or that of the named level ("avx2", "avx512"); null if there is none.
const WinogradKernel* winograd_kernel(const char* level);

void winograd(const WinogradKernel& kernel, const WinogradParams& params);

}  // namespace fidfast
