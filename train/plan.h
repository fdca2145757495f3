#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lora/adapter.h"
#include "model/decoder.h"
#include "model/spec.h"
#include "train/config.h"
#include "train/memory.h"

namespace weft::train {

/// What a plan is made for.
struct MemoryDemand {
  const model::Spec& spec;
  std::span<const lora::Target> targets;
  model::ComputeDevice device{};
  model::Compute compute = model::Compute::kF32;
  std::int64_t longest_example = 0;    ///< Tokens, of training and validation
  std::int64_t data_tokens = 0;        ///< A row cannot hold more
  std::int64_t examples = 0;           ///< In them; 0: not known, then rows are taken for full
  std::uint64_t data_bytes = 0;        ///< Of tokens that are mapped, and what orders them
  std::uint64_t vocabulary_bytes = 0;  ///< Of the tokenizer, about
  std::uint64_t other_adapters = 0;    ///< Bytes of the adapters that train beside this one
  std::int64_t row_tokens = 0;         ///< Of the run that goes on; 0: to be chosen
  int ranks = 1;                       ///< That share each update
  int ranks_here = 1;  ///< Of them on this machine, sharing its memory, but each with its own GPU
};

/// How a run keeps within its memory: chosen before it starts, kept to the end.
struct MemoryPlan {
  std::int64_t row_tokens = 0;         ///< Examples are packed into rows of at most so many
  std::int64_t recomputed_layers = 0;  ///< model::TrainPass::recomputed_layers
  std::vector<MemoryPart> parts;       ///< What it will take
  MemoryRoom room;  ///< This rank's part of memory_limit, or of what the machine or GPU has to give
};

/// The fastest way that fits. Rows of sequence_len, or of 1024 tokens (4096 on a GPU) where that is
/// more and an update has as many, and nothing computed twice where there is room; otherwise, with
/// a `memory_limit`, shorter rows down to 256 tokens, which cost little, then layers that are
/// computed again in the backward (a third more time for all of them), then rows as short as the
/// longest example. Without a `memory_limit` rows stay as they are, so that results do not depend
/// on what else the machine is doing; recomputation does not touch them. What the program takes
/// beside its tensors is then a constant, not what it takes at the moment, so that the same
/// configuration means the same rows; and a run that goes on keeps its rows, whatever the limit
/// says now. Ranks have the rows of one process, for which all memory of a machine is there: what
/// they exchange, and that ranks on one machine divide its memory or the memory_limit among them,
/// can make them compute more layers again, which changes no number. A GPU is one rank's alone: its
/// memory, or the memory_limit, is whole for each. Where nothing fits the smallest plan comes back,
/// for require_memory() to refuse.
[[nodiscard]] MemoryPlan plan_memory(const TrainConfig& config, const MemoryDemand& demand);

/// What an adapter of these layers takes: factors, gradients, moments, copies. Bytes.
[[nodiscard]] std::uint64_t adapter_memory(const MemoryDemand& demand);

/// "12 of 30 layers computed again", "rows of 256 tokens"; empty where nothing was given up.
[[nodiscard]] std::string describe_savings(const MemoryPlan& plan, const TrainConfig& config,
                                           std::int64_t layers);

}  // namespace weft::train
