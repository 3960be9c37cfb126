#include "kernels/cpu/winograd.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/cpu/resize_normalize.h"
#include "kernels/cpu/thread_pool.h"

namespace fidfast {
namespace {

WinogradGrid make_grid(const WinogradParams& p) {
    WinogradGrid grid;
    grid.out_h = p.h + 2 * p.padding - 2;
    grid.out_w = p.w + 2 * p.padding - 2;
    grid.tiles_y = (grid.out_h + 3) / 4;
    grid.tiles_x = (grid.out_w + 3) / 4;
    grid.tiles = p.n * grid.tiles_y * grid.tiles_x;
    constexpr int64_t apart = 16;  // planes a multiple of 4 KiB apart would fight for the same cache sets
    grid.v_plane = kWinogradTiles * p.c + apart;
    grid.m_plane = kWinogradTiles * kWinogradMaxPanel + apart;
    return grid;
}

}  // namespace

void winograd(const WinogradKernel& kernel, const WinogradParams& params) {
    const WinogradGrid grid = make_grid(params);
    const size_t scratch_size = size_t(kWinogradPoints * (grid.v_plane + grid.m_plane));
    parallel_for((grid.tiles + kWinogradTiles - 1) / kWinogradTiles, params.threads, [&](int64_t block) {
        thread_local std::vector<float> scratch;
        if (scratch.size() < scratch_size) scratch.resize(scratch_size);
        const int64_t first = block * kWinogradTiles;
        const int64_t count = std::min<int64_t>(kWinogradTiles, grid.tiles - first);
        kernel.block(params, grid, first, count, scratch.data());
    });
}

const WinogradKernel* winograd_kernel(const char* level) {
    for (const WinogradKernel* kernel : {&kAvx512Winograd, &kAvx2Winograd}) {
        const bool wanted = !*level || !std::strcmp(level, kernel->name);
        if (wanted && kernel->block && rows_of_level(kernel->name)) return kernel;
    }
    return nullptr;
}

}  // namespace fidfast
