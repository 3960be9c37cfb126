// The inner loops of the Winograd convolution, written once: winograd_<level>.cpp compiles them for its instruction
// set. As in simd.h, everything has internal linkage.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/winograd.h"

namespace fidfast {
namespace {

#if defined(__AVX512F__)
using Lanes = __m512;
constexpr int kLanes = 16;
constexpr int kRows = 12;  // of the register tile: 12 x 32 sums in 24 of 32 registers
Lanes load(const float* p) { return _mm512_loadu_ps(p); }
void store(float* p, Lanes x) { _mm512_storeu_ps(p, x); }
Lanes set(float x) { return _mm512_set1_ps(x); }
Lanes add(Lanes x, Lanes y) { return _mm512_add_ps(x, y); }
Lanes subtract(Lanes x, Lanes y) { return _mm512_sub_ps(x, y); }
Lanes multiply(Lanes x, Lanes y) { return _mm512_mul_ps(x, y); }
Lanes larger(Lanes x, Lanes y) { return _mm512_max_ps(x, y); }
Lanes add_product(Lanes x, Lanes y, Lanes sum) { return _mm512_fmadd_ps(x, y, sum); }
Lanes less_product(Lanes x, Lanes y, Lanes sum) { return _mm512_fnmadd_ps(x, y, sum); }
#else
using Lanes = __m256;
constexpr int kLanes = 8;
constexpr int kRows = 6;  // 6 x 16 sums in 12 of 16 registers
Lanes load(const float* p) { return _mm256_loadu_ps(p); }
void store(float* p, Lanes x) { _mm256_storeu_ps(p, x); }
Lanes set(float x) { return _mm256_set1_ps(x); }
Lanes add(Lanes x, Lanes y) { return _mm256_add_ps(x, y); }
Lanes subtract(Lanes x, Lanes y) { return _mm256_sub_ps(x, y); }
Lanes multiply(Lanes x, Lanes y) { return _mm256_mul_ps(x, y); }
Lanes larger(Lanes x, Lanes y) { return _mm256_max_ps(x, y); }
Lanes add_product(Lanes x, Lanes y, Lanes sum) { return _mm256_fmadd_ps(x, y, sum); }
Lanes less_product(Lanes x, Lanes y, Lanes sum) { return _mm256_fnmadd_ps(x, y, sum); }
#endif

constexpr int kPanel = 2 * kLanes;
static_assert(kWinogradTiles % kRows == 0 && kPanel <= kWinogradMaxPanel && kWinogradChannels % kLanes == 0);

constexpr float kA = 0.70710678118654752f, kB = 1.41421356237309505f;
constexpr float kA2 = 0.5f, kB2 = 2.0f, kSum = 2.5f;  // a^2, b^2, a^2 + b^2; a^2 b^2 is 1

// v = B^T d
void transform_input(const Lanes d[6], Lanes v[6]) {
    const Lanes even_a = less_product(set(kB2), d[2], d[4]), even_b = less_product(set(kA2), d[2], d[4]);
    const Lanes odd_a = multiply(set(kA), less_product(set(kB2), d[1], d[3]));
    const Lanes odd_b = multiply(set(kB), less_product(set(kA2), d[1], d[3]));
    v[0] = add(less_product(set(kSum), d[2], d[0]), d[4]);
    v[1] = add(even_a, odd_a);
    v[2] = subtract(even_a, odd_a);
    v[3] = add(even_b, odd_b);
    v[4] = subtract(even_b, odd_b);
    v[5] = add(less_product(set(kSum), d[3], d[1]), d[5]);
}

// y = A^T m
void transform_output(const Lanes m[6], Lanes y[4]) {
    const Lanes sum_a = add(m[1], m[2]), difference_a = subtract(m[1], m[2]);
    const Lanes sum_b = add(m[3], m[4]), difference_b = subtract(m[3], m[4]);
    y[0] = add(add(m[0], sum_a), sum_b);
    y[1] = add_product(set(kA), difference_a, multiply(set(kB), difference_b));
    y[2] = add_product(set(kA2), sum_a, multiply(set(kB2), sum_b));
    y[3] = add_product(set(kA2 * kA), difference_a, add_product(set(kB2 * kB), difference_b, m[5]));
}

// m (kRows, kPanel) = v (kRows, C) u (C, kPanel)
void multiply_rows(const float* v, int64_t c, const float* u, float* m) {
    Lanes sums[kRows][2];
#pragma GCC unroll 12
    for (int r = 0; r < kRows; r++) sums[r][0] = sums[r][1] = set(0.0f);
    const float* rows[4] = {v, v + 3 * c, v + 6 * c, v + 9 * c};  // three rows off each: what one address can reach
    for (int64_t i = 0; i < c; i++, u += kPanel) {
        const Lanes u0 = load(u), u1 = load(u + kLanes);
#pragma GCC unroll 12
        for (int r = 0; r < kRows; r++) {
            const Lanes x = set(rows[r / 3][r % 3 * c + i]);
            sums[r][0] = add_product(x, u0, sums[r][0]);
            sums[r][1] = add_product(x, u1, sums[r][1]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < kRows; r++) {
        store(m + r * kPanel, sums[r][0]);
        store(m + r * kPanel + kLanes, sums[r][1]);
    }
}

// Transforms the 6 x 6 inputs of one tile into the 36 planes of v.
void load_tile(const WinogradParams& p, const WinogradGrid& grid, int64_t tile, float* v) {
    const int64_t image = tile / (grid.tiles_y * grid.tiles_x);
    const int64_t top = 4 * (tile / grid.tiles_x % grid.tiles_y) - p.padding;
    const int64_t left = 4 * (tile % grid.tiles_x) - p.padding;
    const float* x = p.x + image * p.h * p.w * p.c;
    for (int64_t c = 0; c < p.c; c += kLanes) {
        Lanes half[6][6];  // [column][row]
        for (int64_t j = 0; j < 6; j++) {
            Lanes d[6];
            for (int64_t i = 0; i < 6; i++) {
                const int64_t row = top + i, column = left + j;
                const bool inside = row >= 0 && row < p.h && column >= 0 && column < p.w;
                d[i] = inside ? load(x + (row * p.w + column) * p.c + c) : set(0.0f);
            }
            transform_input(d, half[j]);
        }
        for (int i = 0; i < 6; i++) {
            const Lanes d[6] = {half[0][i], half[1][i], half[2][i], half[3][i], half[4][i], half[5][i]};
            Lanes transformed[6];
            transform_input(d, transformed);
            for (int j = 0; j < 6; j++) store(v + (6 * i + j) * grid.v_plane + c, transformed[j]);
        }
    }
}

// Output channels panel .. panel + kPanel of one tile from the 36 planes of m: transform, bias, ReLU.
void store_tile(const WinogradParams& p, const WinogradGrid& grid, int64_t tile, const float* m, int64_t panel) {
    const int64_t image = tile / (grid.tiles_y * grid.tiles_x);
    const int64_t top = 4 * (tile / grid.tiles_x % grid.tiles_y), left = 4 * (tile % grid.tiles_x);
    const int64_t rows = grid.out_h - top < 4 ? grid.out_h - top : 4;
    const int64_t columns = grid.out_w - left < 4 ? grid.out_w - left : 4;
    float* out = p.out + ((image * grid.out_h + top) * grid.out_w + left) * p.k + panel;
    for (int lane = 0; lane < kPanel; lane += kLanes) {
        const Lanes bias = load(p.bias + panel + lane);
        Lanes half[6][4];  // [column][row]
        for (int j = 0; j < 6; j++) {
            Lanes d[6];
            for (int i = 0; i < 6; i++) d[i] = load(m + (6 * i + j) * grid.m_plane + lane);
            transform_output(d, half[j]);
        }
        for (int64_t i = 0; i < rows; i++) {
            const Lanes d[6] = {half[0][i], half[1][i], half[2][i], half[3][i], half[4][i], half[5][i]};
            Lanes y[4];
            transform_output(d, y);
            for (int64_t j = 0; j < columns; j++)
                store(out + (i * grid.out_w + j) * p.k + lane, larger(add(y[j], bias), set(0.0f)));
        }
    }
}

void winograd_block(const WinogradParams& p, const WinogradGrid& grid, int64_t first, int64_t count, float* scratch) {
    float *v = scratch, *m = v + kWinogradPoints * grid.v_plane;
    for (int64_t t = 0; t < count; t++) load_tile(p, grid, first + t, v + t * p.c);
    for (int64_t panel = 0; panel < p.k; panel += kPanel) {
        for (int i = 0; i < kWinogradPoints; i++) {
            const float* u = p.weight + (panel * kWinogradPoints + i * kPanel) * p.c;
            for (int64_t t = 0; t < count; t += kRows)  // rows past `count` hold what an earlier block left: unused
                multiply_rows(v + i * grid.v_plane + t * p.c, p.c, u, m + i * grid.m_plane + t * kPanel);
        }
        for (int64_t t = 0; t < count; t++) store_tile(p, grid, first + t, m + t * kPanel, panel);
    }
}

}  // namespace
}  // namespace fidfast
