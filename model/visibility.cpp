#include "model/visibility.h"

#include <algorithm>

namespace weft::model {

Visibility::Visibility(std::span<const data::Segment> segments,
                       std::span<const std::int32_t> positions)
    : ancestors_(segments.size()), descendants_(segments.size()) {
  for (std::size_t i = 0; i < segments.size(); ++i) {
    const data::Segment& segment = segments[i];
    own_.push_back(
        {segment.begin, segment.end, positions[static_cast<std::size_t>(segment.begin)]});
    if (segment.parent == data::kNoParent) continue;
    const auto parent = static_cast<std::size_t>(segment.parent);
    ancestors_[i] = ancestors_[parent];
    ancestors_[i].push_back(segment.parent);
    for (const std::int64_t above : ancestors_[i]) {
      descendants_[static_cast<std::size_t>(above)].push_back(static_cast<std::int64_t>(i));
    }
  }
}

Visibility::Visibility(std::int64_t tokens)
    : own_{{0, tokens, 0}}, ancestors_(1), descendants_(1) {}

std::vector<Visibility::Block> Visibility::blocks(std::int64_t most, std::int64_t first) const {
  std::vector<Block> result;
  for (std::int64_t segment = 0; segment < segments(); ++segment) {
    const Range& range = own(segment);
    for (std::int64_t begin = std::max(range.begin, first); begin < range.end; begin += most) {
      result.push_back({segment, begin, std::min(begin + most, range.end)});
    }
  }
  return result;
}

}  // namespace weft::model
