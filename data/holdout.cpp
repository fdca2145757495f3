#include "data/holdout.h"

#include <charconv>
#include <limits>
#include <span>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/hash.h"
#include "core/stop.h"
#include "data/random.h"

namespace weft::data {
namespace {

/// Looked at every so many examples.
constexpr std::size_t kStopEvery = 4096;

/// 64 bits of a SHA-256: enough to tell examples apart by millions.
std::uint64_t content_of(const ExampleView& example) {
  core::Sha256 hash;
  hash.update(std::as_bytes(example.tokens));
  const std::string digits = hash.finish();
  std::uint64_t content = 0;
  std::from_chars(digits.data(), digits.data() + 16, content, 16);
  return content;
}

}  // namespace

HeldOut hold_out(const ExampleTable& examples, double share, std::uint64_t seed) {
  if (examples.size() > std::numeric_limits<std::uint32_t>::max()) {
    throw InputError("more than 2^32 examples: name a file for `validation` instead of a share");
  }
  std::vector<std::uint32_t> learned;
  std::vector<std::uint32_t> kept;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    if (i % kStopEvery == 0) core::leave_if_stopped("reading the data");
    // 53 bits, as many as a double holds: a number in [0, 1).
    const std::uint64_t draw = mix_seed(seed, content_of(examples[i])) >> 11;
    const bool is_kept = static_cast<double>(draw) * 0x1p-53 < share;
    (is_kept ? kept : learned).push_back(static_cast<std::uint32_t>(i));
  }
  examples.release();
  return {examples.select(std::move(learned)), examples.select(std::move(kept))};
}

std::int64_t count_learned(const ExampleTable& tested, const ExampleTable& learned) {
  std::unordered_set<std::uint64_t> contents;
  contents.reserve(learned.size());
  for (std::size_t i = 0; i < learned.size(); ++i) {
    if (i % kStopEvery == 0) core::leave_if_stopped("reading the data");
    contents.insert(content_of(learned[i]));
  }
  std::int64_t count = 0;
  for (std::size_t i = 0; i < tested.size(); ++i) {
    count += contents.contains(content_of(tested[i])) ? 1 : 0;
  }
  learned.release();
  tested.release();
  return count;
}

}  // namespace weft::data
