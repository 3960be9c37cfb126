#if defined(__AVX2__)

#include "kernels/cpu/winograd_tiles.h"

namespace fidfast {
const WinogradKernels kAvx2Winograd = {kKernels, sizeof(kKernels) / sizeof(kKernels[0])};
}

#else

#include "kernels/cpu/winograd.h"

namespace fidfast {
const WinogradKernels kAvx2Winograd = {nullptr, 0};
}

#endif
