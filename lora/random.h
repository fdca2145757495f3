#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/philox.h"

namespace weft::lora {

/// The stream of a name (a module's path): key = seed, counter = (block, first 64 bits of the
/// name's SHA-256). Number i of the stream is word i % 4 of block i / 4.
class RandomStream {
 public:
  RandomStream(std::uint64_t seed, std::string_view name);

  /// Number i as a float in [0, 1): the upper 24 bits over 2^24.
  [[nodiscard]] float uniform(std::uint64_t i) const noexcept;
  /// Numbers first, first + 1, ...: the same, four at a time.
  void fill(std::uint64_t first, std::span<float> out) const noexcept;
  /// Bit j % 8 of byte j / 8 says whether number first + j is below `probability`, 0 to 1, for j
  /// below `count`; the last byte's other bits are 0. marks.size() == ceil(count / 8).
  void below(std::uint64_t first, double probability, std::size_t count,
             std::span<std::uint8_t> marks) const noexcept;

 private:
  core::PhiloxKey key_;
  std::array<std::uint32_t, 2> name_;
};

}  // namespace weft::lora
