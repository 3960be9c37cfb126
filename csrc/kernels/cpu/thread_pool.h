// The threads that torch's OpenMP keeps, looked up at run time, never linked: two OpenMP libraries in one process share
// no threads. Threads of our own where there is none, and in a child of fork(), which OpenMP's do not survive.
#pragma once

#include <cstdint>
#include <functional>

namespace fidfast {

// Calls body(item) once for every item in [0, items), on up to `threads` threads of which the caller is one; returns
// when all are done and rethrows the first exception. The threads are kept for the next call. Our own serve one call at
// a time: a second one does its items on the calling thread. A body must not call it.
void parallel_for(int64_t items, int threads, const std::function<void(int64_t)>& body);

}  // namespace fidfast
