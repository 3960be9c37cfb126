// Fresh memory costs a page fault for every 4 KiB that is written: more time than the resize of the image in it. Where
// the system allows it ("madvise" or "always" in /sys/kernel/mm/transparent_hugepage/enabled), 2 MiB pages save most.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fidfast {

// Asks for huge pages where [data, data + bytes) holds whole ones. Advice only: nothing depends on the answer.
static inline void advise_huge_pages(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr uintptr_t huge = uintptr_t(2) << 20;
    const uintptr_t first = (uintptr_t(data) + huge - 1) / huge * huge, last = (uintptr_t(data) + bytes) / huge * huge;
    if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
    (void)data, (void)bytes;
#endif
}

}  // namespace fidfast
