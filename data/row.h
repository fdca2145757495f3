#pragma once

#include <cstdint>
#include <vector>

namespace weft::data {

/// A target that is not learned: no loss, no gradient, no row of the output head.
inline constexpr std::int32_t kNoTarget = -1;

/// One example's place in a row: tokens [begin, end). Attention stays inside it.
struct Segment {
  std::int32_t begin = 0;
  std::int32_t end = 0;
};

/// What the model computes at once: whole examples, one after another.
///
/// `tokens`, `positions` and `targets` have length T. Positions count from 0 in each segment.
/// targets[t] is the id that position t has to predict, that is token t+1 of the same segment, or
/// kNoTarget; the last position of a segment never has a target.
struct Row {
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> positions;
  std::vector<std::int32_t> targets;
  std::vector<Segment> segments;  ///< Ascending, without gaps, covering [0, T).
};

}  // namespace weft::data
