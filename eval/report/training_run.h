#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "eval/report/chart.h"

namespace weft::eval {

/// A figure of a suite over the updates of a run.
struct SuiteCurve {
  std::string figure{};  ///< "bits_per_byte"
  std::string suite{};
  ChartSeries series{};
};

/// What a report tells of a training run (docs/run_folder.md).
struct TrainingRun {
  std::filesystem::path folder{};
  std::string name{};  ///< The folder's.
  ChartSeries loss{}, validation{}, learning_rate{};
  std::vector<SuiteCurve> suites{};  ///< Of `evaluate:`, in the order in which they were measured.
  nlohmann::json preflight{};        ///< null: not written.
};

/// Whether the folder is one of a training run.
[[nodiscard]] bool is_training_run(const std::filesystem::path& folder);

/// Throws InputError for a folder that is none, or whose files cannot be read. A last line that is
/// still being written is left out.
/// `name`: what the run is called; empty: as its folder.
[[nodiscard]] TrainingRun read_training_run(const std::filesystem::path& folder,
                                            const std::string& name = "");

/// Curves of all runs, then what each found in its data before the first update (HTML).
[[nodiscard]] std::string training_section(std::span<const TrainingRun> runs);

}  // namespace weft::eval
