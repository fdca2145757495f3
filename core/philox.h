#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace weft::core {

/// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): four
/// 32-bit numbers that depend on nothing but key and counter, with integer arithmetic only, so the
/// same everywhere and in any order. NumPy, PyTorch on CUDA and TensorFlow use the same function.
namespace philox_constants {
inline constexpr std::uint32_t kFirstFactor = 0xD2511F53;
inline constexpr std::uint32_t kSecondFactor = 0xCD9E8D57;
inline constexpr std::uint32_t kFirstWeyl = 0x9E3779B9;
inline constexpr std::uint32_t kSecondWeyl = 0xBB67AE85;
inline constexpr int kRounds = 10;
}  // namespace philox_constants

using PhiloxKey = std::array<std::uint32_t, 2>;
using PhiloxWords = std::array<std::uint32_t, 4>;

[[nodiscard]] constexpr PhiloxKey philox_key(std::uint64_t seed) noexcept {
  return {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
}

/// kLanes counters become their numbers, a round at a time for all of them: words[w][lane] is word
/// w of a lane's counter, and then of its numbers. Inlined, so that it is compiled for the
/// processor of the function around it.
template <std::size_t kLanes>
[[gnu::always_inline]] constexpr void philox_lanes(PhiloxKey key,
                                                   std::uint32_t (&words)[4][kLanes]) noexcept {
  using namespace philox_constants;
  for (int round = 0; round < kRounds; ++round) {
    for (std::size_t i = 0; i < kLanes; ++i) {
      const std::uint64_t x = std::uint64_t{kFirstFactor} * words[0][i];
      const std::uint64_t y = std::uint64_t{kSecondFactor} * words[2][i];
      words[0][i] = static_cast<std::uint32_t>(y >> 32) ^ words[1][i] ^ key[0];
      words[1][i] = static_cast<std::uint32_t>(y);
      words[2][i] = static_cast<std::uint32_t>(x >> 32) ^ words[3][i] ^ key[1];
      words[3][i] = static_cast<std::uint32_t>(x);
    }
    key[0] += kFirstWeyl;
    key[1] += kSecondWeyl;
  }
}

/// The numbers of one counter.
[[nodiscard]] constexpr PhiloxWords philox(PhiloxKey key, PhiloxWords counter) noexcept {
  std::uint32_t words[4][1] = {{counter[0]}, {counter[1]}, {counter[2]}, {counter[3]}};
  philox_lanes(key, words);
  return {words[0][0], words[1][0], words[2][0], words[3][0]};
}

}  // namespace weft::core
