#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/log.h"
#include "eval/metrics/result.h"
#include "eval/run/choices.h"
#include "eval/run/config.h"
#include "eval/run/instruction.h"
#include "eval/run/text.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace weft::eval {

/// A suite prepared for one tokenizer and chat template; exactly one of the three is there.
struct SuiteInput {
  std::string name;
  SuiteLabels labels;
  std::int64_t row_tokens = 0;  ///< Longest row that is scored at once.
  bool distribution = false;    ///< Compared token by token with the reference stage.
  std::optional<RollingText> text;
  std::optional<InstructionData> data;
  std::optional<ChoiceData> choices;
  std::string digest;        ///< suite_digest()
  std::string asked_digest;  ///< asked_digest()
};

/// Which suites: all, or those that a model with another tokenizer can be compared on.
enum class Suites : std::uint8_t { kAll, kText };

/// Reads and lays out the suites of suite_plans(). `sequence_len`: tokens read at once at most.
/// Errors as of rolling_text(), instruction_data() and choice_data().
[[nodiscard]] std::vector<SuiteInput> read_suites(const EvalConfig& config,
                                                  const text::Tokenizer& tokenizer,
                                                  const text::ChatTemplate* chat_template,
                                                  std::int64_t sequence_len, Suites which,
                                                  const core::Log& log);

}  // namespace weft::eval
