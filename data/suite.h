#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "schema/schema.h"

/// What a model is measured on, as configurations of `weft eval` and `weft train` describe it. How
/// it is measured is eval's (eval/run/suites.h).
namespace weft::data {

/// `generate:`: answers written by the model, for chrF and for reading.
struct GenerateSection {
  std::int64_t examples = 50;
  std::int64_t max_tokens = 128;
  double repetition_penalty = 1;
  std::vector<std::string> stop{};  ///< Texts before which an answer ends.
  std::int64_t show = 5;
  std::int64_t batch = 64;
  std::vector<std::string> metrics{"chrf", "chrf++"};  ///< eval/metrics/answer_metric.h
};

/// `suites[].choices`: multiple-choice questions, a row of JSON each.
struct ChoiceSection {
  std::vector<std::filesystem::path> path;
  std::string context = "{context}";  ///< Template over the row's columns.
  /// The column with the list of choices; or a template for each choice.
  std::vector<std::string> choices{"choices"};
  std::string answer = "answer";      ///< The column with the right one.
  std::optional<std::string> labels;  ///< The column with the choices' labels.
  std::int64_t answer_from = 0;       ///< The number of the first choice.
  std::string delimiter = " ";        ///< Between context and choice.
};

/// How plain text is cut into what the model reads at once (eval/run/windows.h).
enum class Windows : std::uint8_t { kRolling, kLlama };

/// `suites[]`: exactly one of text, data and choices.
struct SuiteSection {
  std::string name;
  std::string language;
  bool must_keep = false;
  std::vector<std::filesystem::path> text;
  std::optional<DatasetConfig> data;
  std::optional<ChoiceSection> choices;
  std::string source;  ///< Column that names a row's source document.
  Windows windows = Windows::kRolling;
  std::optional<std::int64_t> window_tokens;
  std::optional<std::int64_t> stride;
  std::optional<std::int64_t> limit;
  std::vector<std::string> metrics;  ///< Of answers; empty: those of generate.
  std::string references{};          ///< Column with more references beside the answer.

  /// Whether plain text is scored: files of `text`, or `data` of type text.
  [[nodiscard]] bool plain_text() const {
    return !text.empty() || (data && data->type == DatasetType::kText);
  }
};

void describe(schema::Schema<GenerateSection>& schema);
void describe(schema::Schema<ChoiceSection>& schema);
void describe(schema::Schema<SuiteSection>& schema);

}  // namespace weft::data
