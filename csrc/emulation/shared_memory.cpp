#include "emulation/shared_memory.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "emulation/sanitizer.h"

namespace fidfast::emulation {
namespace {

constexpr auto kAlignment = std::align_val_t(1024);
constexpr unsigned char kCanary = 0xC7;

}  // namespace

SharedMemory::SharedMemory(size_t bytes)
    : size_(bytes), memory_(new (kAlignment) unsigned char[bytes + 2 * kRedzone]), data_(memory_ + kRedzone) {
    std::memset(memory_, kCanary, size_ + 2 * kRedzone);
    guard();
}

SharedMemory::~SharedMemory() {
    unguard();
    ::operator delete[](memory_, kAlignment);
}

void SharedMemory::guard() {
    ASAN_POISON_MEMORY_REGION(memory_, kRedzone);
    ASAN_POISON_MEMORY_REGION(data_ + size_, kRedzone);
}

void SharedMemory::unguard() { ASAN_UNPOISON_MEMORY_REGION(memory_, size_ + 2 * kRedzone); }

void SharedMemory::fill_with_rubbish(uint64_t seed) {
    for (size_t i = 0; i < size_; i += 8) {
        seed = seed * 6364136223846793005 + 1442695040888963407;
        const uint64_t word = seed >> 8 ^ seed << 40;
        std::memcpy(data_ + i, &word, std::min<size_t>(8, size_ - i));
    }
}

std::string SharedMemory::overrun() {
    std::string found;
    unguard();
    for (size_t i = 0; i < kRedzone && found.empty(); i++) {
        if (data_[size_ + i] != kCanary) found = std::to_string(i) + " bytes past the end of";
        if (memory_[kRedzone - 1 - i] != kCanary) found = std::to_string(i + 1) + " bytes before";
    }
    guard();
    if (found.empty()) return found;
    return "a thread wrote " + found + " its " + std::to_string(size_) + " bytes of shared memory";
}

}  // namespace fidfast::emulation
