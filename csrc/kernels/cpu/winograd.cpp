#include "kernels/cpu/winograd.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/cpu/resize_normalize.h"
#include "kernels/cpu/thread_pool.h"

namespace fidfast {
namespace {

constexpr int64_t kScratch = 192 * 1024;  // floats of a block: what the second-level cache holds beside the weight

int64_t groups_of_block(int64_t points, int64_t c) {
    const int64_t group = kWinogradRowGroup * points * (c + kWinogradMaxPanel);
    return std::clamp<int64_t>(kScratch / group, 2, kWinogradMaxRows / kWinogradRowGroup);
}

WinogradGrid make_grid(const WinogradKernel& kernel, const WinogradParams& p, int64_t rows) {
    WinogradGrid grid;
    grid.out_h = p.h + 2 * p.padding_y - kernel.taps_y + 1;
    grid.out_w = p.w + 2 * p.padding_x - kernel.taps_x + 1;
    grid.tiles_y = (grid.out_h + kernel.outputs_y - 1) / kernel.outputs_y;
    grid.tiles_x = (grid.out_w + kernel.outputs_x - 1) / kernel.outputs_x;
    grid.tiles = p.n * grid.tiles_y * grid.tiles_x;
    constexpr int64_t apart = 16;  // planes a multiple of 4 KiB apart would fight for the same cache sets
    grid.v_plane = rows * p.c + apart;
    grid.m_plane = rows * kWinogradMaxPanel + apart;
    return grid;
}

}  // namespace

void winograd(const WinogradKernel& kernel, const WinogradParams& params) {
    const int64_t points = kernel.points_y * kernel.points_x, most = groups_of_block(points, params.c);
    const WinogradGrid grid = make_grid(kernel, params, most * kWinogradRowGroup);
    const size_t scratch_size = size_t(points * (grid.v_plane + grid.m_plane));
    const int64_t groups = (grid.tiles + kWinogradRowGroup - 1) / kWinogradRowGroup;
    const int64_t threads = std::max(params.threads, 1), shared = threads * most;
    const int64_t blocks = (groups + shared - 1) / shared * threads;  // as many for each thread, of nearly equal size
    parallel_for(blocks, params.threads, [&](int64_t block) {
        const int64_t first = groups * block / blocks * kWinogradRowGroup;
        const int64_t last = std::min(groups * (block + 1) / blocks * kWinogradRowGroup, grid.tiles);
        if (first >= last) return;
        thread_local std::vector<float> scratch;
        if (scratch.size() < scratch_size) scratch.resize(scratch_size);
        kernel.block(params, grid, first, last - first, scratch.data());
    });
}

const WinogradKernel* winograd_kernel(int64_t taps_y, int64_t taps_x, const char* level) {
    for (const WinogradKernels& of_level : {kAvx512Winograd, kAvx2Winograd}) {
        for (int i = 0; i < of_level.count; i++) {
            const WinogradKernel& kernel = of_level.kernels[i];
            const bool wanted = !*level || !std::strcmp(level, kernel.level);
            if (wanted && kernel.taps_y == taps_y && kernel.taps_x == taps_x && rows_of_level(kernel.level))
                return &kernel;
        }
    }
    return nullptr;
}

}  // namespace fidfast
