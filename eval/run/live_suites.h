#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "eval/metrics/result.h"
#include "eval/run/config.h"
#include "eval/run/stages.h"
#include "eval/run/suites.h"
#include "model/decoder.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace weft::eval {

/// Suites that are read once and measured again and again on weights that change: those of a model
/// in training. The scorers are evaluate()'s, and so are the figures.
class LiveSuites {
 public:
  /// Reads the suites of suite_plans(); the configuration must name sequence_len. The tokenizer and
  /// the hooks' targets must outlive it; of the hooks log, progress, stop and ranks are used.
  /// Throws as validate() and read_suites().
  LiveSuites(EvalConfig config, const text::Tokenizer& tokenizer,
             const text::ChatTemplate* chat_template, Hooks hooks);
  LiveSuites(const LiveSuites&) = delete;
  LiveSuites& operator=(const LiveSuites&) = delete;

  /// Every suite with what is attached to the decoder now, as one stage of that name; the same in
  /// all ranks, which call it together.
  /// Throws NumericError for losses that are not finite, and what tells of an interruption
  /// (ExitCode::kInterrupted).
  [[nodiscard]] Evaluation measure(const std::string& stage, model::Decoder& decoder) const;

  [[nodiscard]] const std::vector<SuiteInput>& inputs() const { return inputs_; }
  /// The names of the figures that a suite will have. Throws ConfigError when there is no such
  /// suite, naming those that there are.
  [[nodiscard]] std::vector<std::string_view> figures_of(std::string_view suite) const;

 private:
  EvalConfig config_;
  const text::Tokenizer& tokenizer_;
  Hooks hooks_;
  std::vector<SuiteInput> inputs_;
};

}  // namespace weft::eval
