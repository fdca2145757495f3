#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/safetensors.h"
#include "core/log.h"
#include "lora/adapter.h"
#include "lora/peft_keys.h"

namespace weft::lora {

/// Names inside a PEFT directory; readers and writers use these.
inline constexpr std::string_view kConfigFile = "adapter_config.json";
inline constexpr std::string_view kWeightsFile = "adapter_model.safetensors";
inline constexpr std::string_view kProvenanceFile = "weft_provenance.json";

/// "base_model.model.<path>.lora_A.weight" of shape [rank, in].
[[nodiscard]] std::string key_of_a(std::string_view module_path);
/// "base_model.model.<path>.lora_B.weight" of shape [out, rank].
[[nodiscard]] std::string key_of_b(std::string_view module_path);

/// The path in the keys of a target: the module's, or that of PEFT's wrapper of a stack of experts.
/// std::logic_error for a stack that `extras` does not name.
[[nodiscard]] std::string key_path(const Target& target, const AdapterExtras& extras);

/// The tensor of the base that a target's factors change: "<path>.weight", or the parameter itself.
[[nodiscard]] std::string weight_name(const Target& target);
/// "<path>.bias".
[[nodiscard]] std::string bias_name(const Target& target);

/// A tensor of an adapter's file and the tensor of the base that it changes.
struct KeyUse {
  std::string key;
  std::string tensor;  ///< In brackets, what became of a key that changes none.
};

/// A PEFT directory, opened and validated; factors are read module by module, so that an adapter
/// larger than memory allows can still be folded. Const methods are thread-safe.
class PeftFile {
 public:
  /// Validates all but the factors' numbers. Throws InputError as read_peft() does.
  [[nodiscard]] static PeftFile open(const std::filesystem::path& directory,
                                     const core::Log& log = {});

  [[nodiscard]] const std::filesystem::path& directory() const noexcept { return directory_; }
  [[nodiscard]] const AdapterConfig& config() const noexcept { return config_; }
  /// The pairs of factors, in order of their keys' module paths.
  [[nodiscard]] const std::vector<Target>& targets() const noexcept { return targets_; }
  /// What is saved whole, in order of key.
  [[nodiscard]] const std::vector<SavedTensor>& saved() const noexcept { return saved_; }
  [[nodiscard]] const std::vector<TrainedRows>& rows() const noexcept { return rows_; }
  /// The file's tensors under their keys, for streaming what is saved whole; only where saved() is
  /// not empty.
  [[nodiscard]] const checkpoint::Checkpoint& tensors() const { return *tensors_; }
  enum class Stacks { kRefused, kTaken };
  /// What it has besides pairs of factors of linear layers (and, where they are taken, of stacks of
  /// experts), in words; empty: a plain adapter.
  [[nodiscard]] std::vector<std::string> features(Stacks stacks = Stacks::kRefused) const;
  /// InputError naming the features that are not plain and that `who` cannot use them.
  void require_plain(std::string_view who, Stacks stacks = Stacks::kRefused) const;
  [[nodiscard]] const std::optional<Provenance>& provenance() const noexcept { return provenance_; }
  /// "F32", "F16" or "BF16", or several joined by "+".
  [[nodiscard]] std::string storage() const;

  /// The tensors of the file that load(index) and magnitude(index) read.
  [[nodiscard]] std::vector<std::string> pair_keys(std::size_t index) const;
  /// The tensor that bias(index) reads; empty without.
  [[nodiscard]] const std::string& bias_key(std::size_t index) const { return names_[index].bias; }
  /// Every tensor of the file, in order of key.
  [[nodiscard]] std::vector<KeyUse> keys() const;

  /// Factors of targets()[index]. Throws InputError naming the tensor if a number is NaN or
  /// infinite.
  [[nodiscard]] Factors load(std::size_t index) const;

  /// Of targets()[index], a stack of experts: the factors of one of them, with rows [first, first +
  /// rows) of its B alone, as of a linear layer. Reads no more than these. Throws as load().
  [[nodiscard]] Factors load_expert(std::size_t index, std::int64_t expert, std::int64_t first,
                                    std::int64_t rows) const;

  /// DoRA's magnitudes [out] of targets()[index]; empty without.
  [[nodiscard]] std::vector<float> magnitude(std::size_t index) const;
  /// The bias [out] of B of targets()[index], without its scale; empty without.
  [[nodiscard]] std::vector<float> bias(std::size_t index) const;
  /// The numbers of any tensor of the file. Throws as load().
  [[nodiscard]] std::vector<float> numbers(const std::string& key) const;

  /// SHA-256 of adapter_config.json and adapter_model.safetensors, one after the other.
  [[nodiscard]] std::string digest() const;

 private:
  PeftFile(std::filesystem::path directory, AdapterConfig config, checkpoint::Safetensors weights);
  void pair_up(const std::vector<std::string>& training_methods, const core::Log& log);
  void require_same(const std::string& copy, const std::string& original) const;

  /// The keys of a target; empty where there is none.
  struct Names {
    std::string a;
    std::string b;
    std::string magnitude;
    std::string bias;
  };

  std::filesystem::path directory_;
  AdapterConfig config_;
  checkpoint::Safetensors weights_;
  std::vector<Target> targets_;
  std::vector<Names> names_;  ///< Of targets_.
  std::vector<SavedTensor> saved_;
  std::vector<TrainedRows> rows_;
  std::vector<KeyUse> copies_;
  std::shared_ptr<const checkpoint::Checkpoint> tensors_;
  std::optional<Provenance> provenance_;
};

}  // namespace weft::lora
