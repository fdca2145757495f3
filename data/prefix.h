#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/example_table.h"

namespace weft::data {

// Examples of a row that begin alike (the chat template, the instruction, a text that many
// questions are about) share their beginning: it is computed once, and every example continues it.
// Losses and gradients are those of separate rows, since nothing is learned in the shared part.

/// Beginnings are shared in steps of so many tokens: fewer are not worth a segment of their own,
/// and with fixed steps a part of the examples shares at least as much as it does among all of
/// them.
inline constexpr std::int64_t kSharedStep = 8;

/// What sharing needs to know of an example.
struct Prefix {
  std::span<const std::int32_t> tokens;
  /// Tokens from the start that others may share: up to the last before the one that predicts what
  /// is learned first, and never the whole example.
  std::int64_t shareable = 0;
};

[[nodiscard]] Prefix prefix_of(const ExampleView& example);

/// Tokens that both begin with and may share: a multiple of kSharedStep.
[[nodiscard]] std::int64_t shared_tokens(const Prefix& a, const Prefix& b);

/// One node of a forest: tokens [begin, end) of the examples `members`, which all hold them.
struct PrefixNode {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int32_t parent = -1;            ///< An earlier node, which ends at `begin`; -1: begin is 0
  std::vector<std::uint32_t> members;  ///< Positions in `examples`; one in a leaf
};

/// The examples as trees: a node for every beginning that several share beyond their parent, and a
/// leaf for the rest of each example. Nodes come after their parents, children of one in the order
/// of their tokens. Depends on the examples only.
[[nodiscard]] std::vector<PrefixNode> prefix_forest(std::span<const Prefix> examples);

}  // namespace weft::data
