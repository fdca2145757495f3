#pragma once

#include "model/kernels/multiply.h"

// Kernels that multiply and add in float or double: Multiply of model/kernels/multiply.h. Those of
// BFloat16 widen its numbers in registers.
namespace weft::model::kernel {

#define WEFT_MULTIPLY(NAME, W, E)                                                       \
  void NAME(W* c, std::int64_t c_stride, const E* a, std::int64_t a_stride, const E* b, \
            const Extent& extent, bool add)
WEFT_MULTIPLY(floats_portable, float, float);
WEFT_MULTIPLY(doubles_portable, double, double);
WEFT_MULTIPLY(widened_portable, float, c10::BFloat16);
#if defined(__x86_64__) && defined(__GNUC__)
WEFT_MULTIPLY(floats_avx2, float, float);
WEFT_MULTIPLY(doubles_avx2, double, double);
WEFT_MULTIPLY(widened_avx2, float, c10::BFloat16);
WEFT_MULTIPLY(floats_avx512, float, float);
WEFT_MULTIPLY(doubles_avx512, double, double);
WEFT_MULTIPLY(widened_avx512, float, c10::BFloat16);
/// BFloat16 by vdpbf16ps (model/kernels/pairs.cpp).
WEFT_MULTIPLY(pairs_avx512, float, c10::BFloat16);
#endif

}  // namespace weft::model::kernel
