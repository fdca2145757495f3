#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "cli/options.h"
#include "core/log.h"
#include "lora/adapter.h"
#include "model/decoder.h"
#include "model/device.h"
#include "model/spec.h"

namespace weft::cli {

/// The options of commands that compute with one model and adapters on top of it.
struct ModelArguments {
  std::string model{};
  std::vector<std::string> adapters{};  ///< DIR or DIR:WEIGHT
  std::string dtype;                    ///< "f32", "bf16", "auto": bf16 where the processor has it
  std::string base_quantization = "auto";  ///< "auto", "none", "stored", "int8", "nf4"
  std::string device = "cpu";              ///< model::open_device
  int threads = 0;
  bool allow_other_base = false;
};

/// Declares --model, --adapter, --dtype (with the default already in `arguments`),
/// --base-quantization, --device, --threads,
/// --allow-other-base.
void declare_model(CommandLine& app, ModelArguments& arguments);

/// A model and its adapters, read and checked against each other; no weights are in memory yet.
struct OpenedModel {
  model::ComputeDevice device;
  checkpoint::Checkpoint checkpoint;
  model::Spec spec;
  std::vector<std::pair<lora::Adapter, double>> adapters;  ///< With their weights.
};

/// Sets up LibTorch and opens what the options name. Errors of checkpoint, adapter and model
/// reading.
[[nodiscard]] OpenedModel open_model(const ModelArguments& arguments, const core::Log& log);

struct ComputingModel {
  checkpoint::Checkpoint checkpoint;
  model::Decoder decoder;
};

/// Checks that the weights and `tokens` at once fit into memory, loads the model and attaches the
/// adapters for inference.
[[nodiscard]] ComputingModel load_model(OpenedModel opened, const ModelArguments& arguments,
                                        std::int64_t tokens, const core::Log& log);

}  // namespace weft::cli
