// Threads of our own: torch ships its own OpenMP, and two of those in one process share no threads and survive no fork.
#pragma once

#include <cstdint>
#include <functional>

namespace fidfast {

// Calls body(item) once for every item in [0, items), on up to `threads` threads of which the caller is one; returns
// when all are done and rethrows the first exception. The threads are kept for the next call. In a child of fork() new
// ones are started. A call from another thread while one runs does its items on the calling thread; a body must not
// call it.
void parallel_for(int64_t items, int threads, const std::function<void(int64_t)>& body);

}  // namespace fidfast
