#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/safetensors.h"
#include "core/log.h"
#include "lora/adapter.h"

namespace weft::lora {

/// Names inside a PEFT directory; readers and writers use these.
inline constexpr std::string_view kConfigFile = "adapter_config.json";
inline constexpr std::string_view kWeightsFile = "adapter_model.safetensors";
inline constexpr std::string_view kProvenanceFile = "weft_provenance.json";

/// "base_model.model.<path>.lora_A.weight" of shape [rank, in].
[[nodiscard]] std::string key_of_a(std::string_view module_path);
/// "base_model.model.<path>.lora_B.weight" of shape [out, rank].
[[nodiscard]] std::string key_of_b(std::string_view module_path);

/// A PEFT directory, opened and validated; factors are read module by module, so that an adapter
/// larger than memory allows can still be folded. Const methods are thread-safe.
class PeftFile {
 public:
  /// Validates all but the factors' numbers. Throws InputError as read_peft() does.
  [[nodiscard]] static PeftFile open(const std::filesystem::path& directory,
                                     const core::Log& log = {});

  [[nodiscard]] const std::filesystem::path& directory() const noexcept { return directory_; }
  [[nodiscard]] const AdapterConfig& config() const noexcept { return config_; }
  /// In order of module path.
  [[nodiscard]] const std::vector<Target>& targets() const noexcept { return targets_; }
  [[nodiscard]] const std::optional<Provenance>& provenance() const noexcept { return provenance_; }
  /// "F32", "F16" or "BF16", or several joined by "+".
  [[nodiscard]] std::string storage() const;

  /// Factors of targets()[index]. Throws InputError naming the tensor if a number is NaN or
  /// infinite.
  [[nodiscard]] Factors load(std::size_t index) const;

  /// SHA-256 of adapter_config.json and adapter_model.safetensors, one after the other.
  [[nodiscard]] std::string digest() const;

 private:
  PeftFile(std::filesystem::path directory, AdapterConfig config, checkpoint::Safetensors weights);
  void pair_up(const core::Log& log);
  [[nodiscard]] std::vector<float> numbers(const std::string& key) const;

  std::filesystem::path directory_;
  AdapterConfig config_;
  checkpoint::Safetensors weights_;
  std::vector<Target> targets_;
  std::optional<Provenance> provenance_;
};

}  // namespace weft::lora
