#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "model/decoder.h"
#include "model/generate.h"

namespace weft::model {

struct BatchOptions {
  std::int64_t sequences = 64;  ///< Answers written at the same time, at least 1.
  /// Told after each step how many answers are finished; may throw to stop.
  std::function<void(std::int64_t)> progress{};
  /// The prompts to be answered, as places in the list; absent: all. The answers are those that
  /// they have when all are answered, and the others stay empty.
  std::optional<std::vector<std::size_t>> only{};
  /// Asked after each token, on any thread: whether the answer is finished with it. May be empty.
  std::function<bool(std::span<const std::int32_t>)> is_over{};
};

/// An answer to each prompt: for each what generate_ids() would choose, with a sampler of its own.
/// A step reads the weights once for all answers that are being written; when one ends, the next
/// prompt takes its place. What all prompts begin with is read once.
///
/// The answers do not depend on `sequences`. They may differ from those of generate_ids() where two
/// tokens are equally likely but for rounding: its attention sums in tiles, that of a step in one
/// go.
/// InputError for an empty prompt or an id outside the vocabulary, ConfigError for `sequences` < 1.
[[nodiscard]] std::vector<GeneratedIds> generate_batch(
    Decoder& decoder, std::span<const std::vector<std::int32_t>> prompts,
    const GenerateOptions& options, const BatchOptions& batch = {});

}  // namespace weft::model
