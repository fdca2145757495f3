#include "lora/random.h"

#include <charconv>
#include <string>

#include "core/hash.h"

namespace weft::lora {
namespace {

std::uint32_t low(std::uint64_t x) noexcept { return static_cast<std::uint32_t>(x); }
std::uint32_t high(std::uint64_t x) noexcept { return static_cast<std::uint32_t>(x >> 32); }

}  // namespace

std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 2> key,
                                    std::array<std::uint32_t, 4> counter) noexcept {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t x = std::uint64_t{0xD2511F53} * counter[0];
    const std::uint64_t y = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {high(y) ^ counter[1] ^ key[0], low(y), high(x) ^ counter[3] ^ key[1], low(x)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

RandomStream::RandomStream(std::uint64_t seed, std::string_view name)
    : key_{low(seed), high(seed)} {
  const std::string digest = core::sha256(name);
  std::uint64_t bits = 0;
  std::from_chars(digest.data(), digest.data() + 16, bits, 16);
  name_ = {low(bits), high(bits)};
}

float RandomStream::uniform(std::uint64_t i) const noexcept {
  const std::uint64_t block = i / 4;
  const auto words = philox(key_, {low(block), high(block), name_[0], name_[1]});
  return static_cast<float>(words[i % 4] >> 8) * 0x1p-24F;
}

void RandomStream::fill(std::uint64_t first, std::span<float> out) const noexcept {
  for (std::size_t done = 0; done < out.size();) {
    const std::uint64_t block = (first + done) / 4;
    const auto words = philox(key_, {low(block), high(block), name_[0], name_[1]});
    for (std::uint64_t word = (first + done) % 4; word < 4 && done < out.size(); ++word, ++done) {
      out[done] = static_cast<float>(words[word] >> 8) * 0x1p-24F;
    }
  }
}

}  // namespace weft::lora
