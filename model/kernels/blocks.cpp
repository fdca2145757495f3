#include "model/kernels/blocks.h"

#include <array>
#include <type_traits>
#include <vector>

#include "checkpoint/dequantize.h"
#include "core/clones.h"
#include "model/kernels/bf16_rows.h"

#define WEFT_TURN_INLINE WEFT_INLINE
#include "model/kernels/blocks_turn.h"

namespace weft::model::kernel {
namespace {

using c10::BFloat16;
using checkpoint::Storage;

/// Upper halves of floats after rounding to nearest even; all are finite.
struct RoundByIntegers {
  WEFT_INLINE static void pairs(const Floats& low, const Floats& high, Words& to) {
    typedef std::uint16_t Halves __attribute__((vector_size(32), aligned(2)));
    const Words a = reinterpret_cast<const Words&>(low);
    const Words b = reinterpret_cast<const Words&>(high);
    const Halves first = __builtin_convertvector((a + 0x7fffU + ((a >> 16) & 1U)) >> 16, Halves);
    const Halves second = __builtin_convertvector((b + 0x7fffU + ((b >> 16) & 1U)) >> 16, Halves);
    std::memcpy(&to, &first, sizeof first);
    std::memcpy(reinterpret_cast<char*>(&to) + sizeof first, &second, sizeof second);
  }
};

WEFT_CLONES void turn(Storage storage, float* to, std::int64_t lanes, const BlockStrip& strip) {
  turn_any<TurnFloats>(storage, to, lanes, strip);
}

WEFT_CLONES void turn_pairs(Storage storage, BFloat16* to, std::int64_t lanes,
                            const BlockStrip& strip) {
  turn_any<TurnPairs<RoundByIntegers>>(storage, to, lanes, strip);
}

void turn(Storage storage, BFloat16* to, std::int64_t lanes, const BlockStrip& strip) {
  if (has_bf16_rows()) return turn_blocks_fast(storage, to, lanes, strip);
  turn_pairs(storage, to, lanes, strip);
}

/// The rows of a strip that has fewer than kLanes, and rows of zeros after them: a block of zero
/// bytes holds zeros in every format.
BlockStrip filled_up(const BlockStrip& strip, std::vector<std::uint8_t>& room) {
  room.assign(static_cast<std::size_t>(kLanes * strip.row_bytes), 0);
  std::copy_n(strip.data, strip.height * strip.row_bytes, room.data());
  BlockStrip full = strip;
  full.data = room.data();
  return full;
}

template <typename E>
void pack_blocks_of(E* to, const BlockRows& b, std::int64_t first, std::int64_t columns,
                    std::int64_t begin, std::int64_t k, const Layout& layout) {
  const std::int64_t lanes = round_up(columns, kLanes);
  const std::int64_t depth = round_up(k, layout.depth);
  const bool apart = layout.strip != 0;  // strips lie one behind the other
  const std::int64_t stride = apart ? kLanes : lanes;
  std::vector<std::uint8_t> room;
  for (std::int64_t column = 0; column < columns; column += kLanes) {
    BlockStrip strip{.data = b.data + (first + column) * b.row_bytes,
                     .row_bytes = b.row_bytes,
                     .height = std::min(kLanes, columns - column),
                     .begin = begin,
                     .k = k};
    if (strip.height < kLanes) strip = filled_up(strip, room);
    E* const target = apart ? to + column * depth : to + Operand<E>::kPair * column;
    turn(b.storage, target, stride, strip);
  }
}

}  // namespace

bool packs_blocks(Storage storage) {
  constexpr std::array kPacked{Storage::kQ8_0, Storage::kQ4_0, Storage::kQ4_1, Storage::kQ5_0,
                               Storage::kQ5_1, Storage::kQ4_K, Storage::kQ5_K, Storage::kQ6_K};
  return std::ranges::find(kPacked, storage) != kPacked.end();
}

void pack_blocks(float* to, const BlockRows& b, std::int64_t first, std::int64_t columns,
                 std::int64_t begin, std::int64_t k, const Layout& layout) {
  pack_blocks_of(to, b, first, columns, begin, k, layout);
}

void pack_blocks(BFloat16* to, const BlockRows& b, std::int64_t first, std::int64_t columns,
                 std::int64_t begin, std::int64_t k, const Layout& layout) {
  pack_blocks_of(to, b, first, columns, begin, k, layout);
}

}  // namespace weft::model::kernel
