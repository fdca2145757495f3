#include "cli/batch_engine.h"

#include <utility>

#include "cli/command.h"
#include "cli/runs_on.h"
#include "cli/train_suites.h"
#include "core/communicator.h"
#include "core/parallel.h"
#include "core/stop.h"
#include "eval/run/config.h"
#include "model/runtime.h"
#include "train/disk.h"
#include "train/job.h"

namespace weft::cli {

batch::TrainPlan plan_training(const std::string& config) {
  const core::Log log = stderr_log("batch");
  std::vector<schema::Variant<train::TrainConfig>> described =
      schema::parse_variants<train::TrainConfig>(config, {.name = "config.yaml", .directory = {}});
  require_known_readers(described);
  const auto threads = static_cast<int>(described.front().config.threads);
  [[maybe_unused]] static const bool kPrepared = (model::prepare_runtime(threads), true);
  core::set_thread_count(threads);
  const std::vector<train::Prepared> runs = train::prepare(std::move(described), {});
  const train::Prepared& run = runs.front();
  core::SingleProcess alone;
  const auto suites = train_suites(run, alone, core::stop_flag(), log);
  train::require_sound(run);
  try {
    train::require_memory(run);
  } catch (const NotNow&) {
    // What is free now is judged when the job is started.
  }
  require_readers(run);
  batch::TrainPlan plan{.updates = run.total_updates,
                        .examples = static_cast<std::int64_t>(run.data.train.size())};
  const train::DiskNeed disk = train::disk_need(run);
  plan.adapter_bytes = disk.adapter;
  plan.run_bytes = disk.run;
  for (const train::MemoryPart& part : run.plan.parts) plan.memory_bytes += part.bytes;
  return plan;
}

batch::Engine batch_configurations() {
  return {.train = schema::section_info<train::TrainConfig>(),
          .evaluation = schema::section_info<eval::EvalConfig>(),
          .resumable = train::resumable_keys(),
          .plan = {},
          .gguf_bytes = {}};
}

}  // namespace weft::cli
