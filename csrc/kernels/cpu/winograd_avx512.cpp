#if defined(__AVX512F__)

#include "kernels/cpu/winograd_tiles.h"

namespace fidfast {
const WinogradKernels kAvx512Winograd = {kKernels, sizeof(kKernels) / sizeof(kKernels[0])};
}

#else

#include "kernels/cpu/winograd.h"

namespace fidfast {
const WinogradKernels kAvx512Winograd = {nullptr, 0};
}

#endif
