// CUDA's small vectors, with its sizes and alignments.
#pragma once

#include <cstdint>

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define FIDFAST_VECTORS(name, T)                                                                                      \
    struct alignas(sizeof(T)) name##1 { T x; };                                                                       \
    struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                                                \
    struct name##3 { T x, y, z; };                                                                                    \
    struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) name##4 { T x, y, z, w; };                                \
    static inline name##1 make_##name##1(T x) { return {x}; }                                                         \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                                 \
    static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                                         \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

using uchar = unsigned char;
using ushort = unsigned short;
using uint = unsigned int;
FIDFAST_VECTORS(char, signed char)
FIDFAST_VECTORS(uchar, unsigned char)
FIDFAST_VECTORS(short, short)
FIDFAST_VECTORS(ushort, unsigned short)
FIDFAST_VECTORS(int, int)
FIDFAST_VECTORS(uint, unsigned)
FIDFAST_VECTORS(longlong, long long)
FIDFAST_VECTORS(ulonglong, unsigned long long)
FIDFAST_VECTORS(float, float)
FIDFAST_VECTORS(double, double)
#undef FIDFAST_VECTORS
