#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "eval/metrics/result.h"

namespace weft::eval {

/// When, where and by what an evaluation was made.
struct Circumstances {
  std::string recorded_at{};  ///< UTC: "2026-11-23T10:00:00Z"
  std::string name{};         ///< Of the configuration file, or of the model.
  std::string run{};          ///< Folder of the training run that made its adapter; may be empty.
  std::string program{};      ///< "weft 0.1.0"
  std::string machine{};      ///< The processor's name, and that of the GPU it was computed on.
  std::int64_t threads = 0;
  /// What products were computed with (model/kernels/sets.h); empty where that was not recorded.
  std::string kernels{};
  double seconds = 0;
};

/// Those of an evaluation that begins now in this process, without name and run. `gpu`: the name of
/// the GPU that computes; empty for the processor.
[[nodiscard]] Circumstances circumstances_now(std::string kernels, const std::string& gpu = {});

/// The folder of the training run that the last adapter of the stages lies in (docs/run_folder.md);
/// empty where none does.
[[nodiscard]] std::string run_of(const std::vector<StageResult>& stages);

}  // namespace weft::eval
