#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/metrics/answer_tokens.h"

namespace weft::eval {

/// Edits of the best reference, and the references' mean length in words; sums over a corpus.
inline constexpr std::size_t kTerWidth = 2;

/// Translation edit rate (Snover et al. 2006, 2006.amta-papers.25) as sacrebleu 2.6 computes it:
/// Tercom's greedy shifts and beam, with its limits (shifts of at most 10 words by at most 50, at
/// most 1000 candidates a segment). Throws InputError without references.
[[nodiscard]] std::vector<double> ter_statistics(std::string_view hypothesis,
                                                 std::span<const std::string> references,
                                                 const TerOptions& options = {});

/// 100 * edits / length, at least 0; less is better. Without any reference word 100, or 0 if there
/// is no edit either.
[[nodiscard]] double ter_score(std::span<const double> sums);

}  // namespace weft::eval
