#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "cli/torch_library.h"
#include "core/number.h"
#include "lora/fold_engine.h"

// `weft merge --device`: the program folds without LibTorch, and asks the library with LibTorch for
// what folds on a GPU.

namespace weft::cli {

/// What folds on the device of that name (model::open_device); null for "cpu": the processor does
/// so by itself. ConfigError, in one line, for another name, in a build without LibTorch or its
/// part for GPUs, and where there is no such GPU.
[[nodiscard]] std::unique_ptr<lora::FoldEngine> open_fold_engine(const std::string& device);

/// The same on the other side: a lora::FoldEngine whose methods tell how they failed.
struct FoldEngineCalls {
  std::string description;
  std::function<EngineFailure(const lora::ScaledPairs&, core::DType from, core::DType to)> begin;
  std::function<EngineFailure(std::int64_t first_row, std::span<const std::byte> base)> submit;
  std::function<EngineFailure(std::span<std::byte> out, std::span<lora::FoldedRow> rows)> collect;
};
using OpenFoldEngine = EngineFailure (*)(const std::string& device, FoldEngineCalls& calls);

}  // namespace weft::cli
