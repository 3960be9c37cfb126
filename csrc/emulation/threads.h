// The state of the launch that runs: known to the emulation's own files only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "emulation/fibre.h"
#include "emulation/scheduler.h"
#include "emulation/shared_memory.h"

namespace fidfast::emulation {

constexpr int kWarp = 32;
constexpr int kMaxThreads = 1024;

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
    size_t loose;                // copies after the last commit
};

struct Launch {
    Order order = Order::unset;
    uint64_t random_state = 1;
    std::deque<Thread> threads;  // of the block; the pool keeps its stacks from launch to launch
    int count = 0;               // of them that the block has
    Thread* running = nullptr;
    bool failed = false;
    std::string error;
    std::unique_ptr<SharedMemory> shared;
};
extern Launch launch_state;

uint64_t random_number();
std::string text(uint3 index);
std::string text(Site site);

}  // namespace fidfast::emulation
