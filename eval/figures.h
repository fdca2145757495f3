#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "eval/bootstrap.h"
#include "eval/result.h"

namespace weft::eval {

/// Sum of losses / tokens, in nats per token.
[[nodiscard]] double mean_loss(std::span<const Item> items);
/// exp(mean_loss). Depends on the tokenizer: compare only models that share it.
[[nodiscard]] double perplexity(std::span<const Item> items);
/// Sum of losses / (bytes ln 2). Comparable between tokenizers.
[[nodiscard]] double bits_per_byte(std::span<const Item> items);

/// A figure and how sure it is.
struct Estimate {
  double value = 0;
  std::optional<Interval> interval;
};

/// A figure of a suite beside the same figure of the first stage.
struct Measured {
  std::string_view name;  ///< "loss", "perplexity", "bits_per_byte", "chrf", "chrf++"
  Estimate figure;
  std::optional<Estimate> difference;  ///< This stage minus the first, paired by item.
  std::optional<Estimate> relative;    ///< This stage / the first - 1, paired by item.
};

/// A figure of a suite as the bootstrap takes it. Refers to the suite.
struct Sampled {
  std::int64_t items = 0;
  Figure figure;
};
/// By the names of measure(); nothing for one that the suite has not.
[[nodiscard]] std::optional<Sampled> sampled_figure(const SuiteResult& suite,
                                                    std::string_view name);

/// A suite's figures; chrf and chrf++ only where answers were generated. `first`: the same suite in
/// the stage to compare with, or null. Differences get an interval only where both stages were
/// measured on the same items (tokens may differ, bytes may not).
[[nodiscard]] std::vector<Measured> measure(const SuiteResult& suite, const SuiteResult* first,
                                            const BootstrapOptions& options = {});

}  // namespace weft::eval
