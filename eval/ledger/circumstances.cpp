#include "eval/ledger/circumstances.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <ctime>
#include <filesystem>
#include <utility>

#include "core/cores.h"
#include "core/parallel.h"
#include "core/version.h"

namespace weft::eval {
Circumstances circumstances_now(std::string kernels, const std::string& gpu) {
  return {.recorded_at = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))),
          .program = fmt::format("weft {}", core::kVersion),
          .machine = core::processor_name() + (gpu.empty() ? "" : ", " + gpu),
          .threads = core::thread_count(),
          .kernels = std::move(kernels)};
}

std::string run_of(const std::vector<StageResult>& stages) {
  std::string run;
  for (const StageResult& stage : stages) {
    for (const std::filesystem::path& adapter : stage.adapters) {
      std::error_code ignored;
      const auto folder = std::filesystem::weakly_canonical(adapter, ignored).parent_path();
      if (std::filesystem::exists(folder / "config.yaml", ignored) &&
          std::filesystem::exists(folder / "metrics.jsonl", ignored)) {
        run = folder.string();
      }
    }
  }
  return run;
}

}  // namespace weft::eval
