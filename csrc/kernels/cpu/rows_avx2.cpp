#include "kernels/cpu/rows.h"

namespace fidfast {
const RowKernels kAvx2Rows = kernels_of_level("avx2");
}
