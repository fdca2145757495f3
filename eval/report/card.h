#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "eval/ledger/ledger.h"

// What a model card says of an evaluation.

namespace weft::eval {

/// The evaluation section of a model card: a table for each suite with a line for each stage,
/// figures with their intervals, a sentence for each difference, the gates, and how it was
/// measured. Markdown of GitHub's and Hugging Face's kind; text from outside is escaped.
/// `analysis`: of the evaluation, with its bootstrap.
[[nodiscard]] std::string to_markdown(const Recorded& recorded, const Analysis& analysis);

/// Hugging Face's metadata of the same: YAML front matter with `model-index`, whose entries
/// huggingface_hub's model_index_to_eval_results reads. `stage`: which one the card is about; its
/// figures alone are given. Numbers that do not exist are left out. Throws ConfigError for a stage
/// that was not measured.
[[nodiscard]] std::string to_model_index(const Recorded& recorded, const std::string& model_name,
                                         const std::string& stage);

}  // namespace weft::eval
