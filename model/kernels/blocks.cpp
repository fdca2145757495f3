#include "model/kernels/blocks.h"

#include "core/clones.h"

#define WEFT_LANES_INLINE WEFT_INLINE
#include "model/kernels/blocks_lanes.h"

namespace weft::model::kernel {
namespace {

using c10::BFloat16;
using checkpoint::Storage;

/// Floats, [k][lanes].
struct PutFloats {
  typedef float Element;
  template <typename F>
  WEFT_INLINE static void pair(const std::uint8_t* b, const typename F::Scales& scales, int unit,
                               int pair, float* to, std::int64_t lanes) {
    OfLanes x;
    F::numbers(b, scales, unit, pair, x);
    *reinterpret_cast<Floats*>(to) = __builtin_shufflevector(x.low, x.high, 0, 2, 4, 6, 8, 10, 12,
                                                             14, 16, 18, 20, 22, 24, 26, 28, 30);
    *reinterpret_cast<Floats*>(to + lanes) = __builtin_shufflevector(
        x.low, x.high, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  }
};

/// Pairs of BFloat16, [k / 2][lanes][2]: the upper halves of floats after rounding to nearest even;
/// all are finite.
struct PutPairs {
  typedef BFloat16 Element;
  template <typename F>
  WEFT_INLINE static void pair(const std::uint8_t* b, const typename F::Scales& scales, int unit,
                               int pair, BFloat16* to, std::int64_t) {
    if constexpr (std::is_same_v<F, PlainPairs>) {
      std::memcpy(to, b + 64 * pair, 64);
      return;
    }
    alignas(64) std::uint32_t all[2 * kLanes];
    alignas(64) std::uint16_t halves[2 * kLanes];
    OfLanes x;
    F::numbers(b, scales, unit, pair, x);
    std::memcpy(all, &x, sizeof x);
    for (int i = 0; i < 2 * kLanes; ++i)
      halves[i] = static_cast<std::uint16_t>((all[i] + 0x7fffU + ((all[i] >> 16) & 1U)) >> 16);
    std::memcpy(to, halves, sizeof halves);
  }
};

WEFT_CLONES void put(Storage storage, float* to, std::int64_t lanes, const std::uint8_t* strip,
                     std::int64_t begin, std::int64_t k) {
  for_format(storage, [&]<typename F>(F)
                          WEFT_INLINED { put_strip<PutFloats, F>(to, lanes, strip, begin, k); });
}

WEFT_CLONES void put_pairs(Storage storage, BFloat16* to, std::int64_t lanes,
                           const std::uint8_t* strip, std::int64_t begin, std::int64_t k) {
  for_format(storage, [&]<typename F>(F)
                          WEFT_INLINED { put_strip<PutPairs, F>(to, lanes, strip, begin, k); });
}

void put(Storage storage, BFloat16* to, std::int64_t lanes, const std::uint8_t* strip,
         std::int64_t begin, std::int64_t k) {
  if (woven_kernels().pack_strip != nullptr)
    return woven_kernels().pack_strip(storage, to, lanes, strip, begin, k);
  put_pairs(storage, to, lanes, strip, begin, k);
}

template <typename E>
void pack_woven_of(E* to, const WovenRows& b, std::int64_t first, std::int64_t columns,
                   std::int64_t begin, std::int64_t k, const Layout& layout) {
  const std::int64_t lanes = round_up(columns, kLanes);
  const std::int64_t depth = round_up(k, layout.depth);
  const bool apart = layout.strip != 0;  // strips lie one behind the other
  for (std::int64_t column = 0; column < columns; column += kLanes) {
    E* const target = apart ? to + column * depth : to + Operand<E>::kPair * column;
    put(b.storage, target, apart ? kLanes : lanes, b.data + (first + column) * b.row_bytes, begin,
        k);
  }
}

WovenKernels kernels_for(Set set) {
  switch (set) {
#if defined(__x86_64__) && defined(__GNUC__)
    case Set::kAmx: return {kWovenOfAvx512Bf16.pack_strip, nullptr};
    case Set::kAvx512Bf16: return kWovenOfAvx512Bf16;
    case Set::kAvx2: return kWovenOfAvx2;
#endif
    default: return {nullptr, nullptr};
  }
}

}  // namespace

const WovenKernels& woven_kernels() {
  static const WovenKernels kChosen = kernels_for(chosen_set());
  return kChosen;
}

void pack_woven(float* to, const WovenRows& b, std::int64_t first, std::int64_t columns,
                std::int64_t begin, std::int64_t k, const Layout& layout) {
  pack_woven_of(to, b, first, columns, begin, k, layout);
}

void pack_woven(BFloat16* to, const WovenRows& b, std::int64_t first, std::int64_t columns,
                std::int64_t begin, std::int64_t k, const Layout& layout) {
  pack_woven_of(to, b, first, columns, begin, k, layout);
}

}  // namespace weft::model::kernel
