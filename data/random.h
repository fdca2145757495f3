#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace weft::data {

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers on every machine and library, which
/// std::shuffle and the standard distributions do not promise.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() noexcept {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }

  /// Uniform in [0, bound), bound > 0: multiples of `bound` beyond 2^64 are rejected.
  std::uint64_t below(std::uint64_t bound) noexcept {
    const std::uint64_t excess = (0 - bound) % bound;  // 2^64 mod bound
    std::uint64_t value = next();
    while (value < excess) value = next();
    return value % bound;
  }

  /// Fisher-Yates.
  template <typename T>
  void shuffle(std::vector<T>& items) noexcept {
    for (std::size_t i = items.size(); i > 1; --i) {
      std::swap(items[i - 1], items[static_cast<std::size_t>(below(i))]);
    }
  }

 private:
  std::uint64_t state_;
};

/// A seed for one of several independent streams of one seed.
[[nodiscard]] inline std::uint64_t mix_seed(std::uint64_t seed, std::uint64_t stream) noexcept {
  return Random(Random(seed).next() ^ (stream * 0xd1342543de82ef95ULL)).next();
}

}  // namespace weft::data
