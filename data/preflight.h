#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/example_table.h"
#include "data/examples.h"
#include "data/prompt.h"
#include "schema/schema.h"

namespace weft::data {

/// When the data is not worth starting with. Shares are of 1.
struct PreflightLimits {
  double min_supervised_share = 0.005;  ///< Supervised tokens of all tokens.
  double max_dropped_share = 0.2;       ///< Samples left out for their length.
  double max_bad_share = 0.05;          ///< Rows skipped as bad.
  double min_end_share = 0.9;           ///< Examples that learn where to stop.
  double max_duplicate_share = 0.5;     ///< Examples that repeat an earlier one.
  std::int64_t min_examples = 1;
};
void describe(schema::Schema<PreflightLimits>& schema);

/// What is about to be learned, counted before the first step.
struct Preflight {
  PromptStatistics prompts;
  std::int64_t rows = 0;
  std::int64_t bad_rows = 0;
  std::vector<std::string> faults;  ///< "file:line: why" of the first ones.
  std::int64_t tokens = 0;
  std::int64_t supervised = 0;
  std::int64_t longest = 0;  ///< Of what is kept.
  double mean_length = 0;
  std::int64_t ends = 0;  ///< Examples whose last supervised token ends generation.
  std::int64_t doubled_bos = 0;
  std::int64_t duplicates = 0;
  /// Columns that have no part in what is learned, with the number of rows that fill them.
  std::map<std::string, std::int64_t> unused;
  std::string template_date;  ///< What the chat template prints as today; empty if it prints none.
  std::string sample;         ///< One example's text, learned parts between ⟦ and ⟧.
  std::string sample_origin;
  std::vector<std::string> violations;  ///< Limits that are not kept; empty when all is well.

  [[nodiscard]] double supervised_share() const;
  [[nodiscard]] double end_share() const;
};

/// Counts examples one by one; only 16 bytes of each are kept, for finding repeats.
class Inspector {
 public:
  /// `tokenizer` must outlive it.
  explicit Inspector(const text::Tokenizer& tokenizer);
  /// `place`: the shown sample is the example of the lowest.
  void add(const ExampleView& example, const Origin& origin, std::int64_t place);
  /// What was found, not judged yet. The inspector is spent.
  [[nodiscard]] Preflight finish(const PromptStatistics& prompts, const ReadStatistics& rows);

 private:
  const text::Tokenizer& tokenizer_;
  std::vector<std::int32_t> stops_;
  Preflight found_;
  std::int64_t counted_ = 0;
  std::int64_t sample_place_ = 0;
  std::vector<std::array<std::uint64_t, 2>> digests_;  ///< Half a SHA-256 of the tokens
};

/// Adds a part's findings to those of the parts before it, but for `duplicates`, which parts have
/// among each other (count_repeats).
void add(Preflight& sum, Preflight&& part);

/// Examples that repeat an earlier one.
[[nodiscard]] std::int64_t count_repeats(const ExampleTable& examples);

/// Fills in `violations`.
void judge(Preflight& preflight, const PreflightLimits& limits);

/// What to_json() wrote, without violations. InputError when something is missing.
[[nodiscard]] Preflight preflight_from_json(const nlohmann::json& json);

[[nodiscard]] Preflight inspect_examples(const Examples& data, const text::Tokenizer& tokenizer,
                                         const PreflightLimits& limits = {});

[[nodiscard]] nlohmann::json to_json(const Preflight& preflight);
/// A few lines for people; ends in a newline.
[[nodiscard]] std::string to_text(const Preflight& preflight);

}  // namespace weft::data
