#include "kernels/cpu/rows.h"

namespace fidfast {
const RowKernels kScalarRows = kernels_of_level("scalar");
}
