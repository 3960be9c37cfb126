// Runs a grid of blocks on the CPU: blocks one after another, each thread a fibre.
//
// A warp runs until all of its threads wait at the block's barrier or have ended, then the next one does: so a missing
// barrier shows. Warps and lanes take turns forwards, backwards or at random, and shared memory begins as rubbish that
// differs from one order and block to the next: a kernel is right only if every order gives the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "emulation/vector_types.h"

namespace fidfast::emulation {

enum class Order { unset, forward, reverse, random };

// No kernel runs before this: tests go through backend.run (tests/backends.py), which tries all three.
void set_thread_order(Order order, uint64_t seed);
// Dynamic shared memory that a block may ask for. The default is that of the smallest device: 99 KB (sm_86, 89, 120).
void set_shared_memory_limit(size_t bytes);
size_t shared_memory_limit();

// Returns false if the launch is refused or a thread went wrong; last_error() says how. `body` runs once a thread.
bool run_grid(dim3 grid, dim3 block, size_t shared_bytes, void (*body)(const void*), const void* arguments);
const std::string& last_error();

// ---------------------------------------------------------------------------------------------------------------------
// For the thread that runs
// ---------------------------------------------------------------------------------------------------------------------

struct Site {  // where in the kernel's source
    const char* file;
    int line;
};

[[noreturn]] void fail(const std::string& what);  // ends the launch

unsigned char* shared_memory();

enum class Reduce { none, sum, all, any };
int block_barrier(const char* name, Reduce reduce, int value, Site site);

// A call that the lanes of `mask` make together. The last one to arrive runs finish(mask, lanes), where lanes[i] is
// lane i's `data`, on its own stack still.
enum class Orders { nothing, memory };  // of the lanes: __syncwarp does, a shuffle does not
struct WarpCall {
    const char* name;
    unsigned mask;
    void (*finish)(unsigned mask, void* const* lanes);
    void* data;
    Site site;
    Orders orders = Orders::nothing;
};
void warp_call(const WarpCall& call);
int lane_index();
unsigned lanes_in_block();  // of the warp: the block may end within it

// `bytes` of `size` are copied, the rest becomes zero; nothing before the wait may be relied upon.
void copy_later(void* shared, const void* global, size_t size, size_t bytes);
void commit_copies();
void wait_for_copies(int groups_left);

}  // namespace fidfast::emulation
