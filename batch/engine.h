#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "schema/schema.h"

namespace weft::batch {

/// What weft train says of a configuration before it begins.
struct TrainPlan {
  std::uint64_t memory_bytes = 0;
  std::int64_t updates = 0;
  std::int64_t examples = 0;
  std::uint64_t adapter_bytes = 0;
  std::uint64_t run_bytes = 0;  ///< What the run's folder will take on the disk at most.
};

/// What the batch asks of the programs whose commands it runs: their configurations, and a plan.
/// Filled in by cli/, so that this folder needs no LibTorch.
struct Engine {
  std::shared_ptr<const schema::SectionInfo> train;       ///< CONFIG.yaml of weft train
  std::shared_ptr<const schema::SectionInfo> evaluation;  ///< CONFIG.yaml of weft eval
  /// Keys, and sections, that weft train --resume accepts to change.
  std::vector<std::string> resumable{};
  /// Reads the data of a complete configuration and checks it as weft train --check does. Throws
  /// what that throws.
  std::function<TrainPlan(const std::string& config)> plan;
  /// What weft export makes of a model: bytes of a GGUF file of this type ("q4_k_m"). Throws what
  /// that throws.
  std::function<std::uint64_t(const std::filesystem::path& model, const std::string& type)>
      gguf_bytes{};
};

/// The value of a key ("adapter.r") of a configuration as text; empty where it has none.
[[nodiscard]] std::string value_of(const schema::SectionInfo& info, void* object,
                                   std::string_view key);

/// Every path that a configuration reads, in the order of its keys; not those that it writes.
[[nodiscard]] std::vector<std::string> inputs_of(const schema::SectionInfo& info, void* object);

/// A configuration as lines "section.key: value", without what decides nothing of the outcome
/// (threads, places of output). Of a path in `inputs`, whose content counts, only the name.
[[nodiscard]] std::vector<std::string> essence_of(const std::string& dump,
                                                  const std::vector<std::string>& inputs);
/// The path's name where it is one of the inputs, else the text as it is.
[[nodiscard]] std::string without_place(const std::string& text,
                                        const std::vector<std::string>& inputs);

}  // namespace weft::batch
