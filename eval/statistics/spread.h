#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace weft::eval {

/// `limit` indices spread evenly over [0, count), ascending; all of them without a limit. A part
/// of a file that is sorted by source still has something of every source.
[[nodiscard]] inline std::vector<std::size_t> spread(std::size_t count,
                                                     std::optional<std::int64_t> limit) {
  std::size_t wanted = count;
  if (limit) wanted = std::min(count, static_cast<std::size_t>(std::max<std::int64_t>(*limit, 0)));
  std::vector<std::size_t> indices(wanted);
  for (std::size_t i = 0; i < wanted; ++i) indices[i] = i * count / wanted;
  return indices;
}

}  // namespace weft::eval
