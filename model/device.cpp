#include "model/device.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <charconv>
#include <filesystem>
#include <optional>
#include <string_view>

#include "core/error.h"
#include "core/memory.h"
#include "model/cuda/cuda.h"

namespace weft::model {
namespace {

/// The number in "cuda:N", 0 for "cuda"; nothing for another name.
std::optional<int> gpu_index(std::string_view name) {
  constexpr std::string_view kCuda = "cuda";
  if (!name.starts_with(kCuda)) return std::nullopt;
  name.remove_prefix(kCuda.size());
  if (name.empty()) return 0;
  int index = -1;
  const char* const end = name.data() + name.size();
  if (name.front() != ':') return std::nullopt;
  const auto parsed = std::from_chars(name.data() + 1, end, index);
  const bool whole = parsed.ec == std::errc() && parsed.ptr == end;
  return whole && index >= 0 && index < 128 ? std::optional(index) : std::nullopt;
}

struct Library {
  WeftCudaStart start = nullptr;
  WeftCudaFree free = nullptr;
  WeftCudaFold fold = nullptr;
};

/// Beside the library that this code is in; of a test, which has the code in it, in lib/ beside
/// bin/.
Library open_library() {
  namespace fs = std::filesystem;
  Dl_info here{};
  const bool known = ::dladdr(reinterpret_cast<const void*>(&is_device_name), &here) != 0;
  const fs::path folder = known ? fs::absolute(here.dli_fname).parent_path() : fs::path(".");
  fs::path library = folder / "libweft_cuda.so";
  if (folder.filename() == "bin") library = folder.parent_path() / "lib/libweft_cuda.so";
  if (!fs::exists(library)) {
    throw ConfigError(
        "device cuda: weft was built for the processor alone ({} is missing); script/setup --cuda "
        "builds its part for GPUs, or take device cpu",
        library.string());
  }
  void* const handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (handle == nullptr) throw ConfigError("device cuda: cannot load {}", ::dlerror());
  const Library opened{reinterpret_cast<WeftCudaStart>(::dlsym(handle, "weft_cuda_start")),
                       reinterpret_cast<WeftCudaFree>(::dlsym(handle, "weft_cuda_free")),
                       reinterpret_cast<WeftCudaFold>(::dlsym(handle, "weft_cuda_fold"))};
  if (opened.start == nullptr || opened.free == nullptr || opened.fold == nullptr)
    throw ConfigError("device cuda: {} is of another version", library.string());
  return opened;
}

const Library& library() {
  static const Library kOpened = open_library();
  return kOpened;
}

}  // namespace

bool is_device_name(const std::string& name) { return name == "cpu" || gpu_index(name); }

ComputeDevice open_device(const std::string& name) {
  if (name == "cpu") return {};
  const std::optional<int> index = gpu_index(name);
  if (!index) throw ConfigError("device '{}': expected cpu, cuda or cuda:N (a GPU's number)", name);
  WeftCudaDevice found{};
  if (const char* const problem = library().start(*index, &found))
    throw ConfigError("device {}: {}; take device cpu, or see docs/gpu.md", name, problem);
  return {.device = at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(*index)),
          .description =
              fmt::format("cuda:{} ({}, {}.{})", *index, found.name, found.major, found.minor),
          .gpu = found.name,
          .capability = found.major * 10 + found.minor,
          .total_bytes = found.total_bytes};
}

std::unique_ptr<lora::FoldEngine> open_fold_engine(const ComputeDevice& device) {
  if (!device.is_gpu()) return nullptr;
  return std::unique_ptr<lora::FoldEngine>(
      library().fold(device.device.index(), device.description.c_str()));
}

std::uint64_t available_memory(const ComputeDevice& device) {
  return device.is_gpu() ? library().free(device.device.index()) : core::available_memory();
}

}  // namespace weft::model
