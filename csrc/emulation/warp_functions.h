// Barriers and the calls that the lanes of a warp make together.
//
// The place of the call is noted (__builtin_LINE): threads that meet at different places are an error here, as CUDA's
// manual has it. So is a shuffle or vote whose mask names a lane that has ended or is not in the block.
#pragma once

#include <type_traits>

#include "emulation/scheduler.h"

#define FIDFAST_SITE int line = __builtin_LINE(), const char *file = __builtin_FILE()

inline void __syncthreads(FIDFAST_SITE) {
    fidfast::emulation::block_barrier("__syncthreads", fidfast::emulation::Reduce::none, 0, {file, line});
}
inline int __syncthreads_count(int predicate, FIDFAST_SITE) {
    return fidfast::emulation::block_barrier("__syncthreads_count", fidfast::emulation::Reduce::sum, predicate,
                                             {file, line});
}
inline int __syncthreads_and(int predicate, FIDFAST_SITE) {
    return fidfast::emulation::block_barrier("__syncthreads_and", fidfast::emulation::Reduce::all, predicate,
                                             {file, line});
}
inline int __syncthreads_or(int predicate, FIDFAST_SITE) {
    return fidfast::emulation::block_barrier("__syncthreads_or", fidfast::emulation::Reduce::any, predicate,
                                             {file, line});
}

namespace fidfast::emulation {

template <class T>
struct Lane {
    T value;
    int source;  // the lane whose value this one wants
    T result;
};

template <class T>
void deliver(unsigned mask, void* const* lanes) {
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1)) continue;
        Lane<T>& lane = *static_cast<Lane<T>*>(lanes[i]);
        if (!lanes[lane.source])
            fail("a shuffle from lane " + std::to_string(lane.source) + " into lane " + std::to_string(i) +
                 ": the source is not in the mask");
        lane.result = static_cast<const Lane<T>*>(lanes[lane.source])->value;
    }
}

template <class T>
T shuffle(const char* name, unsigned mask, T value, int source, Site site) {
    static_assert(std::is_trivially_copyable_v<T>);
    Lane<T> lane{value, source, value};
    warp_call({name, mask, &deliver<T>, &lane, site});
    return lane.result;
}

inline int checked_width(const char* name, int width) {
    if (width < 1 || width > 32 || (width & (width - 1)))
        fail(std::string(name) + ": width must be a power of two up to 32, got " + std::to_string(width));
    return width;
}

// Every lane gets combine(a, b) over all of them, from the lowest to the highest.
template <class T, class Combine>
T warp_reduce(const char* name, unsigned mask, T value, Combine, Site site) {
    Lane<T> lane{value, 0, value};
    const auto finish = [](unsigned mask, void* const* lanes) {
        T total{};
        bool first = true;
        for (int i = 0; i < 32; i++) {
            if (!(mask >> i & 1)) continue;
            const T value = static_cast<const Lane<T>*>(lanes[i])->value;
            total = first ? value : Combine::of(total, value);
            first = false;
        }
        for (int i = 0; i < 32; i++)
            if (mask >> i & 1) static_cast<Lane<T>*>(lanes[i])->result = total;
    };
    warp_call({name, mask, finish, &lane, site});
    return lane.result;
}

struct Sum { template <class T> static T of(T a, T b) { return a + b; } };
struct Min { template <class T> static T of(T a, T b) { return b < a ? b : a; } };
struct Max { template <class T> static T of(T a, T b) { return a < b ? b : a; } };
struct And { template <class T> static T of(T a, T b) { return a & b; } };
struct Or { template <class T> static T of(T a, T b) { return a | b; } };
struct Xor { template <class T> static T of(T a, T b) { return a ^ b; } };

inline void nothing(unsigned, void* const*) {}

}  // namespace fidfast::emulation

inline void __syncwarp(unsigned mask = 0xffffffffu, FIDFAST_SITE) {
    using namespace fidfast::emulation;
    warp_call({"__syncwarp", mask & lanes_in_block(), &nothing, nullptr, {file, line}, Orders::memory});
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, FIDFAST_SITE) {
    using namespace fidfast::emulation;
    const int lane = lane_index(), first = lane & ~(checked_width("__shfl_sync", width) - 1);
    return shuffle("__shfl_sync", mask, value, first + (source & (width - 1)), {file, line});
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, FIDFAST_SITE) {
    using namespace fidfast::emulation;
    const int lane = lane_index(), first = lane & ~(checked_width("__shfl_up_sync", width) - 1);
    const int source = lane - int(delta);
    return shuffle("__shfl_up_sync", mask, value, source < first ? lane : source, {file, line});
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, FIDFAST_SITE) {
    using namespace fidfast::emulation;
    const int lane = lane_index(), first = lane & ~(checked_width("__shfl_down_sync", width) - 1);
    const int source = lane + int(delta);
    return shuffle("__shfl_down_sync", mask, value, source >= first + width ? lane : source, {file, line});
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, FIDFAST_SITE) {
    using namespace fidfast::emulation;
    const int lane = lane_index(), first = lane & ~(checked_width("__shfl_xor_sync", width) - 1);
    const int source = lane ^ bits;
    return shuffle("__shfl_xor_sync", mask, value, source >= first + width ? lane : source, {file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, FIDFAST_SITE) {
    using namespace fidfast::emulation;
    const unsigned bit = predicate ? 1u << lane_index() : 0u;
    return warp_reduce("__ballot_sync", mask, bit, Or{}, {file, line});
}
inline int __any_sync(unsigned mask, int predicate, FIDFAST_SITE) {
    using namespace fidfast::emulation;
    return warp_reduce("__any_sync", mask, int(predicate != 0), Or{}, {file, line});
}
inline int __all_sync(unsigned mask, int predicate, FIDFAST_SITE) {
    using namespace fidfast::emulation;
    return warp_reduce("__all_sync", mask, int(predicate != 0), And{}, {file, line});
}

#define FIDFAST_REDUCE(name, Combine, T)                                                                              \
    inline T name(unsigned mask, T value, FIDFAST_SITE) {                                                             \
        return fidfast::emulation::warp_reduce(#name, mask, value, fidfast::emulation::Combine{}, {file, line});      \
    }
FIDFAST_REDUCE(__reduce_add_sync, Sum, unsigned)
FIDFAST_REDUCE(__reduce_add_sync, Sum, int)
FIDFAST_REDUCE(__reduce_min_sync, Min, unsigned)
FIDFAST_REDUCE(__reduce_min_sync, Min, int)
FIDFAST_REDUCE(__reduce_max_sync, Max, unsigned)
FIDFAST_REDUCE(__reduce_max_sync, Max, int)
FIDFAST_REDUCE(__reduce_and_sync, And, unsigned)
FIDFAST_REDUCE(__reduce_or_sync, Or, unsigned)
FIDFAST_REDUCE(__reduce_xor_sync, Xor, unsigned)
#undef FIDFAST_REDUCE
