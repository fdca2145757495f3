#pragma once

#include <cstdint>
#include <vector>

namespace weft::data {

/// A target that is not learned: no loss, no gradient, no row of the output head.
inline constexpr std::int32_t kNoTarget = -1;

/// A segment that continues no other.
inline constexpr std::int32_t kNoParent = -1;

/// Tokens [begin, end) of a row that belong together: an example, or a part of one. A segment with
/// a parent continues that one as if it stood right before it: its tokens see all of the parent's
/// and of what the parent continues. Several segments may continue one: examples that begin alike
/// share their beginning, which is computed once.
struct Segment {
  std::int32_t begin = 0;
  std::int32_t end = 0;
  std::int32_t parent = kNoParent;  ///< Index of an earlier segment of the row
};

/// What the model computes at once: whole examples, one after another.
///
/// `tokens`, `positions` and `targets` have length T. Positions count from 0 in each example: from
/// the end of its parent in a segment that has one. targets[t] is the id that position t has to
/// predict, that is token t+1 of the same segment, or kNoTarget; the last position of a segment
/// never has a target.
struct Row {
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> positions;
  std::vector<std::int32_t> targets;
  std::vector<Segment> segments;    ///< Ascending, without gaps, covering [0, T).
  std::int64_t example_tokens = 0;  ///< Of its examples, shared ones counted for each
};

}  // namespace weft::data
