#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "lora/adapter.h"

namespace weft::model {

/// How rotary frequencies are stretched to contexts longer than those of pre-training.
enum class RopeKind { kDefault, kLinear, kDynamic, kLlama3, kYarn };

/// Rotary positions: q and k are turned by angle position * frequency[i] in the planes (i, i +
/// d/2). The kinds and their keys are those of transformers' modeling_rope_utils.py.
struct Rope {
  RopeKind kind = RopeKind::kDefault;
  double theta = 10000;  ///< frequency[i] = theta^(-2i/d) before stretching
  double factor = 1;
  std::int64_t original_max_positions = 0;   ///< llama3, yarn: the context of pre-training
  double low_freq_factor = 1;                ///< llama3
  double high_freq_factor = 4;               ///< llama3
  double beta_fast = 32;                     ///< yarn: rotations above which nothing is stretched
  double beta_slow = 1;                      ///< yarn: rotations below which all is stretched
  bool truncate = true;                      ///< yarn: round the range's ends to whole dimensions
  std::optional<double> attention_factor{};  ///< yarn: factor of cos and sin; else from the mscales
  std::optional<double> mscale{};
  std::optional<double> mscale_all_dim{};
};

/// A decoder as data: everything that the operations need to know about a model.
///
///   x = embedding[token]
///   per layer:  x += o(attention(rotary(q, k), v)) with q, k, v = linear(rms_norm(x))
///               x += down(silu(gate(h)) * up(h))   with h = rms_norm(x)
///   logits = head(rms_norm(x))
struct Spec {
  std::string architecture;  ///< "LlamaForCausalLM"
  std::int64_t vocabulary = 0;
  std::int64_t hidden = 0;
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;  ///< Divides heads: each serves heads / kv_heads of them.
  std::int64_t head_dim = 0;
  std::int64_t intermediate = 0;
  std::int64_t max_positions = 0;  ///< Context the model was made for.
  double norm_eps = 1e-6;
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool tied_head = false;  ///< The head is the embedding matrix.
  Rope rope;
  /// Per layer: position i sees j with i - window < j <= i; 0: all j <= i.
  std::vector<std::int64_t> windows;

  [[nodiscard]] std::int64_t q_width() const { return heads * head_dim; }
  [[nodiscard]] std::int64_t kv_width() const { return kv_heads * head_dim; }
};

/// Reads config.json in the spelling of transformers 4 (rope_theta, rope_scaling) or 5
/// (rope_parameters). `where` is named in errors (a path).
/// InputError for a family that is not supported (names those that are), a missing or senseless
/// value, and any key whose value would change the numbers in a way that weft does not compute.
[[nodiscard]] Spec read_spec(const nlohmann::json& config, const std::string& where);

/// The same of a checkpoint, whose tensors are held against the number of layers before anything is
/// made for each layer.
[[nodiscard]] Spec read_spec(const checkpoint::Checkpoint& checkpoint);

/// Architectures that read_spec accepts.
[[nodiscard]] std::vector<std::string> supported_architectures();

/// Module paths without ".weight". One home of the names that checkpoints, adapters and this model
/// share.
namespace names {
inline constexpr const char* kEmbedding = "model.embed_tokens";
inline constexpr const char* kFinalNorm = "model.norm";
inline constexpr const char* kHead = "lm_head";
[[nodiscard]] std::string layer(std::int64_t index,
                                const char* module);  ///< "model.layers.3." + module
inline constexpr const char* kInputNorm = "input_layernorm";
inline constexpr const char* kQ = "self_attn.q_proj";
inline constexpr const char* kK = "self_attn.k_proj";
inline constexpr const char* kV = "self_attn.v_proj";
inline constexpr const char* kO = "self_attn.o_proj";
inline constexpr const char* kMlpNorm = "post_attention_layernorm";
inline constexpr const char* kGate = "mlp.gate_proj";
inline constexpr const char* kUp = "mlp.up_proj";
inline constexpr const char* kDown = "mlp.down_proj";
}  // namespace names

/// Linear layers that an adapter can take: q, k, v, o, gate, up, down of layer 0, of layer 1, ...
[[nodiscard]] std::vector<lora::Module> linear_modules(const Spec& spec);

/// A tensor of the checkpoint and the shape the spec gives it.
struct WeightShape {
  std::string name;
  std::vector<std::int64_t> shape;
};

/// Every tensor the model reads, under its Hugging Face name.
[[nodiscard]] std::vector<WeightShape> weight_shapes(const Spec& spec);

}  // namespace weft::model
