#if defined(__AVX512F__)

#include "kernels/cpu/winograd_tiles.h"

namespace fidfast {
const WinogradKernel kAvx512Winograd = {"avx512", kPanel, &winograd_block};
}

#else

#include "kernels/cpu/winograd.h"

namespace fidfast {
const WinogradKernel kAvx512Winograd = {"avx512", 0, nullptr};
}

#endif
