// From datasets to examples: reading, building on all threads, keeping the order.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/log.h"
#include "data/dataset.h"
#include "data/prompt.h"

namespace weft::data {

/// Everything of several datasets as examples.
struct Examples {
  std::vector<Example> examples;
  PromptStatistics prompts;
  ReadStatistics rows;
};

/// What became of all datasets.
struct BuildStatistics {
  PromptStatistics prompts;
  ReadStatistics rows;
};

/// Reads and builds all datasets on the threads of core/parallel.h, a few thousand samples at a
/// time, so that little is held at once. `take` gets the examples on the calling thread, with the
/// place of their sample among all: ascending, but for datasets with a shuffle_seed. Logs and
/// throws as load_examples(), but says nothing of what was dropped or cut (tell_losses), and with
/// Rows::kMayLack a dataset may hold no row.
using TakeExample = std::function<void(Example&& example, std::int64_t place)>;
[[nodiscard]] BuildStatistics stream_examples(const std::vector<DatasetConfig>& datasets,
                                              const PromptBuilder& builder, const core::Log& log,
                                              const TakeExample& take, Rows rows = Rows::kNeeded);

/// Tells what was dropped, cut or left out.
void tell_losses(const PromptStatistics& prompts, const core::Log& log);

/// Adds up what became of the samples of several parts.
void add(PromptStatistics& sum, const PromptStatistics& part);

/// Reads and builds all datasets, in order, on the threads of core/parallel.h. What was dropped,
/// cut or left out goes to `log`. Throws what load_samples() and build() throw; of several bad
/// samples, the first.
[[nodiscard]] Examples load_examples(const std::vector<DatasetConfig>& datasets,
                                     const PromptBuilder& builder, const core::Log& log = {});

}  // namespace weft::data
