#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/log.h"

namespace weft::checkpoint {
class Checkpoint;
struct TensorInfo;
}  // namespace weft::checkpoint

namespace weft::lora {

/// Which linear layers get an adapter, in PEFT's words.
struct Targets {
  /// "all-linear", or a regular expression that matches a whole module path.
  std::optional<std::string> pattern;
  /// Module names or path endings ("q_proj", "mlp.down_proj"); used when `pattern` is empty.
  std::vector<std::string> names;

  [[nodiscard]] bool empty() const { return !pattern && names.empty(); }
  /// True for the word "all-linear" in any case, as PEFT reads it.
  [[nodiscard]] bool all_linear() const;
};

/// What an adapter may change besides linear layers by pairs of factors. Merging folds all of it;
/// training and computing take stacks of experts and refuse the rest by name, exporting as an
/// adapter refuses all of it (PeftFile::require_plain).
struct AdapterExtras {
  bool use_dora = false;             ///< arXiv 2402.09353: rows (or columns) of given norms.
  bool lora_bias = false;            ///< A bias beside B, added to that of the layer.
  bool ensure_weight_tying = false;  ///< What changes the embedding changes a tied head too.
  std::string bias = "none";         ///< "none", "lora_only", "all": which biases are saved whole.
  std::vector<std::string> modules_to_save;  ///< Modules that are saved whole.
  /// Rows of embeddings that are saved: (module, rows); an empty name means the input embedding.
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> trainable_token_indices;
  std::vector<std::string> target_parameters;  ///< Stacks of experts, "mlp.experts.down_proj".
};

/// adapter_config.json as far as weft supports it. Keys it does not support are refused on reading,
/// by name, unless they hold their neutral value (lora/config.h).
struct AdapterConfig {
  std::int64_t r = 8;
  double lora_alpha = 8;
  bool use_rslora = false;
  double lora_dropout = 0;
  Targets target_modules;
  Targets exclude_modules;
  std::vector<std::int64_t> layers_to_transform;  ///< Empty: all layers.
  std::vector<std::string> layers_pattern;        ///< Names of the list of layers; empty: any.
  std::vector<std::pair<std::string, std::int64_t>> rank_pattern;  ///< In file order.
  std::vector<std::pair<std::string, double>> alpha_pattern;       ///< In file order.
  /// Carried, and without effect on numbers: as in PEFT, the base's layer decides
  /// (stores_input_first).
  bool fan_in_fan_out = false;
  std::string base_model_name_or_path;
  std::string revision;
  AdapterExtras extras{};
};

/// A linear layer of the base: path without ".weight", weight of shape [out, in].
struct Module {
  std::string path;
  std::int64_t in = 0;
  std::int64_t out = 0;
};

/// A parameter that holds the matrices of all experts of a layer, each of which takes factors of
/// its own (PEFT's target_parameters).
struct Stack {
  Module module;  ///< The parameter's path, and the inputs and outputs of each expert's matrix.
  std::int64_t experts = 0;
};

/// What a pair of factors changes.
enum class TargetKind {
  kLinear,
  kEmbedding,  ///< `in` is the vocabulary: the weight is [in, out], its update (B A)^T.
  /// A parameter [experts, out, in] or [experts, in, out]; A [rank * experts, in] holds the experts
  /// one after the other, B [out, rank * experts] has them fastest (PEFT's ParamWrapper).
  kExperts
};

/// A module that gets an adapter, with rank and alpha after the patterns.
struct Target {
  Module module;
  std::int64_t rank = 0;
  double alpha = 0;
  double scale = 0;  ///< lora::scale(alpha, rank, use_rslora): the factor of B A.
  TargetKind kind = TargetKind::kLinear;
  std::int64_t experts = 1;

  /// Rows of A and columns of B.
  [[nodiscard]] std::int64_t ranks() const { return experts * rank; }
  /// Numbers in A and B.
  [[nodiscard]] std::int64_t parameters() const { return ranks() * (module.in + module.out); }
};

/// The pair of matrices of one module: update = scale * B A, A [rank, in], B [out, rank],
/// row-major. Of a stack of experts as TargetKind::kExperts says.
struct Factors {
  Target target;
  std::vector<float> a;
  std::vector<float> b;
};

/// What an adapter was trained on. Kept in weft_provenance.json beside adapter_config.json, a file
/// that PEFT and the serving programs ignore (docs/adapter_format.md).
struct Provenance {
  std::string base_weights;   ///< checkpoint::Checkpoint::weights_digest()
  std::string base_storage;   ///< e.g. "Q4_1", "BF16": how the base was stored in training
  std::string compute_dtype;  ///< "F32" or "BF16"
  /// "nf4", "int8": to what the base's layers were rounded in training; "none" or empty: not.
  std::string base_quantization;
  std::string tokenizer;      ///< digest of the tokenizer
  std::string chat_template;  ///< digest of the chat template, empty if none
  nlohmann::json more;        ///< data digests, configuration, program version
};

struct Adapter {
  AdapterConfig config;
  std::vector<Factors> factors;  ///< In order of module path.
  std::optional<Provenance> provenance;
};

/// alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA (arXiv 2312.03732).
[[nodiscard]] double scale(double alpha, std::int64_t rank, bool use_rslora);

/// Chooses targets among `modules` as PEFT does, in order of path. A list entry, pattern, layer
/// index, rank_pattern or alpha_pattern key that matches nothing is a ConfigError naming it and the
/// nearest module name (PEFT: silent, or a warning); so are overlapping pattern keys that disagree.
/// target_parameters chooses among `stacks`: an entry is a path or its ending after a '.'; neither
/// exclude_modules nor layers_to_transform takes one of them away.
[[nodiscard]] std::vector<Target> resolve_targets(const AdapterConfig& config,
                                                  const std::vector<Module>& modules,
                                                  const std::vector<Stack>& stacks = {});

/// An untrained adapter: A uniform in [-1/sqrt(in), 1/sqrt(in)) (PEFT's kaiming_uniform with
/// a = sqrt 5), B zero, so the model is unchanged at first. The numbers depend on `seed` and each
/// module's path only (lora/random.h), not on the machine or on the other targets.
[[nodiscard]] Adapter make_adapter(AdapterConfig config, std::vector<Target> targets,
                                   std::uint64_t seed);

/// The linear layers of a model, in order of path: two-dimensional weights except the embeddings
/// and the output head, which `all-linear` never means and weft does not adapt.
[[nodiscard]] std::vector<Module> linear_modules(const checkpoint::Checkpoint& base);

/// True for layers whose weight is stored as [in, out]: Conv1D of the GPT-2 family.
[[nodiscard]] bool stores_input_first(const checkpoint::Checkpoint& base, std::string_view path);

/// The base's weight of a target. InputError naming the tensor, with the nearest name when the base
/// has none of that name, with both shapes when they differ.
[[nodiscard]] const checkpoint::TensorInfo& base_weight(const checkpoint::Checkpoint& base,
                                                        const Target& target);

/// InputError with both shapes when a tensor of this shape is not the target's weight.
void require_fit(const checkpoint::Checkpoint& base, const Target& target,
                 const std::vector<std::int64_t>& shape);
/// InputError that the base lacks the tensor, with the nearest name.
[[noreturn]] void explain_missing(const checkpoint::Checkpoint& base, const std::string& name);

/// Fails when the adapter was trained on other weights than those whose digest
/// (Checkpoint::weights_digest) is given: InputError with both digests. Passes without provenance.
void check_base(const std::optional<Provenance>& provenance, std::string_view digest,
                const std::filesystem::path& base);
/// The same, computing the digest (one pass over the weights) only when the adapter records one.
void check_base(const Adapter& adapter, const checkpoint::Checkpoint& base);

/// What turns text into a model's tokens, by digest.
struct PromptDigests {
  std::string tokenizer{};
  /// What adapters of version 0.1 record for the same tokenizer (text::Tokenizer::legacy_digest).
  std::string legacy_tokenizer{};
  /// Empty: the model has no template. Nothing: no template is used, so that any will do.
  std::optional<std::string> chat_template{};
};

/// Fails when the adapter was trained with another tokenizer than that of `base`: InputError with
/// both digests. Another chat template is a warning to `log` with both, because it may be meant.
/// Passes what the provenance does not record.
void check_prompts(const std::optional<Provenance>& provenance, const PromptDigests& now,
                   const std::filesystem::path& base, const core::Log& log);

/// Reads a PEFT directory (adapter_config.json, adapter_model.safetensors in F32, F16 or BF16).
/// Validates every key, shape, pair and number; anything unmatched or unsupported is an InputError
/// that names it, as is an adapter with more than pairs of factors of linear layers and of stacks
/// of experts (PeftFile::require_plain). `log` hears of pattern keys that match nothing, which PEFT
/// ignores too. To read one module at a time use PeftFile (lora/peft_file.h).
[[nodiscard]] Adapter read_peft(const std::filesystem::path& directory, const core::Log& log = {});

/// Writes a PEFT directory: keys sorted, indent 2, tensors F32 with metadata {"format":"pt"}, and
/// weft_provenance.json if the adapter has provenance. `directory` must exist (a caller's
/// AtomicDirectory, or a checkpoint being staged).
void write_peft(const Adapter& adapter, const std::filesystem::path& directory);

}  // namespace weft::lora
