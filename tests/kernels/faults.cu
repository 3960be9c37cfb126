// Small kernels, each right or with one fault planted; compiled for emulation by tests/test_emulation.py.
//
//     faults NAME right|planted     exit status 0: ran in every thread order with the same bits; else it says why not
//     faults NAME unordered|crowded|greedy     a launch to be refused: no order, too many threads, too much memory
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/cuda/async_copy.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.h"

namespace fidfast {
namespace {

constexpr int kThreads = 96;
constexpr unsigned kAll = 0xffffffffu;

template <bool planted>
__global__ void syncthreads(const float* in, float* out) {  // reversed
    float* shared = dynamic_shared<float>();
    shared[threadIdx.x] = in[threadIdx.x];
    if constexpr (!planted) __syncthreads();
    out[threadIdx.x] = shared[kThreads - 1 - threadIdx.x];
}

// As above, with a shuffle in between: lanes meet, but warps do not.
template <bool planted>
__global__ void syncthreads_by_shuffle(const float* in, float* out) {
    float* shared = dynamic_shared<float>();
    shared[threadIdx.x] = in[threadIdx.x];
    const float next = __shfl_down_sync(kAll, in[threadIdx.x], 1);
    if constexpr (!planted) __syncthreads();
    out[threadIdx.x] = shared[kThreads - 1 - threadIdx.x] + next;
}

// The second use of a buffer must wait until everybody has read the first.
template <bool planted>
__global__ void syncthreads_before_reuse(const float* in, float* out) {
    float* shared = dynamic_shared<float>();
    float total = 0.0f;
    for (int round = 0; round < 3; round++) {
        shared[threadIdx.x] = in[threadIdx.x] * float(round);
        __syncthreads();
        total += shared[kThreads - 1 - threadIdx.x];
        if constexpr (!planted) __syncthreads();
    }
    out[threadIdx.x] = total;
}

template <bool planted>
__global__ void syncwarp(const float* in, float* out) {
    float* shared = dynamic_shared<float>();
    shared[threadIdx.x] = in[threadIdx.x];
    if constexpr (!planted) __syncwarp();
    out[threadIdx.x] = shared[threadIdx.x ^ 31];
}

template <bool planted>
__global__ void async_wait_forgotten(const float* in, float* out) {
    float* shared = dynamic_shared<float>();
    async_copy_4(&shared[threadIdx.x], &in[threadIdx.x]);
    async_commit();
    if constexpr (!planted) async_wait<0>();
    __syncthreads();
    out[threadIdx.x] = shared[kThreads - 1 - threadIdx.x];
    async_wait<0>();
}

// Two stages in flight; the planted one waits for one group too few.
template <bool planted>
__global__ void async_wait_too_few(const float* in, float* out) {
    float* shared = dynamic_shared<float>();
    for (int stage = 0; stage < 2; stage++) {
        if (threadIdx.x < kThreads / 4)
            async_copy_16(&shared[stage * kThreads + 4 * threadIdx.x], &in[4 * threadIdx.x]);
        async_commit();
    }
    async_wait<planted ? 2 : 1>();
    __syncthreads();
    out[threadIdx.x] = shared[kThreads - 1 - threadIdx.x];
    async_wait<0>();
}

template <bool planted>
__global__ void async_copy_never_waited_for(const float* in, float* out) {
    float* shared = dynamic_shared<float>();
    async_copy_4(&shared[threadIdx.x], &in[threadIdx.x], threadIdx.x % 2 ? 4 : 0);
    async_commit();
    if constexpr (!planted) async_wait<0>();
    out[threadIdx.x] = planted ? 0.0f : shared[threadIdx.x];
}

template <bool planted>
__global__ void barrier_after_return(const float* in, float* out) {
    float* shared = dynamic_shared<float>();
    shared[threadIdx.x] = in[threadIdx.x];
    if (planted && threadIdx.x == kThreads - 1) return;
    __syncthreads();
    out[threadIdx.x] = shared[threadIdx.x];
}

template <bool planted>
__global__ void barrier_in_branches(const float* in, float* out) {
    float* shared = dynamic_shared<float>();
    shared[threadIdx.x] = in[threadIdx.x];
    if (planted && threadIdx.x < 32) {
        __syncthreads();
        shared[threadIdx.x] += 1.0f;
    } else {
        __syncthreads();
    }
    out[threadIdx.x] = shared[threadIdx.x];
}

template <bool planted>
__global__ void barrier_or_shuffle(const float* in, float* out) {
    float value = in[threadIdx.x];
    if (planted && threadIdx.x % 32 == 7)
        __syncthreads();
    else
        value = __shfl_xor_sync(kAll, value, 1);
    out[threadIdx.x] = value;
}

template <bool planted>
__global__ void mask_without_own_lane(const float* in, float* out) {
    out[threadIdx.x] = __shfl_xor_sync(planted ? 0x0000ffffu : kAll, in[threadIdx.x], 1);
}

template <bool planted>
__global__ void mask_of_absent_lanes(const float* in, float* out) {
    const bool half = threadIdx.x % 32 < 16;
    float value = in[threadIdx.x];
    if (half) value = __shfl_xor_sync(planted ? kAll : 0x0000ffffu, value, 1);
    out[threadIdx.x] = value;
}

template <bool planted>
__global__ void masks_that_differ(const float* in, float* out) {
    const unsigned mask = planted && threadIdx.x % 32 < 4 ? 0x0000000fu : kAll;
    out[threadIdx.x] = __shfl_xor_sync(mask, in[threadIdx.x], 1);
}

template <bool planted>
__global__ void shuffle_from_outside_the_mask(const float* in, float* out) {
    float value = in[threadIdx.x];
    if (threadIdx.x % 32 < 16) value = __shfl_sync(0x0000ffffu, value, planted ? 20 : 10);
    out[threadIdx.x] = value;
}

template <bool planted>
__global__ void store_past_shared(const float* in, float* out) {
    float* shared = dynamic_shared<float>();
    shared[threadIdx.x + (planted ? 1 : 0)] = in[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = in[threadIdx.x];
}

template <bool planted>
__global__ void load_past_shared(const float* in, float* out) {
    float* shared = dynamic_shared<float>();
    shared[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    const float next = shared[threadIdx.x + (planted ? 1 : 0)];
    out[threadIdx.x] = threadIdx.x < kThreads - 1 ? next : 0.0f;
}

template <bool planted>
__global__ void store_past_global(const float* in, float* out) {
    out[threadIdx.x] = in[threadIdx.x];
    if (planted && threadIdx.x == kThreads - 1) out[threadIdx.x + 1] = in[threadIdx.x];
}

template <bool planted>
__global__ void load_past_global(const float* in, float* out) {
    out[threadIdx.x] = in[threadIdx.x + (planted ? 1 : 0)] * (threadIdx.x < kThreads - 1 ? 1.0f : 0.0f);
}

template <bool planted>
__global__ void shared_read_before_written(const float* in, float* out) {
    float* shared = dynamic_shared<float>();
    if (!planted || threadIdx.x % 2) shared[threadIdx.x] = in[threadIdx.x];
    out[threadIdx.x] = shared[threadIdx.x];
}

// Blocks may run in any order, so one must not read what another writes.
template <bool planted>
__global__ void block_reads_another(const float* in, float* out) {
    const unsigned i = blockIdx.x * 32 + threadIdx.x % 32;
    if (threadIdx.x >= 32) return;
    out[i] = in[i] + (planted && blockIdx.x ? out[i - 32] : 0.0f);
}

// The next two write one value from two sides, so that no order shows it: only the record of accesses does.
template <bool planted>
__global__ void blocks_write_one_place(const float* in, float* out) {
    if (threadIdx.x == 0) out[planted ? 0 : blockIdx.x] = in[0];
}

template <bool planted>
__global__ void threads_write_one_place(const float* in, float* out) {
    float* shared = dynamic_shared<float>();
    if (planted || threadIdx.x % 2) shared[threadIdx.x / 2] = in[0];
    __syncthreads();
    out[threadIdx.x] = shared[threadIdx.x / 2];
}

template <bool planted>
__global__ void float_atomics(const float* in, float* out) {
    if (planted)
        atomicAdd(out, in[threadIdx.x]);
    else
        atomicAdd(reinterpret_cast<unsigned*>(out), unsigned(in[threadIdx.x]));
}

template <bool planted>
__global__ void mma_by_half_a_warp(const float* in, float* out) {
    double d0 = 0.0, d1 = 0.0;
    if (!planted || threadIdx.x % 32 < 16) mma_f64_8x8x4(d0, d1, double(in[threadIdx.x]), 1.0);
    out[threadIdx.x] = float(d0 + d1);
}

struct Case {
    const char* name;
    void (*kernels[2])(const float*, float*);
    unsigned blocks;
};
#define CASE(name, blocks) {#name, {&name<false>, &name<true>}, blocks}
const Case kCases[] = {
    CASE(syncthreads, 1),
    CASE(syncthreads_by_shuffle, 1),
    CASE(syncthreads_before_reuse, 1),
    CASE(syncwarp, 1),
    CASE(async_wait_forgotten, 1),
    CASE(async_wait_too_few, 1),
    CASE(async_copy_never_waited_for, 1),
    CASE(barrier_after_return, 1),
    CASE(barrier_in_branches, 1),
    CASE(barrier_or_shuffle, 1),
    CASE(mask_without_own_lane, 1),
    CASE(mask_of_absent_lanes, 1),
    CASE(masks_that_differ, 1),
    CASE(shuffle_from_outside_the_mask, 1),
    CASE(store_past_shared, 1),
    CASE(load_past_shared, 1),
    CASE(store_past_global, 1),
    CASE(load_past_global, 1),
    CASE(shared_read_before_written, 1),
    CASE(block_reads_another, 3),
    CASE(blocks_write_one_place, 3),
    CASE(threads_write_one_place, 1),
    CASE(float_atomics, 1),
    CASE(mma_by_half_a_warp, 1),
};

int run(const Case& chosen, const char* how) {
    const auto is = [&](const char* word) { return !std::strcmp(how, word); };
    const bool planted = is("planted");
    const unsigned threads = is("crowded") ? 1056 : kThreads;
    const size_t stages = std::strcmp(chosen.name, "async_wait_too_few") ? 1 : 2;
    const size_t shared_bytes = is("greedy") ? 100 * 1024 : stages * kThreads * sizeof(float);
    const emulation::Order orders[] = {emulation::Order::forward, emulation::Order::reverse, emulation::Order::random};
    std::vector<float> results[3];
    for (int i = 0; i < 3; i++) {
        std::vector<float> in(kThreads), out(kThreads);  // exactly as long as the kernels may reach
        const bool whole = std::strcmp(chosen.name, "float_atomics") || !planted;
        for (int j = 0; j < kThreads; j++) in[size_t(j)] = whole ? float(j * j) : 1.0f / float(j + 1);
        if (!is("unordered")) emulation::set_thread_order(orders[i], 7);
        const cudaError_t error =
            launch(chosen.kernels[planted], chosen.blocks, threads, shared_bytes, nullptr, in.data(), out.data());
        if (error != cudaSuccess) return std::printf("%s\n", cudaGetErrorString(error)), 1;
        results[i] = out;
    }
    for (int i = 1; i < 3; i++)
        if (std::memcmp(results[0].data(), results[i].data(), kThreads * sizeof(float)))
            return std::printf("the thread orders give different bits\n"), 1;
    return 0;
}

}  // namespace
}  // namespace fidfast

int main(int count, char** arguments) {
    for (const auto& known : fidfast::kCases)
        if (count == 3 && !std::strcmp(known.name, arguments[1])) return fidfast::run(known, arguments[2]);
    return 2;
}
