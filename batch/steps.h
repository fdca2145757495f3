#pragma once

#include <optional>
#include <string>
#include <vector>

#include "batch/problems.h"
#include "schema/schema.h"

namespace weft::batch {

/// `merge:` of the steps: options of weft merge.
struct MergeStep {
  std::string dtype = "keep";
  std::string rounding;
};

/// `export:` of the steps: options of weft export.
struct ExportStep {
  std::string to;
  std::string type;
  std::optional<std::filesystem::path> imatrix;

  /// "gguf q4_k_m"
  [[nodiscard]] std::string text() const { return type.empty() ? to : to + " " + type; }
};

void describe(schema::Schema<MergeStep>& schema);
void describe(schema::Schema<ExportStep>& schema);

/// What is done after training.
struct StepPlan {
  std::optional<MergeStep> merge;
  std::vector<ExportStep> exports;
  /// The layers of weft eval's configuration; empty: no such step.
  std::vector<schema::ConfigLayer> evaluation;
  schema::Place evaluation_place;
};

/// Reads `steps`: a list of train, merge, export, eval, the last three with their options. Null:
/// train alone. What is wrong goes to `problems`.
[[nodiscard]] StepPlan read_steps(const schema::ConfigNode& steps, Problems& problems);

}  // namespace weft::batch
