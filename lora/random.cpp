#include "lora/random.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>

#include "core/clones.h"
#include "core/hash.h"
#include "lora/random_wide.h"

namespace weft::lora {
namespace {

std::uint32_t low(std::uint64_t x) noexcept { return static_cast<std::uint32_t>(x); }
std::uint32_t high(std::uint64_t x) noexcept { return static_cast<std::uint32_t>(x >> 32); }

/// Blocks of four numbers that are computed side by side: a lane of vector registers each.
constexpr std::size_t kBlocks = 16;

float as_float(std::uint32_t word) noexcept { return static_cast<float>(word >> 8) * 0x1p-24F; }

/// The numbers of blocks block .. block + kBlocks: philox() for all of them, a round at a time.
WEFT_CLONES void fill_blocks(core::PhiloxKey key, std::array<std::uint32_t, 2> name,
                             std::uint64_t block, float* out) {
  std::uint32_t words[4][kBlocks];
  for (std::size_t i = 0; i < kBlocks; ++i) {
    words[0][i] = static_cast<std::uint32_t>(block + i);
    words[1][i] = static_cast<std::uint32_t>((block + i) >> 32);
    words[2][i] = name[0];
    words[3][i] = name[1];
  }
  core::philox_lanes(key, words);
  for (std::size_t i = 0; i < kBlocks; ++i) {
    for (std::size_t word = 0; word < 4; ++word) {
      // Numbers below 2^31 convert from int, for which every processor has an instruction.
      out[4 * i + word] = static_cast<float>(static_cast<int>(words[word][i] >> 8)) * 0x1p-24F;
    }
  }
}

}  // namespace

RandomStream::RandomStream(std::uint64_t seed, std::string_view name)
    : key_(core::philox_key(seed)) {
  const std::string digest = core::sha256(name);
  std::uint64_t bits = 0;
  std::from_chars(digest.data(), digest.data() + 16, bits, 16);
  name_ = {low(bits), high(bits)};
}

float RandomStream::uniform(std::uint64_t i) const noexcept {
  const std::uint64_t block = i / 4;
  const auto words = core::philox(key_, {low(block), high(block), name_[0], name_[1]});
  return as_float(words[i % 4]);
}

void RandomStream::fill(std::uint64_t first, std::span<float> out) const noexcept {
  std::size_t done = 0;
  const auto one_by_one = [&](std::size_t end) {
    for (; done < end; ++done) out[done] = uniform(first + done);
  };
  one_by_one(std::min<std::size_t>(out.size(), (4 - first % 4) % 4));
  if (wide_random_available()) {
    for (; out.size() - done >= kWideNumbers; done += kWideNumbers) {
      wide_floats({key_, name_, (first + done) / 4}, out.data() + done);
    }
  }
  for (; out.size() - done >= 4 * kBlocks; done += 4 * kBlocks) {
    fill_blocks(key_, name_, (first + done) / 4, out.data() + done);
  }
  one_by_one(out.size());
}

void RandomStream::below(std::uint64_t first, double probability, std::size_t count,
                         std::span<std::uint8_t> marks) const noexcept {
  std::size_t done = 0;
  if (first % 4 == 0 && wide_random_available()) {
    // A number is k / 2^24, which is below p where k is below the whole number not below p 2^24.
    const auto limit = static_cast<std::uint32_t>(std::ceil(probability * 0x1p24));
    for (; count - done >= kWideNumbers; done += kWideNumbers) {
      std::uint32_t bits = wide_below({key_, name_, (first + done) / 4}, limit);
      for (std::size_t byte = 0; byte < kWideNumbers / 8; ++byte, bits >>= 8) {
        marks[done / 8 + byte] = static_cast<std::uint8_t>(bits);
      }
    }
  }
  std::array<float, 256> draws{};
  while (done < count) {
    const std::size_t part = std::min(draws.size(), count - done);
    fill(first + done, std::span(draws).first(part));
    for (std::size_t j = 0; j < part; j += 8) {
      std::uint32_t mark = 0;
      for (std::size_t bit = 0; bit < 8 && j + bit < part; ++bit) {
        mark |= static_cast<std::uint32_t>(static_cast<double>(draws[j + bit]) < probability)
                << bit;
      }
      marks[(done + j) / 8] = static_cast<std::uint8_t>(mark);
    }
    done += part;
  }
}

}  // namespace weft::lora
