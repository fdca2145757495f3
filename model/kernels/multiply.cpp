#include "model/kernels/multiply.h"

#include "model/kernels/amx.h"
#include "model/kernels/dense.h"

namespace weft::model::kernel {
namespace {

/// A chain of this many widened products begins at zero.
constexpr std::int64_t kShort = 256;
/// Sums that are taken up again go on as one chain.
constexpr std::int64_t kLong = 1024;

constexpr Kernels kPortableKernels{floats_portable, doubles_portable, widened_portable, kShort};
#if defined(__x86_64__) && defined(__GNUC__)
constexpr Kernels kAvx2Kernels{floats_avx2, doubles_avx2, widened_avx2, kShort};
constexpr Kernels kAvx512Kernels{floats_avx512, doubles_avx512, widened_avx512, kShort};
constexpr Kernels kAvx512Bf16Kernels{floats_avx512, doubles_avx512, pairs_avx512, kLong};
constexpr Kernels kAmxKernels{floats_avx512, doubles_avx512, multiply_amx, kLong};
#endif
constexpr Kernels kEmulatedKernels{floats_portable, doubles_portable, multiply_amx_emulated, kLong};

}  // namespace

const Kernels& kernels_of(Set set) {
  switch (set) {
#if defined(__x86_64__) && defined(__GNUC__)
    case Set::kAmx: return kAmxKernels;
    case Set::kAvx512Bf16: return kAvx512Bf16Kernels;
    case Set::kAvx512: return kAvx512Kernels;
    case Set::kAvx2: return kAvx2Kernels;
#endif
    case Set::kAmxEmulated: return kEmulatedKernels;
    default: return kPortableKernels;
  }
}

const Kernels& kernels() {
  static const Kernels& kChosen = kernels_of(chosen_set());
  return kChosen;
}

}  // namespace weft::model::kernel
