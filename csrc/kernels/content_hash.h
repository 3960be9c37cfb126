// A 128-bit hash of an image's content over (y, x, R, G, B), H and W; for host and device code.
//
// A segment of 64 pixels along a row is hashed by NH (Black et al., UMAC, 1999): the sum over pixel pairs of
// (w0 + k0)(w1 + k1), w = R + 256 G + 65536 B: one 32x32-bit multiplication for two pixels, no carry, no order. The
// segment's place is added, the sum mixed, and the mixed segments of the image are summed: so the hash is the same for
// every memory layout, device, thread count and order of work. Pixels past the end of a row count as zero; H and W
// enter at the end. Everything is modulo 2^64, twice, with keys and multipliers of its own each time.
#pragma once

#include <cstdint>

#include "kernels/resample.h"

namespace fidfast {

constexpr int kHashSegment = 64;
constexpr uint64_t kGolden = 0x9E3779B97F4A7C15;
constexpr uint64_t kSegmentMultipliers[2] = {0xBF58476D1CE4E5B9, 0x94D049BB133111EB};

// Finaliser of splitmix64 (Steele, Lea, Flood 2014).
FIDFAST_HOST_DEVICE static constexpr uint64_t mix64(uint64_t x) {
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
    x = (x ^ x >> 27) * 0x94D049BB133111EB;
    return x ^ x >> 31;
}

struct HashKeys {
    uint32_t k[2][kHashSegment];
};

// Keys lie in [2^30, 2^30 + 2^31): a key plus a pixel neither wraps nor is zero, so one changed pixel always shows.
static constexpr HashKeys make_hash_keys() {
    HashKeys keys{};
    for (int j = 0; j < 2; j++)
        for (int i = 0; i < kHashSegment; i++)
            keys.k[j][i] = uint32_t((1u << 30) + (mix64(uint64_t(j * kHashSegment + i + 1) * kGolden) >> 33));
    return keys;
}

// The mixed value of a segment, to be added to half j of its image's sum.
FIDFAST_HOST_DEVICE static inline uint64_t mix_segment(int j, uint64_t product_sum, int64_t y, int64_t segment) {
    constexpr uint64_t first = kSegmentMultipliers[0], second = kSegmentMultipliers[1];  // device code has no array
    uint64_t x = product_sum + ((uint64_t(y) << 20) + uint64_t(segment) + 1) * kGolden;
    x ^= x >> 29;
    x *= j == 0 ? first : second;
    return x ^ x >> 32;
}

FIDFAST_HOST_DEVICE static inline uint64_t finish_hash(uint64_t sum, int64_t height, int64_t width) {
    return mix64(sum + ((uint64_t(height) << 32) + uint64_t(width)) * kGolden);
}

}  // namespace fidfast
