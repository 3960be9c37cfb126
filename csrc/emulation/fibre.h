// A fibre: a stack of its own that runs until it hands control back. The device's threads run on these.
#pragma once

#include <cstddef>

namespace fidfast::emulation {

class Fibre {
public:
    using Entry = void (*)(void*);

    static constexpr size_t kMost = 1024;  // stacks

    Fibre() = default;
    Fibre(const Fibre&) = delete;
    Fibre& operator=(const Fibre&) = delete;

    // The next resume() starts entry(argument) afresh on stack `index`; whatever was on it is forgotten.
    void prepare(Entry entry, void* argument, size_t index);
    // From the scheduler: runs until the fibre calls yield() or finish(). Exceptions must not leave the entry.
    void resume();
    // From inside: back to the scheduler; returns at the next resume().
    void yield();
    // From inside: back to the scheduler for good.
    [[noreturn]] void finish();

    static bool is_on_a_stack(const void* address) {
        const char* byte = static_cast<const char*>(address);
        return byte >= all_stacks_ && byte < end_of_stacks_;
    }

private:
    void leave(bool for_good);
    static void run(Fibre* self);

    static char* stack_of(size_t index);

    static char *all_stacks_, *end_of_stacks_;
    char* stack_ = nullptr;
    void* context_ = nullptr;  // where the fibre stands
    void* caller_ = nullptr;   // where the scheduler stands
    Entry entry_ = nullptr;
    void* argument_ = nullptr;
    bool has_frames_ = false;  // the stack holds frames that no return has cleaned up
    // AddressSanitizer's own notes on both stacks
    void* own_fakes_ = nullptr;
    void* caller_fakes_ = nullptr;
    const void* caller_stack_ = nullptr;
    size_t caller_stack_size_ = 0;
};

}  // namespace fidfast::emulation
