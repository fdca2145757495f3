#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/log.h"
#include "data/dataset.h"
#include "eval/metrics/result.h"
#include "eval/run/score.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace weft::eval {

/// An example as a question to the model: what stands before the (last) answer.
struct Question {
  std::vector<std::int32_t> tokens;  ///< With everything that the template puts before an answer.
  std::string text;                  ///< What the user wrote.
  std::string reference;             ///< The answer of the data.
  std::vector<std::string> more_references{};
};

/// Instruction data prepared for one tokenizer and chat template.
struct InstructionData {
  std::vector<Pass> passes;         ///< Supervised as in training.
  std::vector<Item> items;          ///< One per pass, with the bytes of its answer, without losses.
  std::vector<Question> questions;  ///< Of `generate` examples spread evenly over them.
};

/// How much of a data set is used.
struct InstructionLimits {
  std::int64_t max_tokens = 0;        ///< Longest example.
  std::optional<std::int64_t> limit;  ///< Examples, spread evenly over the data; all without it.
  std::int64_t generate = 0;          ///< Questions, spread evenly over the examples.
  std::string references{};           ///< Column with more references; empty: none.
};

/// Reads and lays out examples as training does (data/prompt.h). Throws InputError for malformed
/// rows (file:line, unless the data set says skip), for plain text, and for an example longer than
/// max_tokens: a shorter test set than the one named would not be comparable; also for rows whose
/// numbers of references differ.
[[nodiscard]] InstructionData instruction_data(const data::DatasetConfig& config,
                                               const text::Tokenizer& tokenizer,
                                               const text::ChatTemplate* chat_template,
                                               const InstructionLimits& limits,
                                               const core::Log& log);

}  // namespace weft::eval
