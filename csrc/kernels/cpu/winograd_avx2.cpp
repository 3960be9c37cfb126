#if defined(__AVX2__)

#include "kernels/cpu/winograd_tiles.h"

namespace fidfast {
const WinogradKernel kAvx2Winograd = {"avx2", kPanel, &winograd_block};
}

#else

#include "kernels/cpu/winograd.h"

namespace fidfast {
const WinogradKernel kAvx2Winograd = {"avx2", 0, nullptr};
}

#endif
