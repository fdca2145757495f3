#pragma once

#include <array>
#include <cstdint>

namespace weft::eval {

using PhiloxBlock = std::array<std::uint64_t, 4>;

/// Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): four random
/// words that depend on the counter and the key alone, so that a draw costs the same wherever it
/// stands and no generator is seeded. numpy.random.Philox(key=key, counter=c).random_raw() gives
/// the blocks of the counters from c + 1 on.
[[nodiscard]] constexpr PhiloxBlock philox(PhiloxBlock counter, std::array<std::uint64_t, 2> key) {
  __extension__ using Wide = unsigned __int128;
  for (int round = 0; round < 10; ++round) {
    const Wide first = static_cast<Wide>(0xD2E7470EE14C6C93U) * counter[0];
    const Wide second = static_cast<Wide>(0xCA5A826395121157U) * counter[2];
    counter = {static_cast<std::uint64_t>(second >> 64) ^ counter[1] ^ key[0],
               static_cast<std::uint64_t>(second),
               static_cast<std::uint64_t>(first >> 64) ^ counter[3] ^ key[1],
               static_cast<std::uint64_t>(first)};
    key[0] += 0x9E3779B97F4A7C15U;
    key[1] += 0xBB67AE8584CAA73BU;
  }
  return counter;
}

/// What the words are for: the third word of the counter.
enum class Draws : std::uint64_t { kResample = 0, kExchange = 1 };

/// The words of one resample or exchange, one after another.
class PhiloxWords {
 public:
  PhiloxWords(std::uint64_t seed, std::uint64_t stream, Draws what, std::uint64_t number)
      : key_{seed, stream}, counter_{0, number, static_cast<std::uint64_t>(what), 0} {}

  std::uint64_t next() {
    if (place_ == block_.size()) {
      ++counter_[0];
      block_ = philox(counter_, key_);
      place_ = 0;
    }
    return block_[place_++];
  }

 private:
  std::array<std::uint64_t, 2> key_;
  PhiloxBlock counter_;
  PhiloxBlock block_{};
  std::size_t place_ = 4;
};

}  // namespace weft::eval
