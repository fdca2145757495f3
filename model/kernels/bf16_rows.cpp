#include "model/kernels/bf16_rows.h"

namespace weft::model::kernel {

const RowKernels* bf16_rows_of(Set set) {
  switch (set) {
#if defined(__x86_64__) && defined(__GNUC__)
    case Set::kAmx:
    case Set::kAvx512Bf16: return &kRowsOfAvx512Bf16;
    case Set::kAvx512: return &kRowsOfAvx512;
    case Set::kAvx2: return &kRowsOfAvx2;
#endif
    default: return nullptr;
  }
}

const RowKernels* bf16_rows() {
  static const RowKernels* const kChosen = bf16_rows_of(chosen_set());
  return kChosen;
}

}  // namespace weft::model::kernel
