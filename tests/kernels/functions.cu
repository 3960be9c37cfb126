// Device functions that kernels rely on, one kernel each; compiled for emulation and, where there is a GPU, by nvcc:
// tests/test_emulation.py holds both to what numpy and torch compute.
//
//     functions NAME < words in > words out     32-bit words, one block of 64 threads
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "kernels/cuda/async_copy.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.h"

namespace fidfast {
namespace {

constexpr int kThreads = 64;
constexpr unsigned kAll = 0xffffffffu;

__global__ void halves(const uint32_t* in, uint32_t* out, int words) {  // float → (half, bfloat16)
    for (int i = int(threadIdx.x); i < words; i += kThreads) {
        const float value = __uint_as_float(in[i]);
        out[i] = __half_as_ushort(__float2half_rn(value)) |
                 uint32_t(__bfloat16_as_ushort(__float2bfloat16_rn(value))) << 16;
    }
}

__global__ void from_half(const uint32_t* in, uint32_t* out, int words) {
    for (int i = int(threadIdx.x); i < words; i += kThreads)
        out[i] = __float_as_uint(__half2float(__ushort_as_half(static_cast<unsigned short>(in[i]))));
}

__global__ void from_bfloat16(const uint32_t* in, uint32_t* out, int words) {
    for (int i = int(threadIdx.x); i < words; i += kThreads)
        out[i] = __float_as_uint(__bfloat162float(__ushort_as_bfloat16(static_cast<unsigned short>(in[i]))));
}

__global__ void roundings(const uint32_t* in, uint32_t* out, int words) {  // float → 4 integers
    for (int i = int(threadIdx.x); i < words; i += kThreads) {
        const float value = __uint_as_float(in[i]);
        out[4 * i] = uint32_t(__float2int_rn(value));
        out[4 * i + 1] = uint32_t(__float2int_rz(value));
        out[4 * i + 2] = __float2uint_rn(value);
        out[4 * i + 3] = __float_as_uint(__saturatef(value));
    }
}

__global__ void bits(const uint32_t* in, uint32_t* out, int words) {  // pairs → 8 words
    for (int i = int(threadIdx.x); i < words / 2; i += kThreads) {
        const uint32_t a = in[2 * i], b = in[2 * i + 1];
        const uint32_t found[8] = {__umulhi(a, b),
                                   uint32_t(__mulhi(int(a), int(b))),
                                   uint32_t(__popc(a)),
                                   uint32_t(__clz(int(a))),
                                   uint32_t(__ffs(int(a))),
                                   __byte_perm(a, b, 0x6071),
                                   __funnelshift_r(a, b, 9),
                                   __dp4a(a, b, 7u)};
        for (int j = 0; j < 8; j++) out[8 * i + j] = found[j];
    }
}

__global__ void shuffles(const uint32_t* in, uint32_t* out, int) {  // 64 → 64 x 12
    const uint32_t value = in[threadIdx.x];
    const int lane = int(threadIdx.x) % 32;
    uint32_t* mine = out + 12 * threadIdx.x;
    mine[0] = __shfl_sync(kAll, value, 5);
    mine[1] = __shfl_sync(kAll, value, lane + 3, 8);
    mine[2] = __shfl_up_sync(kAll, value, 3);
    mine[3] = __shfl_down_sync(kAll, value, 3, 16);
    mine[4] = __shfl_xor_sync(kAll, value, 9);
    mine[5] = __ballot_sync(kAll, value & 1);
    mine[6] = uint32_t(__any_sync(kAll, value == in[40]));
    mine[7] = uint32_t(__all_sync(kAll, value != in[40]));
    mine[8] = __reduce_add_sync(kAll, value);
    mine[9] = __reduce_max_sync(kAll, value);
    mine[10] = uint32_t(__syncthreads_count(value & 1));
    mine[11] = uint32_t(__syncthreads_or(value == in[40])) * 2 + uint32_t(__syncthreads_and(value & 1));
}

// Half of the lanes among themselves, 64-bit values, and the last lanes of a segment.
__global__ void partial_masks(const uint32_t* in, uint32_t* out, int) {
    const bool low = threadIdx.x % 32 < 16;
    const unsigned mask = low ? 0x0000ffffu : 0xffff0000u;
    const double value = double(in[threadIdx.x]);
    double sum = value;
    if (low)
        for (int step = 8; step; step /= 2) sum += __shfl_xor_sync(mask, sum, step);
    else
        sum = __shfl_down_sync(mask, value, 1);
    __syncwarp(mask);
    out[2 * threadIdx.x] = uint32_t(uint64_t(sum));
    out[2 * threadIdx.x + 1] = uint32_t(uint64_t(sum) >> 32);
}

__global__ void mma(const uint32_t* in, uint32_t* out, int) {  // A (8, 4), B (4, 8), C (8, 8) → D (8, 8), float64
    const double* a = reinterpret_cast<const double*>(in);
    const double *b = a + 32, *c = b + 32;
    double* d = reinterpret_cast<double*>(out);
    if (threadIdx.x >= 32) return;
    const int i = int(threadIdx.x), row = i / 4, column = 2 * (i % 4);
    double d0 = c[8 * row + column], d1 = c[8 * row + column + 1];
    mma_f64_8x8x4(d0, d1, a[4 * row + i % 4], b[8 * (i % 4) + row]);
    d[8 * row + column] = d0;
    d[8 * row + column + 1] = d1;
}

__global__ void async_copies(const uint32_t* in, uint32_t* out, int) {  // 64 x 7 words: 4, 8 and 16 bytes, cut short
    uint32_t* shared = dynamic_shared<uint32_t>();
    const int i = int(threadIdx.x);
    async_copy_16(shared + 4 * i, in + 4 * i, i % 17);
    async_commit();
    async_copy_8(shared + 4 * kThreads + 2 * i, in + 2 * i, i % 9);
    async_copy_4(shared + 6 * kThreads + i, in + i, i % 5);
    async_commit();
    async_wait<1>();
    __syncthreads();
    const int other = kThreads - 1 - i;
    for (int j = 0; j < 4; j++) out[4 * other + j] = shared[4 * other + j];
    async_wait<0>();
    __syncthreads();
    for (int j = 0; j < 2; j++) out[4 * kThreads + 2 * other + j] = shared[4 * kThreads + 2 * other + j];
    out[6 * kThreads + other] = shared[6 * kThreads + other];
}

__global__ void atomics(const uint32_t* in, uint32_t* out, int) {
    auto* wide = reinterpret_cast<unsigned long long*>(out);
    atomicAdd(wide, static_cast<unsigned long long>(in[threadIdx.x]));
    atomicMax(out + 2, in[threadIdx.x]);
    atomicOr(out + 3, in[threadIdx.x] & 0x0f0f0f0fu);
    atomicXor(out + 4, in[threadIdx.x]);
    atomicAdd(reinterpret_cast<double*>(out + 6), 1.0);
    if (in[threadIdx.x] & 1) atomicCAS(out + 5, 0u, 77u);  // one of them finds the zero
}

struct Function {
    const char* name;
    void (*kernel)(const uint32_t*, uint32_t*, int);
    size_t (*words_out)(size_t words_in);
};
const Function kFunctions[] = {
    {"halves", &halves, [](size_t n) { return n; }},
    {"from_half", &from_half, [](size_t n) { return n; }},
    {"from_bfloat16", &from_bfloat16, [](size_t n) { return n; }},
    {"roundings", &roundings, [](size_t n) { return 4 * n; }},
    {"bits", &bits, [](size_t n) { return 4 * n; }},
    {"shuffles", &shuffles, [](size_t) { return size_t(12 * kThreads); }},
    {"partial_masks", &partial_masks, [](size_t) { return size_t(2 * kThreads); }},
    {"mma", &mma, [](size_t) { return size_t(128); }},
    {"async_copies", &async_copies, [](size_t) { return size_t(7 * kThreads); }},
    {"atomics", &atomics, [](size_t) { return size_t(8); }},
};

// The words in memory of the device (in emulation: of this machine), or null.
uint32_t* to_device(const std::vector<uint32_t>& words) {
    const size_t bytes = words.size() * 4;
#if defined(FIDFAST_EMULATED)
    void* memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (memory) std::memcpy(memory, words.data(), bytes);
#else
    void* memory = nullptr;
    if (cudaMalloc(&memory, bytes) != cudaSuccess) return nullptr;
    if (cudaMemcpy(memory, words.data(), bytes, cudaMemcpyHostToDevice) != cudaSuccess) return nullptr;
#endif
    return static_cast<uint32_t*>(memory);
}

int run(const Function& chosen) {
    std::vector<uint32_t> read(1 << 20);
    read.resize(std::fread(read.data(), 4, read.size(), stdin));
    std::vector<uint32_t> words(chosen.words_out(read.size()));
    uint32_t *in = to_device(read), *out = to_device(words);
    if (!in || !out) return std::fprintf(stderr, "no memory\n"), 1;
#if defined(FIDFAST_EMULATED)
    emulation::set_thread_order(emulation::Order::random, 1);
#endif
    cudaError_t error = launch(chosen.kernel, 1, kThreads, 8 * kThreads * 4, nullptr, in, out, int(read.size()));
#if defined(FIDFAST_EMULATED)
    std::memcpy(words.data(), out, words.size() * 4);
#else
    if (error == cudaSuccess) error = cudaMemcpy(words.data(), out, words.size() * 4, cudaMemcpyDeviceToHost);
#endif
    if (error != cudaSuccess) return std::fprintf(stderr, "%s\n", cudaGetErrorString(error)), 1;
    std::fwrite(words.data(), 4, words.size(), stdout);
    return 0;
}

}  // namespace
}  // namespace fidfast

int main(int count, char** arguments) {
    for (const auto& known : fidfast::kFunctions)
        if (count == 2 && !std::strcmp(known.name, arguments[1])) return fidfast::run(known);
    return 2;
}
