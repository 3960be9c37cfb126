// Asynchronous copies into shared memory: they land at the wait, and not a moment before.
#include <cstring>

#include "emulation/races.h"
#include "emulation/threads.h"

namespace fidfast::emulation {

void copy_later(void* shared, const void* global, size_t size, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(shared) % size || reinterpret_cast<uintptr_t>(global) % size)
        fail("an asynchronous copy of " + std::to_string(size) + " bytes needs both sides aligned to that");
    if (!launch_state.shared->holds(shared, size))
        fail("an asynchronous copy to outside of the block's shared memory");
    if (bytes > size)
        fail("an asynchronous copy of " + std::to_string(bytes) + " bytes out of " + std::to_string(size));
    Copy copy{static_cast<char*>(shared), static_cast<const char*>(global), size, bytes, {}};
    std::memcpy(copy.early, global, bytes);
    note_read(global, bytes);
    note_write(shared, size);
    const uint64_t rubbish = random_number();
    for (size_t i = 0; i < size; i++) copy.shared[i] = char(rubbish >> i % 8 * 8);
    launch_state.running->copies.push_back(copy);
    launch_state.running->loose++;
}

void commit_copies() {
    Thread& self = *launch_state.running;
    self.groups.push_back(self.loose);
    self.loose = 0;
}

void wait_for_copies(int groups_left) {
    Thread& self = *launch_state.running;
    if (self.groups.size() <= size_t(groups_left)) return;
    const size_t groups = self.groups.size() - size_t(groups_left);
    size_t landing = 0;
    for (size_t i = 0; i < groups; i++) landing += self.groups[i];
    for (size_t i = 0; i < landing; i++) {
        const Copy& copy = self.copies[i];
        // The device reads the source at any time between the two: one order early, the others late.
        std::memcpy(copy.shared, launch_state.order == Order::reverse ? copy.early : copy.global, copy.bytes);
        std::memset(copy.shared + copy.bytes, 0, copy.size - copy.bytes);
        note_write(copy.shared, copy.size);
    }
    self.copies.erase(self.copies.begin(), self.copies.begin() + std::ptrdiff_t(landing));
    self.groups.erase(self.groups.begin(), self.groups.begin() + std::ptrdiff_t(groups));
}

}  // namespace fidfast::emulation
