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
static_assert(kWinogradRowGroup % kRows == 0 && kPanel <= kWinogradMaxPanel && kWinogradChannels % kLanes == 0);

// One axis of a tile: kOutputs outputs of the polynomial products at 0, +-points[..], infinity.
template <const auto& points, int outputs>
struct Axis {
    static constexpr int kPairs = int(sizeof(points) / sizeof(float)), kPoints = 2 * kPairs + 2, kOutputs = outputs;

    // Coefficients of the product of (y - p^2) over all points p but number `left_out`; the leading one is 1.
    struct Polynomial {
        float at[kPairs + 1] = {};
        constexpr explicit Polynomial(int left_out) {
            double product[kPairs + 2] = {1.0};
            for (int p = 0; p < kPairs; p++) {
                if (p == left_out) continue;
                for (int k = kPairs; k >= 0; k--)
                    product[k] = (k ? product[k - 1] : 0.0) - double(points[p]) * points[p] * product[k];
            }
            for (int k = 0; k <= kPairs; k++) at[k] = float(product[k]);
        }
    };

    // sum of at[k] d[2 k] up to the leading term number `degree`
    static Lanes every_second(const Polynomial& polynomial, int degree, const Lanes* d) {
        Lanes sum = d[2 * degree];
#pragma GCC unroll 8
        for (int k = degree - 1; k >= 0; k--) sum = add_product(set(polynomial.at[k]), d[2 * k], sum);
        return sum;
    }

    // v = B^T d
    static void transform_input(const Lanes d[kPoints], Lanes v[kPoints]) {
        constexpr Polynomial all(-1);
        v[0] = every_second(all, kPairs, d);
        v[kPoints - 1] = every_second(all, kPairs, d + 1);
#pragma GCC unroll 8
        for (int p = 0; p < kPairs; p++) {
            const Polynomial others(p);
            const Lanes even = every_second(others, kPairs - 1, d + 2), odd = every_second(others, kPairs - 1, d + 1);
            v[1 + 2 * p] = add_product(set(points[p]), odd, even);
            v[2 + 2 * p] = less_product(set(points[p]), odd, even);
        }
    }

    // y = A^T m
    static void transform_output(const Lanes m[kPoints], Lanes y[outputs]) {
        y[0] = m[0];
#pragma GCC unroll 8
        for (int j = 1; j < outputs; j++) y[j] = j == outputs - 1 ? m[kPoints - 1] : set(0.0f);
#pragma GCC unroll 8
        for (int p = 0; p < kPairs; p++) {
            const Lanes sum = add(m[1 + 2 * p], m[2 + 2 * p]), difference = subtract(m[1 + 2 * p], m[2 + 2 * p]);
            float power = points[p];
            y[0] = add(y[0], sum);
#pragma GCC unroll 8
            for (int j = 1; j < outputs; j++, power *= points[p])
                y[j] = add_product(set(power), j % 2 ? difference : sum, y[j]);
        }
    }
};

// The axis along which the filter has one tap.
struct NoAxis {
    static constexpr int kPoints = 1, kOutputs = 1;
    static void transform_input(const Lanes d[1], Lanes v[1]) { v[0] = d[0]; }
    static void transform_output(const Lanes m[1], Lanes y[1]) { y[0] = m[0]; }
};

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

// Transforms the inputs of one tile into the planes of v.
template <class Y, class X>
void load_tile(const WinogradParams& p, const WinogradGrid& grid, int64_t tile, float* v) {
    const int64_t image = tile / (grid.tiles_y * grid.tiles_x);
    const int64_t top = Y::kOutputs * (tile / grid.tiles_x % grid.tiles_y) - p.padding_y;
    const int64_t left = X::kOutputs * (tile % grid.tiles_x) - p.padding_x;
    const float* x = p.x + image * p.h * p.w * p.c;
    for (int64_t c = 0; c < p.c; c += kLanes) {
        Lanes half[Y::kPoints][X::kPoints];
        for (int64_t j = 0; j < X::kPoints; j++) {
            Lanes d[Y::kPoints], transformed[Y::kPoints];
            for (int64_t i = 0; i < Y::kPoints; i++) {
                const int64_t row = top + i, column = left + j;
                const bool inside = row >= 0 && row < p.h && column >= 0 && column < p.w;
                d[i] = inside ? load(x + (row * p.w + column) * p.c + c) : set(0.0f);
            }
            Y::transform_input(d, transformed);
            for (int i = 0; i < Y::kPoints; i++) half[i][j] = transformed[i];
        }
        for (int i = 0; i < Y::kPoints; i++) {
            Lanes transformed[X::kPoints];
            X::transform_input(half[i], transformed);
            for (int j = 0; j < X::kPoints; j++) store(v + (X::kPoints * i + j) * grid.v_plane + c, transformed[j]);
        }
    }
}

// Output channels panel .. panel + kPanel of one tile from the planes of m: transform, bias, ReLU.
template <class Y, class X>
void store_tile(const WinogradParams& p, const WinogradGrid& grid, int64_t tile, const float* m, int64_t panel) {
    const int64_t image = tile / (grid.tiles_y * grid.tiles_x);
    const int64_t top = Y::kOutputs * (tile / grid.tiles_x % grid.tiles_y);
    const int64_t left = X::kOutputs * (tile % grid.tiles_x);
    const int64_t rows = grid.out_h - top < Y::kOutputs ? grid.out_h - top : Y::kOutputs;
    const int64_t columns = grid.out_w - left < X::kOutputs ? grid.out_w - left : X::kOutputs;
    float* out = p.out + ((image * grid.out_h + top) * grid.out_w + left) * p.k + panel;
    for (int lane = 0; lane < kPanel; lane += kLanes) {
        const Lanes bias = load(p.bias + panel + lane);
        Lanes half[Y::kOutputs][X::kPoints];
        for (int j = 0; j < X::kPoints; j++) {
            Lanes d[Y::kPoints], y[Y::kOutputs];
            for (int i = 0; i < Y::kPoints; i++) d[i] = load(m + (X::kPoints * i + j) * grid.m_plane + lane);
            Y::transform_output(d, y);
            for (int i = 0; i < Y::kOutputs; i++) half[i][j] = y[i];
        }
        for (int64_t i = 0; i < rows; i++) {
            Lanes y[X::kOutputs];
            X::transform_output(half[i], y);
            for (int64_t j = 0; j < columns; j++)
                store(out + (i * grid.out_w + j) * p.k + lane, larger(add(y[j], bias), set(0.0f)));
        }
    }
}

template <class Y, class X>
void winograd_block(const WinogradParams& p, const WinogradGrid& grid, int64_t first, int64_t count, float* scratch) {
    constexpr int kPoints = Y::kPoints * X::kPoints;
    float *v = scratch, *m = v + kPoints * grid.v_plane;
    for (int64_t t = 0; t < count; t++) load_tile<Y, X>(p, grid, first + t, v + t * p.c);
    for (int64_t panel = 0; panel < p.k; panel += kPanel) {
        for (int i = 0; i < kPoints; i++) {
            const float* u = p.weight + (panel * kPoints + i * kPanel) * p.c;
            for (int64_t t = 0; t < count; t += kRows)  // rows past `count` hold what an earlier block left: unused
                multiply_rows(v + i * grid.v_plane + t * p.c, p.c, u, m + i * grid.m_plane + t * kPanel);
        }
        for (int64_t t = 0; t < count; t++) store_tile<Y, X>(p, grid, first + t, m + t * kPanel, panel);
    }
}

template <class Y, class X>
constexpr WinogradKernel kernel_of(int taps_y, int taps_x, const char* level) {
    return {taps_y, taps_x, Y::kOutputs, X::kOutputs, Y::kPoints, X::kPoints, level, kPanel, &winograd_block<Y, X>};
}

using Six4 = Axis<kSixPoints, 4>;  // three taps
using Six2 = Axis<kSixPoints, 2>;  // five
using Ten4 = Axis<kTenPoints, 4>;  // seven
#if defined(__AVX512F__)
constexpr const char* kLevel = "avx512";
#else
constexpr const char* kLevel = "avx2";
#endif
constexpr WinogradKernel kKernels[] = {
    kernel_of<Six4, Six4>(3, 3, kLevel),   kernel_of<Six2, Six2>(5, 5, kLevel),   kernel_of<NoAxis, Six4>(1, 3, kLevel),
    kernel_of<Six4, NoAxis>(3, 1, kLevel), kernel_of<NoAxis, Ten4>(1, 7, kLevel), kernel_of<Ten4, NoAxis>(7, 1, kLevel),
};

}  // namespace
}  // namespace fidfast
