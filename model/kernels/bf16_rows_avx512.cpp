#include "model/kernels/bf16_lanes_avx512.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include "model/kernels/bf16_rows_of.h"

namespace weft::model::kernel {

const RowKernels kRowsOfAvx512 = kRows;

}  // namespace weft::model::kernel
#endif
