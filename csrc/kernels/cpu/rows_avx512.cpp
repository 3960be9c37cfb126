#include "kernels/cpu/rows.h"

namespace fidfast {
const RowKernels kAvx512Rows = kernels_of_level("avx512");
}
