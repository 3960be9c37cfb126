// Resize to 299 x 299, normalise, convert and hash a batch of images of any sizes, on the CPU.
#pragma once

#include <cstdint>

#include "kernels/cpu/row_kernels.h"

namespace fidfast {

struct ResizeNormalizeParams {
    const ImageView* images;  // (N,)
    int64_t count;            // N
    PresetSpec preset;
    FloatInput input;
    void* out;            // (N, 3, 299, 299) dense, or null: only hash
    OutType out_type;
    bool channels_last;   // out is (N, 299, 299, 3) in memory
    uint64_t* hashes;     // (N, 2), or null
    uint8_t* unusable;    // (N,) set to 1 for a float image with NaN or values far outside the range, else 0
    int threads;
    const RowKernels* rows;
};

void resize_normalize(const ResizeNormalizeParams& params);

// The best row kernels of this CPU, or those of the named level; null if this CPU lacks it or there is no such level.
const RowKernels* best_rows();
const RowKernels* rows_of_level(const char* name);

}  // namespace fidfast
