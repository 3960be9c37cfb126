// CUDA's half for g++: conversions round to nearest even; arithmetic goes through float.
#pragma once

#include <cstdint>
#include <cstring>

#include "emulation/vector_types.h"

struct __half_raw { unsigned short x; };

struct __half {
    unsigned short bits;

    __half() = default;
    __half(__half_raw raw) : bits(raw.x) {}
    __half(float value) : bits(round(value)) {}
    __half(double value) : bits(round(float(value))) {}
    __half(int value) : bits(round(float(value))) {}
    operator float() const {
        const uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
        if (exponent == 0) {  // zero or subnormal: a multiple of 2^-24
            const float value = float(fraction) * 0x1p-24f;
            return sign ? -value : value;
        }
        const uint32_t word = sign | (exponent == 31 ? 0xff : exponent + 112) << 23 | fraction << 13;
        float value;
        std::memcpy(&value, &word, 4);
        return value;
    }

private:
    static unsigned short round(float value) {
        uint32_t word;
        std::memcpy(&word, &value, 4);
        const uint32_t sign = word >> 16 & 0x8000, magnitude = word & 0x7fffffff;
        if (magnitude > 0x7f800000) return 0x7fff;                                  // NaN, as the device writes it
        if (magnitude >= 0x477ff000) return static_cast<unsigned short>(sign | 0x7c00);  // 65520 and more: infinity
        if (magnitude < 0x38800000) {                                               // below 2^-14: a multiple of 2^-24
            float small;
            std::memcpy(&small, &magnitude, 4);
            small += 0.5f;  // the sum's last bit is 2^-24, so the addition rounds as wanted
            uint32_t rounded;
            std::memcpy(&rounded, &small, 4);
            return static_cast<unsigned short>(sign | (rounded - 0x3f000000));
        }
        const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1) - (112u << 23);
        return static_cast<unsigned short>(sign | rounded >> 13);
    }
};

struct alignas(4) __half2 {
    __half x, y;
};
using half = __half;
using half2 = __half2;

inline float __half2float(__half a) { return a; }
inline __half __float2half(float a) { return __half(a); }
inline __half __float2half_rn(float a) { return __half(a); }
inline __half __double2half(double a) { return __half(float(a)); }
inline __half2 __floats2half2_rn(float a, float b) { return {__half(a), __half(b)}; }
inline __half2 __halves2half2(__half a, __half b) { return {a, b}; }
inline float2 __half22float2(__half2 a) { return {float(a.x), float(a.y)}; }
inline float __low2float(__half2 a) { return a.x; }
inline float __high2float(__half2 a) { return a.y; }
inline unsigned short __half_as_ushort(__half a) { return a.bits; }
inline __half __ushort_as_half(unsigned short a) { return __half(__half_raw{a}); }
