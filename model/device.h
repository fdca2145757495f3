#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <string>

#include "core/communicator.h"
#include "lora/fold_engine.h"

namespace weft::model {

/// What a model is computed on.
struct ComputeDevice {
  at::Device device = at::kCPU;
  /// "cpu", or "cuda:0 (NVIDIA H200, 9.0)": for logs and records.
  std::string description = "cpu";
  std::string gpu{};              ///< "NVIDIA H200"; empty: a processor.
  int capability = 0;             ///< A GPU's compute capability, 75 for 7.5; 0: a processor.
  std::uint64_t total_bytes = 0;  ///< Of a GPU's memory

  [[nodiscard]] bool is_gpu() const { return !device.is_cpu(); }
};

/// The device of that name (core/device_name.h); "cuda" is the first GPU. For a GPU it opens
/// lib/libweft_cuda.so, once, which has to be before anything asks LibTorch for CUDA. ConfigError,
/// in one line that says what to do, for another name, where that library was not built, for a GPU
/// that there is not, one that is too old, and a missing driver.
[[nodiscard]] ComputeDevice open_device(const std::string& name);

/// The same for one of several ranks, which all call it. "cuda" is a GPU of its own for each rank
/// of a machine (model/gpu_of_rank.h), and all are of one kind. ConfigError in all ranks, also
/// where a machine has fewer GPUs than ranks or GPUs differ; InputError where the ranks name other
/// devices.
[[nodiscard]] ComputeDevice open_device(const std::string& name, core::Communicator& ranks);

/// What folds adapters on this device (`weft merge --device`); null for a processor, which does so
/// without. IoError with CUDA's own words.
[[nodiscard]] std::unique_ptr<lora::FoldEngine> open_fold_engine(const ComputeDevice& device);

/// Bytes that are free now: of the GPU's memory, or of the machine's (core/memory.h).
[[nodiscard]] std::uint64_t available_memory(const ComputeDevice& device);

}  // namespace weft::model
