#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace weft::text {

/// The merges that make a BPE of SentencePiece pieces with scores, best first: every way to cut a
/// piece into two pieces, in falling order of (score of the whole, characters of the left part,
/// characters of the right part); ties by the ids of the parts. The formula of transformers'
/// generate_merges. `pieces` are valid UTF-8 and distinct.
[[nodiscard]] std::vector<std::pair<std::string, std::string>> merges_of_pieces(
    std::span<const std::string_view> pieces, std::span<const float> scores);

}  // namespace weft::text
