#include "model/device.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <optional>
#include <string_view>

#include "core/device_name.h"
#include "core/error.h"
#include "core/memory.h"
#include "core/ranks.h"
#include "model/cuda_library.h"
#include "model/gpu_of_rank.h"

namespace weft::model {
namespace {

/// The GPUs that this process sees; `name` is what was asked for.
RankGpus visible_gpus(const std::string& name) {
  std::array<std::uint64_t, 128> gpus{};
  int count = 0;
  if (const char* const problem =
          cuda_library().gpus(gpus.data(), static_cast<int>(gpus.size()), &count))
    throw ConfigError("device {}: {}; take device cpu, or see docs/gpu.md", name, problem);
  const auto seen = std::min(gpus.size(), static_cast<std::size_t>(count));
  return {core::this_machine(), {gpus.begin(), gpus.begin() + seen}};
}

/// Refuses ranks whose GPUs would round differently.
void require_alike(core::Communicator& ranks, const ComputeDevice& device) {
  const std::string own =
      fmt::format("{} ({}.{})", device.gpu, device.capability / 10, device.capability % 10);
  const std::string first = core::broadcast(ranks, own, 0);
  core::together(ranks, [&] {
    if (own == first) return;
    throw ConfigError(
        "device cuda: all ranks need GPUs of one kind, since results depend on it, and here is {} "
        "where the first rank has {}; choose alike GPUs by CUDA_VISIBLE_DEVICES",
        own, first);
  });
}

}  // namespace

ComputeDevice open_device(const std::string& name) {
  if (name == "cpu") return {};
  if (const auto fault = core::device_name_fault(name)) throw ConfigError("device: {}", *fault);
  const std::optional<int> index = core::gpu_index(name);
  WeftCudaDevice found{};
  if (const char* const problem = cuda_library().start(*index, &found))
    throw ConfigError("device {}: {}; take device cpu, or see docs/gpu.md", name, problem);
  return {.device = at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(*index)),
          .description =
              fmt::format("cuda:{} ({}, {}.{})", *index, found.name, found.major, found.minor),
          .gpu = found.name,
          .capability = found.major * 10 + found.minor,
          .total_bytes = found.total_bytes};
}

ComputeDevice open_device(const std::string& name, core::Communicator& ranks) {
  if (ranks.size() == 1) return open_device(name);
  core::require_same(ranks, std::hash<std::string>()(name), "`device`", "name one in all");
  ComputeDevice device;
  if (!core::gpu_index(name)) {
    core::together(ranks, [&] { device = open_device(name); });
    return device;
  }
  RankGpus own;
  core::together(ranks, [&] { own = visible_gpus(name); });
  const std::vector<int> chosen = gpus_of_ranks(
      gather_gpus(ranks, own), name == core::kAnyGpu ? std::nullopt : core::gpu_index(name));
  core::together(ranks, [&] {
    device = open_device(
        fmt::format("{}:{}", core::kAnyGpu, chosen[static_cast<std::size_t>(ranks.rank())]));
  });
  require_alike(ranks, device);
  return device;
}

std::unique_ptr<lora::FoldEngine> open_fold_engine(const ComputeDevice& device) {
  if (!device.is_gpu()) return nullptr;
  const int index = device.device.index();
  lora::FoldEngine* engine = nullptr;
  if (const char* const problem = cuda_library().fold(index, device.description.c_str(), &engine))
    throw IoError("device cuda:{}: {}", index, problem);
  return std::unique_ptr<lora::FoldEngine>(engine);
}

std::uint64_t available_memory(const ComputeDevice& device) {
  return device.is_gpu() ? cuda_library().free(device.device.index()) : core::available_memory();
}

}  // namespace weft::model
