#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "merge/method.h"

namespace weft::merge {

/// Base of what methods return: a group, and its rows as differences from the reference's stored
/// numbers. A method fills in rows().
class GroupDeltas : public RowDeltas {
 public:
  explicit GroupDeltas(TensorGroup group) : group_(std::move(group)) {}

  [[nodiscard]] std::int64_t stride() const noexcept override { return columns(); }
  void compute(std::int64_t begin, std::span<double> out) const override {
    rows(begin, std::min(begin + kRowBlock, group_.reference().rows()), out);
  }

 protected:
  /// The change of rows [begin, end), one after the other. Thread-safe.
  virtual void rows(std::int64_t begin, std::int64_t end, std::span<double> out) const = 0;

  [[nodiscard]] const TensorGroup& group() const noexcept { return group_; }
  [[nodiscard]] std::int64_t columns() const { return group_.reference().columns(); }
  /// The reference's stored numbers, as an input without its adapter.
  [[nodiscard]] TensorInput stored() const {
    return {group_.reference().model, group_.reference().info};
  }

 private:
  TensorGroup group_;
};

/// At least `count` numbers that live until the thread asks again for buffer `slot`.
template <int slot>
std::span<double> scratch(std::size_t count) {
  thread_local std::vector<double> buffer;
  if (buffer.size() < count) buffer.resize(count);
  return std::span(buffer).first(count);
}

}  // namespace weft::merge
