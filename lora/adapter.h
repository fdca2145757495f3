#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace weft::lora {

/// Which linear layers get an adapter, in PEFT's words.
struct Targets {
  /// "all-linear", or a regular expression that matches a whole module path.
  std::optional<std::string> pattern;
  /// Module names or path endings ("q_proj", "mlp.down_proj"); used when `pattern` is empty.
  std::vector<std::string> names;
};

/// adapter_config.json as far as weft supports it. Keys it does not support are refused on reading,
/// by name, unless they hold their neutral value.
struct AdapterConfig {
  std::int64_t r = 8;
  double lora_alpha = 8;
  bool use_rslora = false;
  double lora_dropout = 0;
  Targets target_modules;
  Targets exclude_modules;
  std::vector<std::int64_t> layers_to_transform;   ///< Empty: all layers.
  std::vector<std::string> layers_pattern;
  std::vector<std::pair<std::string, std::int64_t>> rank_pattern;  ///< In file order.
  std::vector<std::pair<std::string, double>> alpha_pattern;
  bool fan_in_fan_out = false;
  std::string base_model_name_or_path;
  std::string revision;
};

/// A linear layer of the base: path without ".weight", weight of shape [out, in].
struct Module {
  std::string path;
  std::int64_t in = 0;
  std::int64_t out = 0;
};

/// A module that gets an adapter, with rank and alpha after the patterns.
struct Target {
  Module module;
  std::int64_t rank = 0;
  double alpha = 0;
  double scale = 0;  ///< lora::scale(alpha, rank, use_rslora): the factor of B A.
};

/// The pair of matrices of one module: update = scale * B A, A [rank, in], B [out, rank], row-major.
struct Factors {
  Target target;
  std::vector<float> a;
  std::vector<float> b;
};

/// What an adapter was trained on. Kept in weft_provenance.json beside adapter_config.json, a file
/// that PEFT and the serving programs ignore.
struct Provenance {
  std::string base_weights;     ///< checkpoint::Checkpoint::weights_digest()
  std::string base_storage;     ///< e.g. "Q4_1", "BF16": how the base was stored in training
  std::string compute_dtype;    ///< "F32" or "BF16"
  std::string tokenizer;        ///< digest of the tokenizer
  std::string chat_template;    ///< digest of the chat template, empty if none
  nlohmann::json more;          ///< data digests, configuration, program version
};

struct Adapter {
  AdapterConfig config;
  std::vector<Factors> factors;  ///< In order of module path.
  std::optional<Provenance> provenance;
};

/// alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA (arXiv 2312.03732).
[[nodiscard]] double scale(double alpha, std::int64_t rank, bool use_rslora);

/// Chooses targets among `modules` as PEFT does. A list entry, pattern, layer index, rank_pattern or
/// alpha_pattern key that matches nothing is a ConfigError naming it and the nearest module name;
/// so are overlapping pattern keys that disagree.
[[nodiscard]] std::vector<Target> resolve_targets(const AdapterConfig& config,
                                                  const std::vector<Module>& modules);

/// Reads a PEFT directory (adapter_config.json, adapter_model.safetensors). Validates every key,
/// shape and pair; anything unmatched or unsupported is an InputError that names it.
[[nodiscard]] Adapter read_peft(const std::filesystem::path& directory);

/// Writes a PEFT directory: keys sorted, indent 2, tensors F32 with metadata {"format":"pt"}.
/// `directory` must exist (a caller's AtomicDirectory, or a checkpoint being staged).
void write_peft(const Adapter& adapter, const std::filesystem::path& directory);

}  // namespace weft::lora
