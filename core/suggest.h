#pragma once

#include <span>
#include <string>
#include <string_view>

namespace weft::core {

/// Optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours.
[[nodiscard]] std::size_t edit_distance(std::string_view a, std::string_view b);

/// The candidate nearest to `word`, or "" when none is near enough to be what was meant
/// (at most a third of the word's length, at least 2 edits).
[[nodiscard]] std::string nearest(std::string_view word, std::span<const std::string> candidates);

}  // namespace weft::core
