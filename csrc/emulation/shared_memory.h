// A block's dynamic shared memory, between two redzones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace fidfast::emulation {

class SharedMemory {
public:
    explicit SharedMemory(size_t bytes);
    ~SharedMemory();
    SharedMemory(const SharedMemory&) = delete;
    SharedMemory& operator=(const SharedMemory&) = delete;

    unsigned char* data() const { return data_; }
    size_t size() const { return size_; }
    bool holds(const void* address, size_t bytes) const {
        const auto* first = static_cast<const unsigned char*>(address);
        return first >= data_ && first + bytes <= data_ + size_;
    }
    // Some of these bytes are its own or its redzones'.
    bool is_near(const void* address, size_t bytes) const {
        const auto* first = static_cast<const unsigned char*>(address);
        return first + bytes > data_ - kRedzone && first < data_ + size_ + kRedzone;
    }
    void fill_with_rubbish(uint64_t seed);
    // What was written around it, or nothing. Where AddressSanitizer watches, it has spoken before.
    std::string overrun();

private:
    static constexpr size_t kRedzone = 1024;
    void guard();
    void unguard();

    size_t size_;
    unsigned char *memory_, *data_;
};

}  // namespace fidfast::emulation
