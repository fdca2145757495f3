#pragma once

#include <atomic>
#include <string>

#include "batch/engine.h"
#include "cli/torch_library.h"

// What weft batch asks of weft train and weft eval: the program asks the library with LibTorch.

namespace weft::cli {

/// Their configurations; the engine's `plan` is left empty.
[[nodiscard]] batch::Engine batch_configurations();
/// What weft train --check does with a complete configuration.
[[nodiscard]] batch::TrainPlan plan_training(const std::string& config);

/// The same through the library: "weft_batch_engine" and "weft_plan_training". `stop`: what the
/// other side polls from then on.
using BatchConfigurations = EngineFailure (*)(std::atomic<bool>& stop, batch::Engine& engine);
using PlanTraining = EngineFailure (*)(const std::string& config, batch::TrainPlan& plan);

}  // namespace weft::cli
