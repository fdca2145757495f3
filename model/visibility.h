#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <typeindex>
#include <utility>
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

  /// What the operations of a device read of this row under a window, as `make()` gives it at the
  /// first call: all layers share it, and it goes with the row. One thread at a time.
  template <typename Table, typename Make>
  [[nodiscard]] const Table& table(std::int64_t window, const Make& make) const {
    std::shared_ptr<const void>& kept = tables_[{typeid(Table), window}];
    if (kept == nullptr) kept = std::make_shared<const Table>(make());
    return *static_cast<const Table*>(kept.get());
  }

 private:
  std::vector<Range> own_;
  std::vector<std::vector<std::int64_t>> ancestors_;
  std::vector<std::vector<std::int64_t>> descendants_;
  mutable std::map<std::pair<std::type_index, std::int64_t>, std::shared_ptr<const void>> tables_;
};

}  // namespace weft::model
