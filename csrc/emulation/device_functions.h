// Arithmetic, bit and atomic functions of device code. Rounding is to nearest even; build with -ffp-contract=off.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "emulation/races.h"

// ---------------------------------------------------------------------------------------------------------------------
// min, max: CUDA has these for every pair of arithmetic types
// ---------------------------------------------------------------------------------------------------------------------

template <class A, class B, class T = std::common_type_t<A, B>>
constexpr std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>, T> min(A a, B b) {
    if constexpr (std::is_floating_point_v<T>) return T(std::fmin(T(a), T(b)));
    return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B, class T = std::common_type_t<A, B>>
constexpr std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>, T> max(A a, B b) {
    if constexpr (std::is_floating_point_v<T>) return T(std::fmax(T(a), T(b)));
    return T(a) < T(b) ? T(b) : T(a);
}

// ---------------------------------------------------------------------------------------------------------------------
// Floating point
// ---------------------------------------------------------------------------------------------------------------------

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
inline double __drcp_rn(double a) { return 1.0 / a; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __saturatef(float a) { return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; }  // NaN becomes 0
inline float rsqrtf(float a) { return 1.0f / std::sqrt(a); }
inline double rsqrt(double a) { return 1.0 / std::sqrt(a); }

// Out of range saturates and NaN becomes 0, as the device's instructions do.
template <class To, class From>
To fidfast_saturate(From rounded) {
    using Limits = std::numeric_limits<To>;
    if (rounded != rounded) return 0;
    if (rounded <= From(Limits::min())) return Limits::min();
    if (rounded >= From(Limits::max())) return Limits::max();
    return To(rounded);
}
#define FIDFAST_CONVERT(name, From, To)                                                                               \
    inline To name##_rn(From a) { return fidfast_saturate<To>(std::nearbyint(a)); }                                   \
    inline To name##_rz(From a) { return fidfast_saturate<To>(std::trunc(a)); }                                       \
    inline To name##_rd(From a) { return fidfast_saturate<To>(std::floor(a)); }                                       \
    inline To name##_ru(From a) { return fidfast_saturate<To>(std::ceil(a)); }
FIDFAST_CONVERT(__float2int, float, int)
FIDFAST_CONVERT(__float2uint, float, unsigned)
FIDFAST_CONVERT(__float2ll, float, long long)
FIDFAST_CONVERT(__float2ull, float, unsigned long long)
FIDFAST_CONVERT(__double2int, double, int)
FIDFAST_CONVERT(__double2uint, double, unsigned)
FIDFAST_CONVERT(__double2ll, double, long long)
FIDFAST_CONVERT(__double2ull, double, unsigned long long)
#undef FIDFAST_CONVERT
inline float __int2float_rn(int a) { return float(a); }
inline float __uint2float_rn(unsigned a) { return float(a); }
inline float __ll2float_rn(long long a) { return float(a); }
inline float __ull2float_rn(unsigned long long a) { return float(a); }
inline float __double2float_rn(double a) { return float(a); }
inline double __int2double_rn(int a) { return double(a); }
inline double __uint2double_rn(unsigned a) { return double(a); }
inline double __ll2double_rn(long long a) { return double(a); }
inline double __ull2double_rn(unsigned long long a) { return double(a); }

// ---------------------------------------------------------------------------------------------------------------------
// Bits
// ---------------------------------------------------------------------------------------------------------------------

template <class To, class From>
To fidfast_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
inline int __float_as_int(float a) { return fidfast_bits<int>(a); }
inline unsigned __float_as_uint(float a) { return fidfast_bits<unsigned>(a); }
inline float __int_as_float(int a) { return fidfast_bits<float>(a); }
inline float __uint_as_float(unsigned a) { return fidfast_bits<float>(a); }
inline long long __double_as_longlong(double a) { return fidfast_bits<long long>(a); }
inline double __longlong_as_double(long long a) { return fidfast_bits<double>(a); }
inline int __mulhi(int a, int b) { return int(int64_t(a) * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    __extension__ using wide = unsigned __int128;
    return static_cast<unsigned long long>(wide(a) * b >> 64);
}
inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
inline int __clz(int a) { return a ? __builtin_clz(unsigned(a)) : 32; }
inline int __clzll(long long a) { return a ? __builtin_clzll(static_cast<unsigned long long>(a)) : 64; }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline int __ffsll(long long a) { return __builtin_ffsll(a); }
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    const uint64_t bytes = uint64_t(b) << 32 | a;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned nibble = selector >> 4 * i & 0xf, byte = unsigned(bytes >> 8 * (nibble & 7)) & 0xff;
        out |= (nibble & 8 ? (byte & 0x80 ? 0xffu : 0u) : byte) << 8 * i;
    }
    return out;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return unsigned((uint64_t(high) << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return unsigned((uint64_t(high) << 32 | low) >> (shift & 31));
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    for (int i = 0; i < 32; i += 8) c += (a >> i & 0xff) * (b >> i & 0xff);
    return c;
}

// ---------------------------------------------------------------------------------------------------------------------
// Memory
// ---------------------------------------------------------------------------------------------------------------------

template <class T> T __ldg(const T* from) { return *from; }
template <class T> T __ldcg(const T* from) { return *from; }
template <class T> T __ldca(const T* from) { return *from; }
template <class T> T __ldcs(const T* from) { return *from; }
template <class T> void __stcg(T* to, T value) { *to = value; }
template <class T> void __stcs(T* to, T value) { *to = value; }
template <class T> void __stwt(T* to, T value) { *to = value; }
inline void __threadfence() {}
inline void __threadfence_block() {}

// One thread runs at a time, so these are plain, and no race for the compiler to report.
#define FIDFAST_UNWATCHED __attribute__((no_sanitize("thread")))
#define FIDFAST_ATOMIC(name, T, expression)                                                                           \
    FIDFAST_UNWATCHED inline T name(T* address, T value) {                                                            \
        fidfast::emulation::note_atomic(address, sizeof(T));                                                          \
        const T old = *address;                                                                                       \
        *address = expression;                                                                                        \
        return old;                                                                                                   \
    }
#define FIDFAST_ATOMIC_INTEGERS(T)                                                                                    \
    FIDFAST_ATOMIC(atomicAdd, T, old + value)                                                                         \
    FIDFAST_ATOMIC(atomicMin, T, old < value ? old : value)                                                           \
    FIDFAST_ATOMIC(atomicMax, T, old < value ? value : old)                                                           \
    FIDFAST_ATOMIC(atomicAnd, T, old & value)                                                                         \
    FIDFAST_ATOMIC(atomicOr, T, old | value)                                                                          \
    FIDFAST_ATOMIC(atomicXor, T, old ^ value)                                                                         \
    FIDFAST_ATOMIC(atomicExch, T, value)                                                                              \
    FIDFAST_UNWATCHED inline T atomicCAS(T* address, T compare, T value) {                                            \
        fidfast::emulation::note_atomic(address, sizeof(T));                                                          \
        const T old = *address;                                                                                       \
        *address = old == compare ? value : old;                                                                      \
        return old;                                                                                                   \
    }
FIDFAST_ATOMIC_INTEGERS(int)
FIDFAST_ATOMIC_INTEGERS(unsigned)
FIDFAST_ATOMIC_INTEGERS(unsigned long long)
FIDFAST_ATOMIC(atomicAdd, float, old + value)
FIDFAST_ATOMIC(atomicAdd, double, old + value)
FIDFAST_ATOMIC(atomicExch, float, value)
#undef FIDFAST_ATOMIC_INTEGERS
#undef FIDFAST_ATOMIC
#undef FIDFAST_UNWATCHED
