#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/metrics/answer_tokens.h"

namespace weft::eval {

/// BLEU (Papineni et al. 2002, P02-1040) as sacrebleu 2.6 computes it by default: n-grams up to 4,
/// exponential smoothing, no effective order.
struct BleuOptions {
  BleuTokens tokens = BleuTokens::k13a;
  bool lowercase = false;
  const text::PieceModel* pieces = nullptr;  ///< Its pieces are the words, instead of `tokens`.
};

inline constexpr int kBleuOrder = 4;

/// Words of hypothesis and of the reference closest in length (the shorter of equals), then matched
/// and all n-grams of the hypothesis for n = 1..4. Those of a corpus are sums over its segments.
inline constexpr std::size_t kBleuWidth = 2 + 2 * kBleuOrder;

/// Statistics of one segment; a match counts as often as in the reference that has it most. Throws
/// InputError without references.
[[nodiscard]] std::vector<double> bleu_statistics(std::string_view hypothesis,
                                                  std::span<const std::string> references,
                                                  const BleuOptions& options = {});

/// The score in [0, 100] of kBleuWidth sums.
[[nodiscard]] double bleu_score(std::span<const double> sums);

}  // namespace weft::eval
