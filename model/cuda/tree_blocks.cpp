#include "model/cuda/tree_blocks.h"

#include <algorithm>

namespace weft::cuda {
namespace {

using model::Visibility;

/// Adds tokens [begin, end) to the ranges of `block`, where there are any.
void add(TokenBlock& block, std::vector<TokenRange>& ranges, std::int64_t begin, std::int64_t end) {
  if (begin >= end) return;
  ranges.push_back({static_cast<std::int32_t>(begin), static_cast<std::int32_t>(end)});
  ++block.ranges;
}

TokenBlock block_of(const Visibility::Block& tokens, const std::vector<TokenRange>& ranges) {
  return {.own = {static_cast<std::int32_t>(tokens.begin), static_cast<std::int32_t>(tokens.end)},
          .first_range = static_cast<std::int32_t>(ranges.size())};
}

}  // namespace

TreeBlocks::TreeBlocks(const Visibility& visible, std::int64_t window) {
  for (std::int64_t i = 0; i < visible.segments(); ++i) {
    const Visibility::Range& own = visible.own(i);
    for (std::int64_t t = own.begin; t < own.end; ++t)
      positions.push_back(static_cast<std::int32_t>(own.position + (t - own.begin)));
  }
  for (const Visibility::Block& tokens : visible.blocks(kBlockTokens)) {
    const auto position = [&](std::int64_t token) {
      return std::int64_t{positions[static_cast<std::size_t>(token)]};
    };
    // Keys from the first that the first query sees.
    TokenBlock& query = queries.emplace_back(block_of(tokens, keys_seen));
    const auto add_keys = [&](const Visibility::Range& range, std::int64_t end) {
      const std::int64_t hidden =
          window > 0 ? position(tokens.begin) - window + 1 - range.position : 0;
      add(query, keys_seen, range.begin + std::max<std::int64_t>(0, hidden), end);
    };
    for (const std::int64_t above : visible.ancestors(tokens.segment))
      add_keys(visible.own(above), visible.own(above).end);
    add_keys(visible.own(tokens.segment), tokens.end);
    // Queries up to the last that sees the last key.
    TokenBlock& key = keys.emplace_back(block_of(tokens, queries_seeing));
    const auto add_queries = [&](const Visibility::Range& range, std::int64_t begin) {
      const std::int64_t seeing =
          window > 0 ? position(tokens.end - 1) + window - range.position : range.end - range.begin;
      add(key, queries_seeing, begin, std::min(range.end, range.begin + seeing));
    };
    add_queries(visible.own(tokens.segment), tokens.begin);
    for (const std::int64_t below : visible.descendants(tokens.segment))
      add_queries(visible.own(below), visible.own(below).begin);
  }
}

}  // namespace weft::cuda
