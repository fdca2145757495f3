#include <c10/util/Exception.h>

#include "model/kernels/blocks.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include "model/kernels/bf16_lanes.h"

#define WEFT_TURN_INTRINSICS
#define WEFT_TURN_INLINE                                                   \
  [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,f16c"), \
    gnu::always_inline]] inline
#include "model/kernels/blocks_turn.h"

namespace weft::model::kernel {
namespace {

/// By vcvtne2ps2bf16.
struct RoundByProcessor {
  WEFT_TURN_INLINE static void pairs(const Floats& low, const Floats& high, Words& to) {
    to = reinterpret_cast<Words>(
        _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(high), reinterpret_cast<__m512>(low)));
  }
};

}  // namespace

[[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,f16c")]] void turn_blocks_fast(
    checkpoint::Storage storage, c10::BFloat16* to, std::int64_t lanes, const BlockStrip& strip) {
  turn_any<TurnPairs<RoundByProcessor>>(storage, to, lanes, strip);
}

}  // namespace weft::model::kernel
#else
namespace weft::model::kernel {

void turn_blocks_fast(checkpoint::Storage, c10::BFloat16*, std::int64_t, const BlockStrip&) {
  TORCH_INTERNAL_ASSERT(false, "this processor has no rows of BFloat16");
}

}  // namespace weft::model::kernel
#endif
