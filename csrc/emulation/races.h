// Finds races: two threads touch the same bytes, one of them writes, and nothing orders the two.
//
// What orders two threads of a block: __syncthreads; of a warp: __syncwarp too (shuffles do not order memory). Nothing
// orders two blocks of one launch. Only the last write of each place is kept: a read that races with a later write is
// found in the reverse thread order, where the write comes first.
//
// The compiler reports the accesses: kernels are compiled with -fsanitize=thread, and races.cpp stands in for its
// runtime. Without that flag nothing is reported, and the thread orders alone must show a race.
#pragma once

#include <cstddef>

namespace fidfast::emulation {

void begin_launch_for_races();
void begin_block_for_races();
void order_block();                             // at __syncthreads
void order_warp(int first_thread, unsigned mask);  // at __syncwarp

void note_read(const void* address, size_t size);
void note_write(const void* address, size_t size);
void note_atomic(const void* address, size_t size);

}  // namespace fidfast::emulation
