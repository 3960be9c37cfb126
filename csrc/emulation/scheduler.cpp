#include "emulation/scheduler.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <numeric>

#include "emulation/cuda_runtime.h"
#include "emulation/races.h"
#include "emulation/threads.h"

dim3 gridDim, blockDim;
uint3 blockIdx, threadIdx;

namespace fidfast::emulation {

Launch launch_state;

namespace {

std::mutex one_launch_at_a_time;
size_t shared_limit = 99 * 1024;
void (*kernel_body)(const void*);
const void* kernel_arguments;
std::vector<unsigned> warp_waiting;  // bit per lane that waits in a warp call
Launch& now = launch_state;

void put_in_order(std::vector<int>& items) {
    std::sort(items.begin(), items.end());
    if (now.order == Order::reverse) std::reverse(items.begin(), items.end());
    if (now.order == Order::random)
        for (size_t i = items.size(); i > 1; i--) std::swap(items[i - 1], items[random_number() % i]);
}

std::string hex(unsigned mask) {
    char digits[16];
    std::snprintf(digits, sizeof digits, "0x%08x", mask);
    return digits;
}

std::string where_it_is(const Thread& thread) {
    const std::string name = "thread " + text(thread.index);
    if (thread.state == State::ended) return name + " has ended";
    if (thread.state == State::at_barrier)
        return name + " waits at " + thread.barrier + " (" + text(thread.site) + ")";
    return name + " waits in " + thread.call.name + " (" + text(thread.call.site) + ", mask " +
           hex(thread.call.mask) + ")";
}

void stop(const std::string& why) {
    now.failed = true;
    now.error += why;
}

Thread& thread_of(int number) { return now.threads[size_t(number)]; }

bool all_threads(State state) {
    for (int i = 0; i < now.count; i++)
        if (thread_of(i).state != state) return false;
    return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// A block
// ---------------------------------------------------------------------------------------------------------------------

void run_thread(void* argument) {
    Thread* thread = static_cast<Thread*>(argument);
    kernel_body(kernel_arguments);
    if (!thread->copies.empty()) fail("it ends with asynchronous copies that it never waited for");
    thread->state = State::ended;
}

bool run_warp_once(int warp, const std::vector<int>& lanes) {
    bool ran = false;
    for (int lane : lanes) {
        const int number = warp * kWarp + lane;
        if (number >= now.count) continue;
        Thread& thread = thread_of(number);
        if (thread.state != State::ready) continue;
        now.running = &thread;
        threadIdx = thread.index;
        thread.fibre.resume();
        now.running = nullptr;
        if (now.failed) return true;
        ran = true;
    }
    return ran;
}

bool same_place(const Thread& a, const Thread& b) {
    return a.site.line == b.site.line && a.barrier == b.barrier && !std::strcmp(a.site.file, b.site.file);
}

void release_barrier() {
    const Thread& first = thread_of(0);
    int sum = 0;
    for (int i = 0; i < now.count; i++) {
        const Thread& thread = thread_of(i);
        if (!same_place(thread, first))
            return stop("divergent barrier: " + where_it_is(first) + ", but " + where_it_is(thread));
        sum += thread.value != 0;
    }
    const int result = first.reduce == Reduce::all ? sum == now.count : first.reduce == Reduce::any ? sum > 0 : sum;
    for (int i = 0; i < now.count; i++) {
        thread_of(i).state = State::ready;
        thread_of(i).value = result;
    }
    order_block();
}

// Why lane `lane` of the warp has not joined the call that `waiting` waits in; empty if it has.
std::string absence(const Thread& waiting, int lane) {
    const int number = waiting.number / kWarp * kWarp + lane;
    if (number >= now.count) return "is not in the block";
    const Thread& other = thread_of(number);
    if (other.state != State::at_warp_call) return "does not come: " + where_it_is(other);
    if (other.call.mask != waiting.call.mask) return "came with another mask: " + where_it_is(other);
    return "";
}

// Nobody can go on: say who waits for whom.
void explain_deadlock() {
    const Thread *at_barrier = nullptr, *ended = nullptr;
    for (int i = 0; i < now.count; i++) {
        const Thread& thread = thread_of(i);
        if (thread.state == State::at_barrier && !at_barrier) at_barrier = &thread;
        if (thread.state == State::ended && !ended) ended = &thread;
        if (thread.state != State::at_warp_call) continue;
        for (int lane = 0; lane < kWarp; lane++) {
            const std::string why = thread.call.mask >> lane & 1 ? absence(thread, lane) : "";
            if (!why.empty())
                return stop("warp call never complete: " + where_it_is(thread) + ", and lane " +
                            std::to_string(lane) + " of its mask " + why);
        }
    }
    stop("divergent barrier: " + where_it_is(*at_barrier) + ", but " + where_it_is(*ended));
}

void run_block() {
    const int warps = (now.count + kWarp - 1) / kWarp;
    for (int i = 0; i < now.count; i++) {
        Thread& thread = thread_of(i);
        const unsigned at = unsigned(i);
        thread.number = i;
        thread.index = {at % blockDim.x, at / blockDim.x % blockDim.y, at / (blockDim.x * blockDim.y)};
        thread.state = State::ready;
        thread.copies.clear();
        thread.groups.clear();
        thread.loose = 0;
        thread.fibre.prepare(&run_thread, &thread, size_t(i));
    }
    warp_waiting.assign(size_t(warps), 0);
    begin_block_for_races();
    std::vector<int> warp_order(static_cast<size_t>(warps)), lanes(kWarp);
    std::iota(warp_order.begin(), warp_order.end(), 0);
    std::iota(lanes.begin(), lanes.end(), 0);
    put_in_order(lanes);
    while (!now.failed) {
        bool progress = false;
        put_in_order(warp_order);
        for (int warp : warp_order) {
            while (run_warp_once(warp, lanes)) {
                if (now.failed) return;
                progress = true;
                if (now.order != Order::random) continue;
                if (random_number() % 4 == 0) break;  // another warp's turn
                put_in_order(lanes);
            }
        }
        if (progress) continue;
        if (all_threads(State::ended)) return;
        if (all_threads(State::at_barrier))
            release_barrier();
        else
            explain_deadlock();
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// A grid
// ---------------------------------------------------------------------------------------------------------------------

// What is wrong with a launch before it begins; the device's own limits.
std::string refusal(dim3 grid, dim3 block, size_t bytes) {
    const uint64_t threads = uint64_t(block.x) * block.y * block.z;
    if (now.order == Order::unset) return "no thread order is set: run kernels through backend.run of the tests";
    if (!threads || threads > kMaxThreads || block.z > 64)
        return "a block of " + std::to_string(threads) + " threads: the device takes 1 to 1024, z up to 64";
    if (grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535)
        return "a grid of " + text({grid.x, grid.y, grid.z}) + ": y and z may be at most 65535";
    if (bytes > shared_limit)
        return std::to_string(bytes) + " bytes of shared memory: a block may have " + std::to_string(shared_limit);
    return "";
}

// The block that runs i-th: forwards, backwards, or a stride through all of them from a random place.
class BlockOrder {
public:
    explicit BlockOrder(uint64_t blocks) : blocks_(blocks) {
        if (now.order == Order::reverse) start_ = stride_ = blocks - 1;
        if (now.order != Order::random) return;
        start_ = random_number() % blocks;
        do stride_ = random_number() % blocks + 1;
        while (std::gcd(stride_, blocks) != 1);
    }
    uint64_t operator[](uint64_t i) const {
        __extension__ using wide = unsigned __int128;
        return uint64_t((start_ + wide(i) * stride_) % blocks_);
    }

private:
    uint64_t blocks_, start_ = 0, stride_ = 1;
};

}  // namespace

uint64_t random_number() {  // xorshift64*
    uint64_t& state = now.random_state;
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545F4914F6CDD1D;
}

std::string text(uint3 index) {
    return "(" + std::to_string(index.x) + "," + std::to_string(index.y) + "," + std::to_string(index.z) + ")";
}

std::string text(Site site) {
    const char* name = std::strrchr(site.file, '/');
    return std::string(name ? name + 1 : site.file) + ":" + std::to_string(site.line);
}

void set_thread_order(Order order, uint64_t seed) {
    const std::lock_guard<std::mutex> lock(one_launch_at_a_time);
    now.order = order;
    now.random_state = (seed * 0x9E3779B97F4A7C15 + 0xD1B54A32D192ED03 + uint64_t(order)) | 1;
}

void set_shared_memory_limit(size_t bytes) {
    const std::lock_guard<std::mutex> lock(one_launch_at_a_time);
    shared_limit = bytes;
}

size_t shared_memory_limit() { return shared_limit; }

const std::string& last_error() { return now.error; }

bool run_grid(dim3 grid, dim3 block, size_t bytes, void (*body)(const void*), const void* arguments) {
    const std::lock_guard<std::mutex> lock(one_launch_at_a_time);
    now.error = refusal(grid, block, bytes);
    if (!now.error.empty()) return false;
    gridDim = grid;
    blockDim = block;
    kernel_body = body;
    kernel_arguments = arguments;
    now.count = int(block.x * block.y * block.z);
    while (now.threads.size() < size_t(now.count)) now.threads.emplace_back();
    now.failed = false;
    now.shared = std::make_unique<SharedMemory>(bytes);
    begin_launch_for_races();
    const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
    const BlockOrder order(blocks);
    for (uint64_t i = 0; i < blocks && !now.failed; i++) {
        const uint64_t at = order[i];
        blockIdx = {unsigned(at % grid.x), unsigned(at / grid.x % grid.y), unsigned(at / grid.x / grid.y)};
        now.error = "block " + text(blockIdx) + ": ";
        now.shared->fill_with_rubbish(random_number());
        run_block();
        if (now.failed) break;
        const std::string overrun = now.shared->overrun();
        if (!overrun.empty()) stop(overrun);
    }
    return !now.failed;
}

// ---------------------------------------------------------------------------------------------------------------------
// For the thread that runs
// ---------------------------------------------------------------------------------------------------------------------

void fail(const std::string& what) {
    stop("thread " + text(now.running->index) + ": " + what);
    now.running->fibre.finish();
}

unsigned char* shared_memory() { return now.shared->data(); }
int lane_index() { return now.running->number % kWarp; }

unsigned lanes_in_block() {
    const int lanes = now.count - now.running->number / kWarp * kWarp;
    return lanes >= kWarp ? 0xffffffffu : (1u << lanes) - 1;
}

int block_barrier(const char* name, Reduce reduce, int value, Site site) {
    Thread* self = now.running;
    self->state = State::at_barrier;
    self->barrier = name;
    self->reduce = reduce;
    self->value = value;
    self->site = site;
    self->fibre.yield();
    return self->value;
}

void warp_call(const WarpCall& call) {
    Thread* self = now.running;
    const int lane = lane_index(), first = self->number - lane;
    if (!(call.mask >> lane & 1))
        fail(std::string(call.name) + " (" + text(call.site) + "): its own lane, " + std::to_string(lane) +
             ", is not in the mask " + hex(call.mask));
    unsigned& waiting = warp_waiting[size_t(self->number / kWarp)];
    self->call = call;
    self->state = State::at_warp_call;
    waiting |= 1u << lane;
    if ((waiting & call.mask) != call.mask) return self->fibre.yield();
    void* lanes[kWarp] = {};
    for (int i = 0; i < kWarp; i++) {
        if (!(call.mask >> i & 1)) continue;
        const WarpCall& other = thread_of(first + i).call;
        if (other.mask != call.mask || other.finish != call.finish ||
            (call.orders != Orders::memory && other.site.line != call.site.line))
            fail(std::string(call.name) + " (" + text(call.site) + ", mask " + hex(call.mask) + "), but " +
                 where_it_is(thread_of(first + i)));
        lanes[i] = other.data;
    }
    if (call.orders == Orders::memory) order_warp(first, call.mask);
    call.finish(call.mask, lanes);
    for (int i = 0; i < kWarp; i++)
        if (call.mask >> i & 1) thread_of(first + i).state = State::ready;
    waiting &= ~call.mask;
}

}  // namespace fidfast::emulation
