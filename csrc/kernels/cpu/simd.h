// Eight words, floats or doubles at a time, for the instruction set that this file's includer is compiled for.
// Everything has internal linkage: code for AVX-512 must never be the linker's choice on a CPU without it. Products are
// never fused with sums: Pillow rounds them, and so all instruction sets give the same bits.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace fidfast {
namespace {

#if defined(__AVX2__)

struct Words8 {
    __m256i v;
    static Words8 load(const void* p) { return {_mm256_loadu_si256(static_cast<const __m256i*>(p))}; }
    void store(void* p) const { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
};

struct Floats8 {
    using Real = float;
    __m256 v;
    static Floats8 zero() { return {_mm256_setzero_ps()}; }
    static Floats8 broadcast(float x) { return {_mm256_set1_ps(x)}; }
    static Floats8 load(const float* p) { return {_mm256_loadu_ps(p)}; }
    static Floats8 of_integers(__m256i x) { return {_mm256_cvtepi32_ps(x)}; }
    static Floats8 of_floats(__m256i bits) { return {_mm256_castsi256_ps(bits)}; }
    void add_product(Floats8 a, Floats8 b) { v = _mm256_add_ps(v, _mm256_mul_ps(a.v, b.v)); }
    Floats8 to_floats() const { return *this; }
    void store(float* p) const { _mm256_storeu_ps(p, v); }
    Floats8 clamp(float low, float high) const {
        return {_mm256_min_ps(_mm256_max_ps(v, _mm256_set1_ps(low)), _mm256_set1_ps(high))};
    }
    Floats8 normalise(float centre, float scale) const {
        return {_mm256_mul_ps(_mm256_sub_ps(v, _mm256_set1_ps(centre)), _mm256_set1_ps(scale))};
    }
    __m128i to_half() const { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
    __m128i to_bfloat16() const {  // ties to even; values are finite here
        const __m256i bits = _mm256_castps_si256(v);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
        const __m256i words = _mm256_srli_epi32(rounded, 16);
        return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    }
};

#if defined(__AVX512F__)

struct Doubles8 {
    using Real = double;
    __m512d v;
    static Doubles8 zero() { return {_mm512_setzero_pd()}; }
    static Doubles8 broadcast(double x) { return {_mm512_set1_pd(x)}; }
    static Doubles8 load(const double* p) { return {_mm512_loadu_pd(p)}; }
    static Doubles8 load(const float* p) { return {_mm512_cvtps_pd(_mm256_loadu_ps(p))}; }
    void store(double* p) const { _mm512_storeu_pd(p, v); }
    Floats8 to_floats() const { return {_mm512_cvtpd_ps(v)}; }
    static Doubles8 of_integers(__m256i x) { return {_mm512_cvtepi32_pd(x)}; }
    static Doubles8 of_floats(__m256i bits) { return {_mm512_cvtps_pd(_mm256_castsi256_ps(bits))}; }
    void add_product(Doubles8 a, Doubles8 b) { v = _mm512_add_pd(v, _mm512_mul_pd(a.v, b.v)); }
};

#else

struct Doubles8 {
    using Real = double;
    __m256d lo, hi;
    static Doubles8 zero() { return {_mm256_setzero_pd(), _mm256_setzero_pd()}; }
    static Doubles8 broadcast(double x) { return {_mm256_set1_pd(x), _mm256_set1_pd(x)}; }
    static Doubles8 load(const double* p) { return {_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)}; }
    static Doubles8 load(const float* p) {
        return {_mm256_cvtps_pd(_mm_loadu_ps(p)), _mm256_cvtps_pd(_mm_loadu_ps(p + 4))};
    }
    void store(double* p) const {
        _mm256_storeu_pd(p, lo);
        _mm256_storeu_pd(p + 4, hi);
    }
    Floats8 to_floats() const { return {_mm256_set_m128(_mm256_cvtpd_ps(hi), _mm256_cvtpd_ps(lo))}; }
    static Doubles8 of_integers(__m256i x) {
        return {_mm256_cvtepi32_pd(_mm256_castsi256_si128(x)), _mm256_cvtepi32_pd(_mm256_extracti128_si256(x, 1))};
    }
    static Doubles8 of_floats(__m256i bits) {
        const __m256 x = _mm256_castsi256_ps(bits);
        return {_mm256_cvtps_pd(_mm256_castps256_ps128(x)), _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1))};
    }
    void add_product(Doubles8 a, Doubles8 b) {
        lo = _mm256_add_pd(lo, _mm256_mul_pd(a.lo, b.lo));
        hi = _mm256_add_pd(hi, _mm256_mul_pd(a.hi, b.hi));
    }
};

#endif

// Byte `channel` of every word.
template <typename Lanes, int channel>
Lanes channel_of(Words8 pixels) {
    return Lanes::of_integers(_mm256_and_si256(_mm256_srli_epi32(pixels.v, 8 * channel), _mm256_set1_epi32(255)));
}
template <typename Lanes>
Lanes floats_of(Words8 bits) {
    return Lanes::of_floats(bits.v);
}
Words8 float_bits(Floats8 x) { return {_mm256_castps_si256(x.v)}; }

void transpose(Words8 m[8]) {
    __m256i a[8], b[8];
    for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm256_unpacklo_epi32(m[2 * i].v, m[2 * i + 1].v);
        a[2 * i + 1] = _mm256_unpackhi_epi32(m[2 * i].v, m[2 * i + 1].v);
    }
    for (int i = 0; i < 2; i++) {
        b[4 * i] = _mm256_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
        b[4 * i + 1] = _mm256_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
        b[4 * i + 2] = _mm256_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
        b[4 * i + 3] = _mm256_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        m[i].v = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
        m[i + 4].v = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
    }
}

// Adds to sums[j] the products (w0 + k0)(w1 + k1) over the pixel pairs of one segment of 64.
void add_segment_products(const uint32_t* pixels, const uint32_t* keys0, const uint32_t* keys1, uint64_t sums[2]) {
    __m256i sum0 = _mm256_setzero_si256(), sum1 = sum0;
    for (int i = 0; i < 64; i += 8) {
        const __m256i w = Words8::load(pixels + i).v;
        const __m256i a = _mm256_add_epi32(w, Words8::load(keys0 + i).v);
        const __m256i b = _mm256_add_epi32(w, Words8::load(keys1 + i).v);
        sum0 = _mm256_add_epi64(sum0, _mm256_mul_epu32(a, _mm256_srli_epi64(a, 32)));
        sum1 = _mm256_add_epi64(sum1, _mm256_mul_epu32(b, _mm256_srli_epi64(b, 32)));
    }
    // both sums at once: (a0 + a1, b0 + b1) of each half, then the halves
    const __m256i pairs = _mm256_add_epi64(_mm256_unpacklo_epi64(sum0, sum1), _mm256_unpackhi_epi64(sum0, sum1));
    const __m128i both = _mm_add_epi64(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    sums[0] += uint64_t(_mm_cvtsi128_si64(both));
    sums[1] += uint64_t(_mm_extract_epi64(both, 1));
}

// Pixels of eight adjacent R, G, B byte triples; reads 28 bytes.
void pack_triples(const uint8_t* p, uint32_t* pixels) {
    const __m256i bytes = _mm256_set_m128i(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 12)),
                                           _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m256i spread = _mm256_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1,  //
                                            0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1);
    Words8{_mm256_shuffle_epi8(bytes, spread)}.store(pixels);
}

#else  // plain C++: the compiler vectorises these loops for the baseline (SSE2, NEON)

struct Words8 {
    uint32_t v[8];
    static Words8 load(const void* p) {
        Words8 x;
        std::memcpy(x.v, p, sizeof x.v);
        return x;
    }
    void store(void* p) const { std::memcpy(p, v, sizeof v); }
};

// IEEE half, ties to even; overflow gives infinity.
uint16_t half_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude >= 0x47800000) return uint16_t(sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00));
    if (magnitude < 0x38800000) {  // subnormal: adding 0.5 leaves the rounded half in the low bits
        float f;
        std::memcpy(&f, &magnitude, 4);
        f += 0.5f;
        uint32_t r;
        std::memcpy(&r, &f, 4);
        return uint16_t(sign | (r - 0x3f000000));
    }
    return uint16_t(sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13));
}

// bfloat16, ties to even; values are finite here.
uint16_t bfloat16_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

struct Words16Bit {
    uint16_t v[8];
};

template <typename T>
struct Lanes8 {
    using Real = T;
    T v[8];
    static Lanes8 zero() { return Lanes8{}; }
    static Lanes8 broadcast(T x) { return {{x, x, x, x, x, x, x, x}}; }
    template <typename From>
    static Lanes8 load(const From* p) {
        Lanes8 x;
        for (int i = 0; i < 8; i++) x.v[i] = T(p[i]);
        return x;
    }
    void store(T* p) const { std::memcpy(p, v, sizeof v); }
    void add_product(const Lanes8& a, const Lanes8& b) {
        for (int i = 0; i < 8; i++) v[i] += a.v[i] * b.v[i];
    }
    Lanes8<float> to_floats() const { return Lanes8<float>::load(v); }
    Lanes8 clamp(T low, T high) const {
        Lanes8 x = *this;
        for (T& f : x.v) f = f < low ? low : f > high ? high : f;
        return x;
    }
    Lanes8 normalise(T centre, T scale) const {
        Lanes8 x = *this;
        for (T& f : x.v) f = (f - centre) * scale;
        return x;
    }
    Words16Bit to_half() const {
        Words16Bit x;
        for (int i = 0; i < 8; i++) x.v[i] = half_of(v[i]);
        return x;
    }
    Words16Bit to_bfloat16() const {
        Words16Bit x;
        for (int i = 0; i < 8; i++) x.v[i] = bfloat16_of(v[i]);
        return x;
    }
};
using Floats8 = Lanes8<float>;
using Doubles8 = Lanes8<double>;

template <typename Lanes, int channel>
Lanes channel_of(const Words8& pixels) {
    Lanes x;
    for (int i = 0; i < 8; i++) x.v[i] = typename Lanes::Real(int32_t(pixels.v[i] >> (8 * channel) & 255));
    return x;
}
template <typename Lanes>
Lanes floats_of(const Words8& bits) {
    float f[8];
    bits.store(f);
    return Lanes::load(f);
}
Words8 float_bits(const Floats8& x) { return Words8::load(x.v); }

void transpose(Words8 m[8]) {
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < i; j++) {
            const uint32_t t = m[i].v[j];
            m[i].v[j] = m[j].v[i];
            m[j].v[i] = t;
        }
}

void add_segment_products(const uint32_t* pixels, const uint32_t* keys0, const uint32_t* keys1, uint64_t sums[2]) {
    for (int i = 0; i < 64; i += 2) {
        sums[0] += uint64_t(pixels[i] + keys0[i]) * (pixels[i + 1] + keys0[i + 1]);
        sums[1] += uint64_t(pixels[i] + keys1[i]) * (pixels[i + 1] + keys1[i + 1]);
    }
}

void pack_triples(const uint8_t* p, uint32_t* pixels) {
    for (int i = 0; i < 8; i++, p += 3) pixels[i] = uint32_t(p[0]) | uint32_t(p[1]) << 8 | uint32_t(p[2]) << 16;
}

#endif

}  // namespace
}  // namespace fidfast
