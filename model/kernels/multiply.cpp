#include "model/kernels/multiply.h"

#include "model/kernels/amx.h"
#include "model/kernels/dense.h"

namespace weft::model::kernel {
namespace {

constexpr Layout kPairs{.depth = 2};
/// Whole tiles of 32 of k by 16 columns, one behind the other.
constexpr Layout kTiles{.depth = 32, .strip = 16};

// A chain of 256 widened products begins at zero; sums of pairs that are taken up again go on as
// one chain, and tiles are left once a product.
constexpr Cut kWidenedCut{.columns = 64, .depth = 2048, .rows = 96, .step = 256};
constexpr Cut kPairsCut{.columns = 64, .depth = 2048, .rows = 96, .step = 1024};
constexpr Cut kTilesCut{.columns = 128, .depth = 4096, .rows = 64, .step = 4096};

constexpr Kernels kPortableKernels{floats_portable, doubles_portable, widened_portable,
                                   nullptr,         kPairs,           kWidenedCut};
#if defined(__x86_64__) && defined(__GNUC__)
constexpr Kernels kAvx2Kernels{floats_avx2, doubles_avx2, widened_avx2,
                               nullptr,     kPairs,       kWidenedCut};
constexpr Kernels kAvx512Kernels{floats_avx512, doubles_avx512, widened_avx512,
                                 nullptr,       kPairs,         kWidenedCut};
constexpr Kernels kAvx512Bf16Kernels{floats_avx512, doubles_avx512, pairs_avx512,
                                     nullptr,       kPairs,         kPairsCut};
constexpr Kernels kAmxKernels{floats_avx512, doubles_avx512, multiply_amx,
                              chain_amx,     kTiles,         kTilesCut};
#endif
constexpr Kernels kEmulatedKernels{floats_portable,    doubles_portable, multiply_amx_emulated,
                                   chain_amx_emulated, kTiles,           kTilesCut};

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
