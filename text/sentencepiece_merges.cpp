#include "text/sentencepiece_merges.h"

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <unordered_map>

#include "core/utf8.h"

namespace weft::text {
namespace {

struct Merge {
  std::string_view left;
  std::string_view right;
  float score;
  std::size_t left_characters;
  std::size_t right_characters;
};

}  // namespace

std::vector<std::pair<std::string, std::string>> merges_of_pieces(
    std::span<const std::string_view> pieces, std::span<const float> scores) {
  std::unordered_map<std::string_view, std::size_t> ids;
  ids.reserve(pieces.size());
  for (std::size_t id = 0; id < pieces.size(); ++id) ids.emplace(pieces[id], id);

  std::vector<Merge> merges;
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    const std::string_view piece = pieces[id];
    const std::size_t begin = merges.size();
    for (std::size_t cut = 1; cut < piece.size(); ++cut) {
      if ((static_cast<std::uint8_t>(piece[cut]) & 0xC0) == 0x80) continue;  // inside a character
      const std::string_view left = piece.substr(0, cut);
      const std::string_view right = piece.substr(cut);
      if (!ids.contains(left) || !ids.contains(right)) continue;
      merges.push_back(
          {left, right, scores[id], core::count_characters(left), core::count_characters(right)});
    }
    std::ranges::stable_sort(
        merges.begin() + static_cast<std::ptrdiff_t>(begin), merges.end(), {},
        [&](const Merge& merge) { return std::pair(ids.at(merge.left), ids.at(merge.right)); });
  }
  std::ranges::stable_sort(merges, std::ranges::greater{}, [](const Merge& merge) {
    return std::tuple(merge.score, merge.left_characters, merge.right_characters);
  });

  std::vector<std::pair<std::string, std::string>> result;
  result.reserve(merges.size());
  for (const Merge& merge : merges) result.emplace_back(merge.left, merge.right);
  return result;
}

}  // namespace weft::text
