#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/row.h"

namespace weft::model {

/// Which keys the tokens of a row see: those of their own segment up to themselves, and all of the
/// segments it continues (data::Segment::parent), within a sliding window if there is one.
class [[gnu::visibility("default")]] Visibility {  // read by libweft_cuda.so
 public:
  /// Tokens [begin, end) at positions from `position` on, in the sequence as if it stood alone.
  struct Range {
    std::int64_t begin = 0;
    std::int64_t end = 0;
    std::int64_t position = 0;
  };

  /// Segments as data::Row describes them.
  Visibility(std::span<const data::Segment> segments, std::span<const std::int32_t> positions);
  /// One sequence of `tokens`.
  explicit Visibility(std::int64_t tokens);

  [[nodiscard]] std::int64_t segments() const { return std::ssize(own_); }
  [[nodiscard]] const Range& own(std::int64_t segment) const {
    return own_[static_cast<std::size_t>(segment)];
  }
  /// The segments that it continues, the first of the sequence first.
  [[nodiscard]] const std::vector<std::int64_t>& ancestors(std::int64_t segment) const {
    return ancestors_[static_cast<std::size_t>(segment)];
  }
  /// The segments that continue it, directly or through others, ascending.
  [[nodiscard]] const std::vector<std::int64_t>& descendants(std::int64_t segment) const {
    return descendants_[static_cast<std::size_t>(segment)];
  }

  /// A part of one segment.
  struct Block {
    std::int64_t segment = 0;
    std::int64_t begin = 0;
    std::int64_t end = 0;
  };
  /// Tokens [first, end of the row) in blocks of at most `most`, none across segments.
  [[nodiscard]] std::vector<Block> blocks(std::int64_t most, std::int64_t first = 0) const;

 private:
  std::vector<Range> own_;
  std::vector<std::vector<std::int64_t>> ancestors_;
  std::vector<std::vector<std::int64_t>> descendants_;
};

}  // namespace weft::model
