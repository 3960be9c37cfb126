#include "emulation/scheduler.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "emulation/cuda_runtime.h"
#include "emulation/fibre.h"
#include "emulation/shared_memory.h"

dim3 gridDim, blockDim;
uint3 blockIdx, threadIdx;

namespace fidfast::emulation {
namespace {

enum class State { ready, at_barrier, at_warp_call, ended };

struct Copy {
    char* shared;
    const char* global;
    size_t size, bytes;
    char early[16];  // the source as it was when the copy was asked for
};

struct Thread {
    Fibre fibre;
    uint3 index;
    State state;
    int number;                  // within the block
    const char* barrier;         // the barrier's name, while at one
    Site site;
    Reduce reduce;
    int value;                   // in and out of a reducing barrier
    WarpCall call;
    std::vector<Copy> copies;    // asked for and not landed
    std::vector<size_t> groups;  // copies of each committed group, oldest first
    size_t loose = 0;            // copies after the last commit
};

constexpr int kWarp = 32;

std::mutex one_launch_at_a_time;
std::string error_text;
Order order = Order::unset;
uint64_t random_state = 1;
size_t shared_limit = 99 * 1024;

// The launch that runs
std::deque<Thread> pool;
int thread_count;
Thread* running;
void (*kernel_body)(const void*);
const void* kernel_arguments;
std::vector<unsigned> warp_waiting;  // bit per lane that waits in a warp call
bool failed;
std::unique_ptr<SharedMemory> shared;

uint64_t random_number() {  // xorshift64*
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 0x2545F4914F6CDD1D;
}

void put_in_order(std::vector<int>& items) {
    std::sort(items.begin(), items.end());
    if (order == Order::reverse) std::reverse(items.begin(), items.end());
    if (order == Order::random)
        for (size_t i = items.size(); i > 1; i--) std::swap(items[i - 1], items[random_number() % i]);
}

std::string text(uint3 index) {
    return "(" + std::to_string(index.x) + "," + std::to_string(index.y) + "," + std::to_string(index.z) + ")";
}

std::string text(Site site) {
    const char* name = std::strrchr(site.file, '/');
    return std::string(name ? name + 1 : site.file) + ":" + std::to_string(site.line);
}

std::string hex(unsigned mask) {
    char digits[16];
    std::snprintf(digits, sizeof digits, "0x%08x", mask);
    return digits;
}

std::string where_it_is(const Thread& thread) {
    std::string name = "thread " + text(thread.index);
    if (thread.state == State::ended) return name + " has ended";
    if (thread.state == State::at_barrier)
        return name + " waits at " + thread.barrier + " (" + text(thread.site) + ")";
    return name + " waits in " + thread.call.name + " (" + text(thread.call.site) + ", mask " +
           hex(thread.call.mask) + ")";
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
        if (number >= thread_count) continue;
        Thread& thread = pool[size_t(number)];
        if (thread.state != State::ready) continue;
        running = &thread;
        threadIdx = thread.index;
        thread.fibre.resume();
        if (failed) return true;
        ran = true;
    }
    return ran;
}

void release_barrier() {
    Thread& first = pool[0];
    int sum = 0, all = 1, any = 0;
    for (int i = 0; i < thread_count; i++) {
        const Thread& thread = pool[size_t(i)];
        if (thread.site.line != first.site.line || std::strcmp(thread.site.file, first.site.file) != 0 ||
            thread.barrier != first.barrier) {
            failed = true;
            error_text += "divergent barrier: " + where_it_is(first) + ", but " + where_it_is(thread);
            return;
        }
        sum += thread.value != 0;
        all &= thread.value != 0;
        any |= thread.value != 0;
    }
    for (int i = 0; i < thread_count; i++) {
        Thread& thread = pool[size_t(i)];
        thread.state = State::ready;
        thread.value = first.reduce == Reduce::sum ? sum : first.reduce == Reduce::all ? all : any;
    }
}

// Nobody can go on: say who waits for whom.
void explain_deadlock() {
    failed = true;
    for (int i = 0; i < thread_count; i++) {
        const Thread& thread = pool[size_t(i)];
        if (thread.state != State::at_warp_call) continue;
        const int first = i / kWarp * kWarp;
        for (int lane = 0; lane < kWarp; lane++) {
            if (!(thread.call.mask >> lane & 1)) continue;
            std::string other;
            if (first + lane >= thread_count)
                other = "is not in the block";
            else if (pool[size_t(first + lane)].state != State::at_warp_call)
                other = "does not come: " + where_it_is(pool[size_t(first + lane)]);
            else if (pool[size_t(first + lane)].call.mask != thread.call.mask)
                other = "came with another mask: " + where_it_is(pool[size_t(first + lane)]);
            else
                continue;
            error_text += "warp call never complete: " + where_it_is(thread) + ", and lane " + std::to_string(lane) +
                          " of its mask " + other;
            return;
        }
    }
    const Thread *waiting = nullptr, *ended = nullptr;
    for (int i = 0; i < thread_count; i++) {
        const Thread& thread = pool[size_t(i)];
        if (thread.state == State::at_barrier && !waiting) waiting = &thread;
        if (thread.state == State::ended && !ended) ended = &thread;
    }
    error_text += "divergent barrier: " + where_it_is(*waiting) + ", but " + where_it_is(*ended);
}

bool all_threads(State state) {
    for (int i = 0; i < thread_count; i++)
        if (pool[size_t(i)].state != state) return false;
    return true;
}

void run_block() {
    const int warps = (thread_count + kWarp - 1) / kWarp;
    for (int i = 0; i < thread_count; i++) {
        Thread& thread = pool[size_t(i)];
        thread.number = i;
        thread.index = {unsigned(i) % blockDim.x, unsigned(i) / blockDim.x % blockDim.y,
                        unsigned(i) / (blockDim.x * blockDim.y)};
        thread.state = State::ready;
        thread.copies.clear();
        thread.groups.clear();
        thread.loose = 0;
        thread.fibre.prepare(&run_thread, &thread, size_t(i));
    }
    warp_waiting.assign(size_t(warps), 0);
    std::vector<int> warp_order(static_cast<size_t>(warps)), lanes(kWarp);
    for (int i = 0; i < warps; i++) warp_order[size_t(i)] = i;
    for (int i = 0; i < kWarp; i++) lanes[size_t(i)] = i;
    put_in_order(lanes);
    while (!failed) {
        bool progress = false;
        put_in_order(warp_order);
        for (int warp : warp_order) {
            while (run_warp_once(warp, lanes)) {
                if (failed) return;
                progress = true;
                if (order != Order::random) continue;
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

bool refuse(const std::string& why) {
    error_text = why;
    return false;
}

bool check_launch(dim3 grid, dim3 block, size_t bytes) {
    const uint64_t threads = uint64_t(block.x) * block.y * block.z;
    if (order == Order::unset) return refuse("no thread order is set: run kernels through backend.run of the tests");
    if (!threads || threads > 1024 || block.z > 64)
        return refuse("a block of " + std::to_string(threads) + " threads: the device takes 1 to 1024, z up to 64");
    if (grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535)
        return refuse("a grid of " + text({grid.x, grid.y, grid.z}) + ": y and z may be at most 65535");
    if (bytes > shared_limit)
        return refuse(std::to_string(bytes) + " bytes of shared memory: a block may have " +
                      std::to_string(shared_limit));
    return true;
}

}  // namespace

void set_thread_order(Order new_order, uint64_t seed) {
    const std::lock_guard<std::mutex> lock(one_launch_at_a_time);
    order = new_order;
    random_state = seed * 0x9E3779B97F4A7C15 + 0xD1B54A32D192ED03 + uint64_t(new_order);
    if (!random_state) random_state = 1;
}

void set_shared_memory_limit(size_t bytes) {
    const std::lock_guard<std::mutex> lock(one_launch_at_a_time);
    shared_limit = bytes;
}

size_t shared_memory_limit() { return shared_limit; }

const std::string& last_error() { return error_text; }

bool run_grid(dim3 grid, dim3 block, size_t bytes, void (*body)(const void*), const void* arguments) {
    const std::lock_guard<std::mutex> lock(one_launch_at_a_time);
    if (!check_launch(grid, block, bytes)) return false;
    gridDim = grid;
    blockDim = block;
    kernel_body = body;
    kernel_arguments = arguments;
    thread_count = int(block.x * block.y * block.z);
    while (pool.size() < size_t(thread_count)) pool.emplace_back();
    failed = false;
    shared = std::make_unique<SharedMemory>(bytes);
    const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
    const uint64_t offset = order == Order::random ? random_number() % blocks : 0;
    for (uint64_t i = 0; i < blocks && !failed; i++) {
        const uint64_t at = order == Order::reverse ? blocks - 1 - i : (i + offset) % blocks;
        blockIdx = {unsigned(at % grid.x), unsigned(at / grid.x % grid.y), unsigned(at / grid.x / grid.y)};
        error_text = "block " + text(blockIdx) + ": ";
        shared->fill_with_rubbish(random_number());
        run_block();
        if (failed) break;
        const std::string overrun = shared->overrun();
        failed = !overrun.empty();
        error_text += overrun;
    }
    return !failed;
}

// ---------------------------------------------------------------------------------------------------------------------
// For the thread that runs
// ---------------------------------------------------------------------------------------------------------------------

void fail(const std::string& what) {
    failed = true;
    error_text += "thread " + text(running->index) + ": " + what;
    running->fibre.finish();
}

unsigned char* shared_memory() { return shared->data(); }
int lane_index() { return running->number % kWarp; }

unsigned lanes_in_block() {
    const int lanes = thread_count - running->number / kWarp * kWarp;
    return lanes >= kWarp ? 0xffffffffu : (1u << lanes) - 1;
}

int block_barrier(const char* name, Reduce reduce, int value, Site site) {
    Thread* self = running;
    self->state = State::at_barrier;
    self->barrier = name;
    self->reduce = reduce;
    self->value = value;
    self->site = site;
    self->fibre.yield();
    return self->value;
}

void warp_call(const WarpCall& call) {
    Thread* self = running;
    const int lane = lane_index();
    if (!(call.mask >> lane & 1))
        fail(std::string(call.name) + " (" + text(call.site) + "): its own lane, " + std::to_string(lane) +
             ", is not in the mask " + hex(call.mask));
    unsigned& waiting = warp_waiting[size_t(self->number / kWarp)];
    self->call = call;
    self->state = State::at_warp_call;
    waiting |= 1u << lane;
    if ((waiting & call.mask) != call.mask) {
        self->fibre.yield();
        return;
    }
    const size_t first = size_t(self->number - lane);
    void* lanes[kWarp] = {};
    for (int i = 0; i < kWarp; i++) {
        if (!(call.mask >> i & 1)) continue;
        const Thread& other = pool[first + size_t(i)];
        if (other.call.mask != call.mask || other.call.finish != call.finish ||
            other.call.site.line != call.site.line)
            fail(std::string(call.name) + " (" + text(call.site) + ", mask " + hex(call.mask) + "), but " +
                 where_it_is(other));
        lanes[i] = other.call.data;
    }
    call.finish(call.mask, lanes);
    for (int i = 0; i < kWarp; i++)
        if (call.mask >> i & 1) pool[first + size_t(i)].state = State::ready;
    waiting &= ~call.mask;
}

// ---------------------------------------------------------------------------------------------------------------------
// Asynchronous copies
// ---------------------------------------------------------------------------------------------------------------------

void copy_later(void* shared_address, const void* global, size_t size, size_t bytes) {
    char* to = static_cast<char*>(shared_address);
    if (reinterpret_cast<uintptr_t>(to) % size || reinterpret_cast<uintptr_t>(global) % size)
        fail("an asynchronous copy of " + std::to_string(size) + " bytes needs both sides aligned to that");
    if (!shared->holds(shared_address, size))
        fail("an asynchronous copy to outside of the block's shared memory");
    if (bytes > size) fail("an asynchronous copy of " + std::to_string(bytes) + " bytes out of " + std::to_string(size));
    Copy copy{to, static_cast<const char*>(global), size, bytes, {}};
    std::memcpy(copy.early, global, bytes);
    const uint64_t rubbish = random_number();
    for (size_t i = 0; i < size; i++) to[i] = char(rubbish >> i % 8 * 8);
    running->copies.push_back(copy);
    running->loose++;
}

void commit_copies() {
    running->groups.push_back(running->loose);
    running->loose = 0;
}

void wait_for_copies(int groups_left) {
    Thread& self = *running;
    if (self.groups.size() <= size_t(groups_left)) return;
    size_t landing = 0;
    const size_t groups = self.groups.size() - size_t(groups_left);
    for (size_t i = 0; i < groups; i++) landing += self.groups[i];
    for (size_t i = 0; i < landing; i++) {
        const Copy& copy = self.copies[i];
        // The device reads the source at any time between the two: one order early, the others late.
        std::memcpy(copy.shared, order == Order::reverse ? copy.early : copy.global, copy.bytes);
        std::memset(copy.shared + copy.bytes, 0, copy.size - copy.bytes);
    }
    self.copies.erase(self.copies.begin(), self.copies.begin() + std::ptrdiff_t(landing));
    self.groups.erase(self.groups.begin(), self.groups.begin() + std::ptrdiff_t(groups));
}

}  // namespace fidfast::emulation
