#include "train/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "core/parallel.h"
#include "model/kernels/product.h"
#include "model/memory.h"
#include "train/gradient_sum.h"

namespace weft::train {
namespace {

/// LibTorch's code as it is paged in, buffers of two threads, and what the heap loses between its
/// blocks.
constexpr std::uint64_t kRuntime = std::uint64_t{96} << 20;
constexpr std::int64_t kRuntimeThreads = 2;
/// Of each further thread: the panels and sums of its products (model/kernels/product.cpp), 2.5 MiB
/// where the processor has tiles, and its stack.
constexpr std::uint64_t kThread = std::uint64_t{3} << 20;
/// Below it products get slower.
constexpr std::int64_t kShortRow = 256;
/// Rows are packed up to it even where examples are shorter: what a product pays for each panel of
/// weights is shared by more tokens (512 to 1024: 10 to 15 % faster), and more examples share their
/// beginnings.
constexpr std::int64_t kLongRow = 1024;

/// The same on a GPU, whose products are larger.
constexpr std::int64_t kLongGpuRow = 4096;
/// What a GPU holds beside tensors that a plan counts: the workspace of its products, their sums
/// before they are rounded, and what the allocator of its memory loses between blocks.
constexpr std::uint64_t kGpuWork = std::uint64_t{512} << 20;
/// What NCCL holds of a GPU for its messages to other ranks, about.
constexpr std::uint64_t kGpuMessages = std::uint64_t{256} << 20;

/// What the program holds when everything but the weights is read: its code as far as it ran, the
/// tokenizer, the configuration. Measured between 118 and 151 MiB; a constant, since the length of
/// rows, and with it every number of a run, follows from it where there is a memory_limit.
constexpr std::uint64_t kProgram = std::uint64_t{144} << 20;

/// What the device has to give to one of so many alike processes; on the processor its own memory
/// included.
MemoryRoom room(const model::ComputeDevice& device, int sharers) {
  MemoryRoom machine = memory_of(device);
  machine.sharers = sharers;
  machine.now /= static_cast<std::uint64_t>(sharers);
  machine.at_best /= static_cast<std::uint64_t>(sharers);
  if (device.is_gpu()) return machine;
  const std::uint64_t own = resident_memory();
  machine.now = machine.now > std::numeric_limits<std::uint64_t>::max() - own ? machine.now
                                                                              : machine.now + own;
  machine.at_best = std::max(machine.at_best, machine.now);
  return machine;
}

class Planner {
 public:
  Planner(const TrainConfig& config, const MemoryDemand& demand)
      : config_(config),
        demand_(demand),
        program_(config.memory_limit ? kProgram + demand.vocabulary_bytes : resident_memory()) {
    plan_.room = room_for(demand.device.is_gpu() ? 1 : demand.ranks_here);
    room_alone_ = room_for(1).now;
    std::int64_t longest = demand.longest_example;
    if (config.packing) {
      const std::int64_t packed = std::max(
          config.sequence_len,
          std::min(config.tokens_per_update, demand.device.is_gpu() ? kLongGpuRow : kLongRow));
      longest = std::max(longest, std::min(packed, demand.data_tokens));
    }
    full_row_ = longest;
    shortest_row_ = config.packing && config.memory_limit ? demand.longest_example : full_row_;
    if (demand.row_tokens > 0) full_row_ = shortest_row_ = demand.row_tokens;
  }

  MemoryPlan make() {
    const std::int64_t least =
        config_.gradient_checkpointing == Checkpointing::kAll ? demand_.spec.depth() : 0;
    const std::int64_t most = most_recomputed();
    const std::int64_t fast_row = std::max(shortest_row_, std::min(full_row_, kShortRow));
    for (std::int64_t row = full_row_;; row = std::max(row / 2, fast_row)) {
      if (fits(row, least)) return take(row, least);
      if (row == fast_row) break;
    }
    if (fits(fast_row, most)) {
      // The fewest layers that suffice.
      std::int64_t low = least, high = most;
      while (low < high) {
        const std::int64_t middle = low + (high - low) / 2;
        if (fits(fast_row, middle))
          high = middle;
        else
          low = middle + 1;
      }
      return take(fast_row, low);
    }
    for (std::int64_t row = fast_row; row > shortest_row_;) {
      row = std::max(row / 2, shortest_row_);
      if (fits(row, most)) return take(row, most);
    }
    return take(shortest_row_, most);
  }

 private:
  [[nodiscard]] MemoryRoom room_for(int sharers) const {
    if (!config_.memory_limit) return room(demand_.device, sharers);
    const std::uint64_t part = config_.memory_limit->count / static_cast<std::uint64_t>(sharers);
    return {part, part, sharers};
  }

  [[nodiscard]] model::MemoryNeed need(std::int64_t row, std::int64_t recomputed) const {
    return model::memory_need(demand_.spec, demand_.targets,
                              {.compute = demand_.compute,
                               .base = config_.base_quantization,
                               .row_tokens = row,
                               .training = true,
                               .dropout = config_.adapter.lora_dropout > 0,
                               .recomputed_layers = recomputed});
  }

  /// Whether one process alone has the memory.
  [[nodiscard]] bool fits(std::int64_t row, std::int64_t recomputed) const {
    return bytes(row, recomputed, 1) <= room_alone_;
  }

  [[nodiscard]] std::uint64_t bytes(std::int64_t row, std::int64_t recomputed, int ranks) const {
    return need(row, recomputed).total() + sums(row, ranks) + demand_.other_adapters +
           program_and_data();
  }

  /// Gradients of finished rows that wait for others to be added, and of other ranks
  /// (train/gradient_sum.h), for about as many rows as an update has.
  [[nodiscard]] std::uint64_t sums(std::int64_t row, int ranks) const {
    std::int64_t rows = 1;
    if (config_.examples_per_update) {
      rows = *config_.examples_per_update;
    } else {
      const std::int64_t own =
          config_.packing || demand_.examples == 0 ? row : demand_.data_tokens / demand_.examples;
      rows = config_.tokens_per_update / std::max<std::int64_t>(1, own) + 1;  // not all are full
    }
    if (demand_.examples > 0) rows = std::min(rows, demand_.examples);
    std::uint64_t gradient = 0;
    for (const lora::Target& target : demand_.targets)
      gradient += static_cast<std::uint64_t>(4 * target.parameters());
    const std::uint64_t messages = demand_.device.is_gpu() && ranks > 1 ? kGpuMessages : 0;
    return messages +
           static_cast<std::uint64_t>(gradients_held(rows, ranks) * static_cast<double>(gradient));
  }

  [[nodiscard]] std::uint64_t program_and_data() const {
    if (!demand_.device.is_gpu()) {
      const auto more_threads = static_cast<std::uint64_t>(
          std::max<std::int64_t>(0, core::thread_count() - kRuntimeThreads));
      return program_ + kRuntime + more_threads * kThread + demand_.data_bytes;
    }
    std::uint64_t largest = 0;  // matrix, read back whole for its product
    if (config_.base_quantization != model::BaseFormat::kDense) {
      for (const lora::Module& module : model::linear_modules(demand_.spec))
        largest = std::max(largest, static_cast<std::uint64_t>(module.in * module.out));
    }
    return kGpuWork + largest * (demand_.compute == model::Compute::kBF16 ? 2 : 4);
  }

  [[nodiscard]] std::int64_t most_recomputed() const {
    return config_.gradient_checkpointing == Checkpointing::kNone ? 0 : demand_.spec.depth();
  }

  MemoryPlan take(std::int64_t row, std::int64_t recomputed) {
    while (demand_.ranks > 1 && recomputed < most_recomputed() &&
           bytes(row, recomputed, demand_.ranks) > plan_.room.now)
      ++recomputed;
    const model::MemoryNeed n = need(row, recomputed);
    std::string knob = fmt::format("a smaller sequence_len (now {})", config_.sequence_len);
    if (config_.gradient_checkpointing == Checkpointing::kNone) {
      knob += " or gradient_checkpointing: auto";
    }
    if (config_.packing && !config_.memory_limit) knob += " or a memory_limit, which shortens rows";
    plan_.row_tokens = row;
    plan_.recomputed_layers = recomputed;
    plan_.parts = {{"weights", n.weights, weights_knob()},
                   {"activations", n.activations, knob},
                   {"adapter and optimiser", n.adapter,
                    fmt::format("a smaller adapter.r (now {}) or fewer {}", config_.adapter.r,
                                config_.adapter.target_parameters.empty()
                                    ? "adapter.target_modules"
                                    : "adapter.target_parameters and target_modules")},
                   {demand_.device.is_gpu() ? "work" : "program and data", program_and_data(), ""}};
    if (const std::uint64_t bytes = sums(row, demand_.ranks); bytes > 0) {
      plan_.parts.push_back(
          {demand_.ranks > 1 ? "sums of gradients, those of other ranks too" : "sums of gradients",
           bytes,
           fmt::format("a smaller tokens_per_update (now {}) or adapter.r",
                       config_.tokens_per_update)});
    }
    if (demand_.other_adapters > 0) {
      plan_.parts.push_back({"the other adapters", demand_.other_adapters,
                             "a smaller adapter.r of theirs, or fewer `adapters` at once"});
    }
    return plan_;
  }

  [[nodiscard]] std::string weights_knob() const {
    if (config_.base_quantization != model::BaseFormat::kDense) return "";
    return demand_.compute == model::Compute::kF32
               ? "dtype: bfloat16 halves the weights, base_quantization: nf4 quarters them"
               : "base_quantization: nf4 takes a quarter for the layers' weights";
  }

  const TrainConfig& config_;
  const MemoryDemand& demand_;
  std::uint64_t program_;
  std::uint64_t room_alone_ = 0;  ///< Bytes; the length of rows follows from it
  std::int64_t full_row_ = 0;
  std::int64_t shortest_row_ = 0;
  MemoryPlan plan_;
};

}  // namespace

MemoryPlan plan_memory(const TrainConfig& config, const MemoryDemand& demand) {
  return Planner(config, demand).make();
}

std::uint64_t adapter_memory(const MemoryDemand& demand) {
  return model::memory_need(demand.spec, demand.targets,
                            {.compute = demand.compute, .training = true})
      .adapter;
}

std::string describe_savings(const MemoryPlan& plan, const TrainConfig& config,
                             std::int64_t layers) {
  std::string text;
  if (config.memory_limit && config.packing && plan.row_tokens < config.sequence_len) {
    text = fmt::format("rows of {} tokens", plan.row_tokens);
  }
  if (plan.recomputed_layers > 0) {
    text += fmt::format("{}{} of {} layers computed again in the backward",
                        text.empty() ? "" : ", ", plan.recomputed_layers, layers);
  }
  return text;
}

}  // namespace weft::train
