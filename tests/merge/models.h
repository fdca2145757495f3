#pragma once

#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "core/number.h"
#include "lora/adapter.h"
#include "tests/support/temp_dir.h"

namespace weft::tests {

/// A tensor of a model: its stored type and numbers.
struct ModelTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  core::DType dtype = core::DType::kF32;
  std::vector<float> values;
};

inline std::vector<std::byte> encode(core::DType dtype, const std::vector<float>& values) {
  std::vector<std::byte> bytes(values.size() * static_cast<std::size_t>(core::size_of(dtype)));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (dtype == core::DType::kF32) {
      std::memcpy(bytes.data() + 4 * i, &values[i], 4);
    } else {
      const std::uint16_t half = dtype == core::DType::kF16 ? core::float_to_f16(values[i])
                                                            : core::float_to_bf16(values[i]);
      std::memcpy(bytes.data() + 2 * i, &half, 2);
    }
  }
  return bytes;
}

inline float decode(core::DType dtype, const std::byte* at) {
  if (dtype == core::DType::kF32) {
    float value = 0;
    std::memcpy(&value, at, 4);
    return value;
  }
  std::uint16_t half = 0;
  std::memcpy(&half, at, 2);
  return dtype == core::DType::kF16 ? core::f16_to_float(half) : core::bf16_to_float(half);
}

inline std::vector<float> noise(std::size_t count, float size, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  for (float& value : values) {
    value = (static_cast<float>(random() >> 8) * 0x1p-23F - 1.0F) * size;
  }
  return values;
}

/// A tensor of noise.
inline ModelTensor noisy(std::string name, std::vector<std::int64_t> shape,
                         core::DType dtype = core::DType::kF32, std::uint32_t seed = 1) {
  std::size_t count = 1;
  for (const std::int64_t size : shape) count *= static_cast<std::size_t>(size);
  ModelTensor tensor{std::move(name), std::move(shape), dtype, noise(count, 0.1F, seed)};
  const auto bytes = encode(dtype, tensor.values);
  const auto width = static_cast<std::size_t>(core::size_of(dtype));
  for (std::size_t i = 0; i < count; ++i)
    tensor.values[i] = decode(dtype, bytes.data() + i * width);
  return tensor;
}

/// Writes a safetensors file.
inline void write_tensors(const std::filesystem::path& file,
                          const std::vector<ModelTensor>& tensors) {
  std::vector<checkpoint::TensorPlan> plans;
  std::map<std::string, const ModelTensor*> by_name;
  for (const ModelTensor& tensor : tensors) {
    plans.push_back({tensor.name, std::string(core::name_of(tensor.dtype)), tensor.shape});
    by_name[tensor.name] = &tensor;
  }
  checkpoint::SafetensorsWriter writer(file, plans);
  for (const checkpoint::TensorPlan& plan : writer.order()) {
    const ModelTensor& tensor = *by_name[plan.name];
    writer.write(std::span<const std::byte>(encode(tensor.dtype, tensor.values)));
  }
  writer.finish();
}

/// Writes a PEFT directory with these tensors, whether or not they fit the configuration.
inline std::filesystem::path write_adapter(const std::filesystem::path& folder,
                                           const std::string& config,
                                           const std::vector<ModelTensor>& tensors) {
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "adapter_config.json") << config;
  write_tensors(folder / "adapter_model.safetensors", tensors);
  return folder;
}

/// Writes a Hugging Face directory that need not be a whole language model.
inline std::filesystem::path write_model(const std::filesystem::path& folder,
                                         const std::vector<ModelTensor>& tensors,
                                         const std::string& config = R"({"model_type": "llama"})") {
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "config.json") << config;
  write_tensors(folder / "model.safetensors", tensors);
  return folder;
}

/// A tensor of a written file, as stored.
struct Stored {
  std::string dtype;
  std::vector<std::byte> bytes;
};

inline Stored stored(const std::filesystem::path& file, const std::string& name) {
  const auto tensors = checkpoint::Safetensors::open(file);
  const auto* entry = tensors.find(name);
  if (entry == nullptr) return {};
  const auto bytes = tensors.bytes(*entry);
  return {entry->dtype, {bytes.begin(), bytes.end()}};
}

/// An adapter of noise for `modules`, written as a PEFT folder.
inline std::filesystem::path write_noisy_adapter(
    const std::filesystem::path& folder, const std::vector<lora::Module>& modules,
    lora::AdapterConfig config, std::uint32_t seed = 5,
    const std::function<void(lora::Adapter&)>& change = {}) {
  lora::Adapter adapter = lora::make_adapter(config, lora::resolve_targets(config, modules), seed);
  for (lora::Factors& factors : adapter.factors) {
    factors.a = noise(factors.a.size(), 0.3F, ++seed);
    factors.b = noise(factors.b.size(), 0.3F, ++seed);
  }
  if (change) change(adapter);
  std::filesystem::create_directories(folder);
  lora::write_peft(adapter, folder);
  return folder;
}

/// r and alpha for the named modules.
inline lora::AdapterConfig config_of(std::vector<std::string> names, std::int64_t r, double alpha) {
  lora::AdapterConfig config;
  config.r = r;
  config.lora_alpha = alpha;
  config.target_modules.names = std::move(names);
  return config;
}

}  // namespace weft::tests
