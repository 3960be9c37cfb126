#include "emulation/races.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <unordered_map>
#include <vector>

#include "emulation/cuda_runtime.h"
#include "emulation/threads.h"

namespace fidfast::emulation {
namespace {

// The last write of a place.
struct Write {
    uint32_t epoch;  // of the block, see below; 0: never
    uint32_t clock;  // of the thread
    uint16_t thread;
    uint8_t bytes;   // bit per byte of the place
    bool atomic;
};

constexpr size_t kPage = 4096, kPlace = 4;  // in global memory a place is 4 bytes, in shared memory one
using Page = std::vector<Write>;

// Epochs count the barriers of all blocks of all launches: what lies before the block's first is another block's.
uint32_t epoch = 1, first_of_launch = 1, first_of_block = 1;
// known[i][j]: thread i knows what thread j of its warp did up to that clock; known[i][i] is its own clock.
uint32_t known[kMaxThreads][kWarp];
std::vector<Write> shared_writes;
std::unordered_map<uintptr_t, Page> pages;
struct {
    uintptr_t number;
    Page* page;  // or null: nothing was written there
} recent[256];

Page* find_page(uintptr_t number, bool make) {
    auto& slot = recent[number % 256];
    if (slot.number == number && (slot.page || !make)) return slot.page;
    slot.number = number;
    if (make) {
        slot.page = &pages[number];
        slot.page->resize(kPage / kPlace);
    } else {
        const auto found = pages.find(number);
        slot.page = found == pages.end() ? nullptr : &found->second;
    }
    return slot.page;
}

// Where the kernel's code is, by the debugger's tables: "resize.cu:120" or nothing.
std::string source_line(const void* code) {
    Dl_info module;
    if (!dladdr(code, &module) || !module.dli_fname) return "";
    char command[1024];
    const auto offset = static_cast<const char*>(code) - static_cast<const char*>(module.dli_fbase) - 1;
    std::snprintf(command, sizeof command, "addr2line -s -e '%s' %#tx 2>/dev/null", module.dli_fname, offset);
    FILE* pipe = popen(command, "r");
    if (!pipe) return "";
    char line[256] = "";
    if (!std::fgets(line, sizeof line, pipe)) line[0] = 0;
    pclose(pipe);
    std::string found(line);
    found = found.substr(0, found.find_first_of(" \n"));
    return found.empty() || found[0] == '?' ? "" : found;
}

[[noreturn]] void report(const void* address, size_t size, const char* what, const Write& write, const void* code) {
    const bool other_block = write.epoch < first_of_block;
    const std::string place = source_line(code);
    std::string where = "global memory";
    if (launch_state.shared->holds(address, 1))
        where = "shared memory at byte " +
                std::to_string(static_cast<const unsigned char*>(address) - launch_state.shared->data());
    fail("race" + (place.empty() ? place : " at " + place) + ": it " + what + " " + std::to_string(size) +
         " bytes of " + where + " that " +
         (other_block ? std::string("another block of the same launch")
                      : "thread " + text(launch_state.threads[write.thread].index)) +
         " wrote, and " + (other_block ? "nothing orders two blocks" : "no barrier lies between the two"));
}

[[noreturn]] void report_overrun(const void* address, size_t size, const char* what, const void* code) {
    const auto offset = static_cast<const unsigned char*>(address) - launch_state.shared->data();
    const std::string place = source_line(code);
    fail(std::string(what) + " " + std::to_string(size) + " bytes at byte " + std::to_string(offset) + " of its " +
         std::to_string(launch_state.shared->size()) + " bytes of shared memory" +
         (place.empty() ? place : " (" + place + ")"));
}

bool is_ordered(const Write& write, bool shared, int self) {
    if (write.epoch < first_of_launch) return true;
    if (write.epoch < first_of_block) return shared;  // each block has shared memory of its own
    if (write.epoch < epoch || write.thread == self) return true;
    return write.thread / kWarp == self / kWarp && known[self][write.thread % kWarp] >= write.clock;
}

enum class Kind { read, write, atomic };

struct Access {
    const void* address;
    size_t size;
    Kind kind;
    const void* code;
};

void check(const Access& access, const Write& place, unsigned bytes, bool shared, int self) {
    if (!(place.bytes & bytes) || (place.atomic && access.kind == Kind::atomic) || is_ordered(place, shared, self))
        return;
    report(access.address, access.size, access.kind == Kind::read ? "reads" : "writes", place, access.code);
}

void note_shared(const Access& access, size_t offset, int self) {
    const Write now{epoch, known[self][self % kWarp], uint16_t(self), 1, access.kind == Kind::atomic};
    Write* place = &shared_writes[offset];
    for (size_t i = 0; i < access.size; i++) {
        const bool same_write = i && place[i].epoch == place[i - 1].epoch && place[i].thread == place[i - 1].thread;
        if (!same_write || place[i].clock != place[i - 1].clock) check(access, place[i], 1, true, self);
    }
    if (access.kind != Kind::read) std::fill(place, place + access.size, now);
}

void note_global(const Access& access, uintptr_t start, int self) {
    const uintptr_t end = start + access.size;
    for (uintptr_t at = start; at < end;) {
        const uintptr_t page_end = std::min(end, (at / kPage + 1) * kPage);
        Page* page = find_page(at / kPage, access.kind != Kind::read);
        if (!page) {  // nobody wrote there
            at = page_end;
            continue;
        }
        for (; at < page_end; at = (at / kPlace + 1) * kPlace) {
            const uintptr_t last = std::min(page_end, (at / kPlace + 1) * kPlace);
            const auto bytes = uint8_t(((1u << (last - at)) - 1) << at % kPlace);
            Write& place = (*page)[at % kPage / kPlace];
            check(access, place, bytes, false, self);
            if (access.kind != Kind::read)
                place = {epoch, known[self][self % kWarp], uint16_t(self), bytes, access.kind == Kind::atomic};
        }
    }
}

void note(const void* address, size_t size, Kind kind, const void* code) {
    const Thread* thread = launch_state.running;
    if (!thread || !size || Fibre::is_on_a_stack(address)) return;
    const SharedMemory& shared = *launch_state.shared;
    const Access access{address, size, kind, code};
    if (!shared.is_near(address, size))
        return note_global(access, reinterpret_cast<uintptr_t>(address), thread->number);
    if (!shared.holds(address, size)) report_overrun(address, size, kind == Kind::read ? "reads" : "writes", code);
    note_shared(access, size_t(static_cast<const unsigned char*>(address) - shared.data()), thread->number);
}

}  // namespace

void begin_launch_for_races() {
    constexpr size_t kKeep = 4096;
    if (pages.size() > kKeep) {
        pages.clear();
        for (auto& slot : recent) slot = {};
    }
    if (shared_writes.size() < launch_state.shared->size()) shared_writes.resize(launch_state.shared->size());
    first_of_launch = epoch + 1;
}

void begin_block_for_races() {
    first_of_block = ++epoch;
    for (int i = 0; i < launch_state.count; i++) known[i][i % kWarp]++;  // above what anybody knows of it
}

void order_block() { epoch++; }

void order_warp(int first_thread, unsigned mask) {
    uint32_t joined[kWarp] = {};
    for (int i = 0; i < kWarp; i++)
        if (mask >> i & 1)
            for (int j = 0; j < kWarp; j++) joined[j] = std::max(joined[j], known[first_thread + i][j]);
    for (int i = 0; i < kWarp; i++) {
        if (!(mask >> i & 1)) continue;
        std::copy(joined, joined + kWarp, known[first_thread + i]);
        known[first_thread + i][i]++;
    }
}

void note_read(const void* address, size_t size) { note(address, size, Kind::read, __builtin_return_address(0)); }
void note_write(const void* address, size_t size) { note(address, size, Kind::write, __builtin_return_address(0)); }
void note_atomic(const void* address, size_t size) { note(address, size, Kind::atomic, __builtin_return_address(0)); }

// ---------------------------------------------------------------------------------------------------------------------
// What -fsanitize=thread calls
// ---------------------------------------------------------------------------------------------------------------------

extern "C" {

#define FIDFAST_HOOK(name, size, kind) \
    void __tsan_##name##size(const void* address) { note(address, size, kind, __builtin_return_address(0)); }
#define FIDFAST_HOOKS(name, kind) \
    FIDFAST_HOOK(name, 1, kind)   \
    FIDFAST_HOOK(name, 2, kind)   \
    FIDFAST_HOOK(name, 4, kind)   \
    FIDFAST_HOOK(name, 8, kind)   \
    FIDFAST_HOOK(name, 16, kind)
FIDFAST_HOOKS(read, Kind::read)
FIDFAST_HOOKS(write, Kind::write)
FIDFAST_HOOKS(unaligned_read, Kind::read)
FIDFAST_HOOKS(unaligned_write, Kind::write)

void __tsan_read_range(const void* address, size_t size) {
    note(address, size, Kind::read, __builtin_return_address(0));
}
void __tsan_write_range(const void* address, size_t size) {
    note(address, size, Kind::write, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
// The guards of host code's static variables.
char __tsan_atomic8_load(const volatile char* address, int) { return __atomic_load_n(address, __ATOMIC_ACQUIRE); }

}  // extern "C"

}  // namespace fidfast::emulation
