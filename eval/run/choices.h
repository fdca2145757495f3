#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/log.h"
#include "eval/metrics/result.h"
#include "eval/run/config.h"
#include "eval/run/score.h"
#include "text/tokenizer.h"

namespace weft::eval {

/// Multiple-choice questions prepared for one tokenizer.
struct ChoiceData {
  std::vector<Pass> passes;
  /// What a pass scores: a choice of a question, after its context or on its own.
  struct Place {
    std::uint32_t question = 0;
    std::uint32_t choice = 0;
    bool alone = false;
  };
  std::vector<Place> places;            ///< One per pass.
  std::vector<Item> items;              ///< One per question: bytes of the right choice's text.
  std::vector<ChoiceResult> questions;  ///< Without log-probabilities.
  std::vector<std::string> sources;     ///< Of each question; empty without a source column.
};

/// Reads and tokenises questions as lm-eval does (lm_eval/api/task.py, api/model.py): the text of a
/// choice is delimiter + choice; white space at the end of the context belongs to it; context and
/// choice are encoded together, with what the tokenizer adds to a text, and cut at the length of
/// the context alone. A choice on its own is predicted from BOS (EOS where there is none). What is
/// longer than max_tokens loses its beginning, which is told to `log`.
/// Throws InputError (file and line) for a row without these columns, fewer than two choices, an
/// empty choice, or an answer that is none of them; and for files without a question.
[[nodiscard]] ChoiceData choice_data(const SuiteSection& suite, const text::Tokenizer& tokenizer,
                                     std::int64_t max_tokens, const core::Log& log);

/// The questions with the log-probabilities that the passes give; items with the losses of the
/// right choices. `losses` are in the order of the passes.
struct ScoredChoices {
  std::vector<ChoiceResult> questions;
  std::vector<Item> items;
};
[[nodiscard]] ScoredChoices choices_with_scores(const ChoiceData& data,
                                                std::span<const PassLoss> losses);

}  // namespace weft::eval
