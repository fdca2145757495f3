#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "lora/adapter.h"
#include "tests/support/temp_dir.h"

namespace weft::tests {

/// A tensor of an adapter file that is to be written as it is, right or wrong.
struct AdapterTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  std::string dtype = "F32";
  std::vector<std::byte> bytes;  ///< Empty: zeros.
};

inline std::string adapter_key(const std::string& module, const char* end) {
  return "base_model.model." + module + end;
}

/// A pair for `module` with zeros.
inline std::vector<AdapterTensor> zero_pair(const std::string& module, std::int64_t rank,
                                            std::int64_t in, std::int64_t out) {
  return {{adapter_key(module, ".lora_A.weight"), {rank, in}, "F32", {}},
          {adapter_key(module, ".lora_B.weight"), {out, rank}, "F32", {}}};
}

/// Writes adapter_config.json (as given) and adapter_model.safetensors.
inline std::filesystem::path write_adapter(const std::filesystem::path& folder,
                                           const std::string& config,
                                           const std::vector<AdapterTensor>& tensors) {
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "adapter_config.json") << config;
  std::vector<checkpoint::TensorPlan> plans;
  std::map<std::string, const AdapterTensor*> by_name;
  for (const AdapterTensor& tensor : tensors) {
    plans.push_back({tensor.name, tensor.dtype, tensor.shape});
    by_name[tensor.name] = &tensor;
  }
  checkpoint::SafetensorsWriter writer(folder / "adapter_model.safetensors", plans);
  for (const checkpoint::TensorPlan& plan : writer.order()) {
    std::vector<std::byte> bytes = by_name[plan.name]->bytes;
    bytes.resize(plan.bytes());
    writer.write(std::span<const std::byte>(bytes));
  }
  writer.finish();
  return folder;
}

/// The smallest configuration that reads, with further members: config_with(R"("use_dora": true)").
inline std::string config_with(const std::string& members = "") {
  return R"({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, )"
         R"("target_modules": ["q_proj", "v_proj"])" +
         (members.empty() ? "" : ", " + members) + "}";
}

/// The linear layers of a Llama of `layers` layers.
inline std::vector<lora::Module> llama_modules(int layers) {
  std::vector<lora::Module> modules;
  for (int i = 0; i < layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
      modules.push_back({layer + "self_attn." + name, 8, 8});
    }
    for (const char* name : {"gate_proj", "up_proj"})
      modules.push_back({layer + "mlp." + name, 8, 12});
    modules.push_back({layer + "mlp.down_proj", 12, 8});
  }
  return modules;
}

inline std::vector<std::string> paths(const std::vector<lora::Target>& targets) {
  std::vector<std::string> result;
  for (const lora::Target& target : targets) result.push_back(target.module.path);
  return result;
}

}  // namespace weft::tests
