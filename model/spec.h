#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/family.h"
#include "lora/adapter.h"

// A decoder as data: what its tensors are called, how they lie, and what is computed with them. A
// family's reader (model/families/) makes it from config.json; module names, shapes, adapters,
// statistics and memory follow from it.
namespace weft::model {

/// How rotary frequencies are stretched to contexts longer than those of pre-training.
enum class RopeKind { kDefault, kLinear, kDynamic, kLlama3, kYarn, kLongRope };

/// Rotary positions: q and k are turned by angle position * frequency[i] in planes of two elements
/// each. The kinds and their keys are those of transformers' modeling_rope_utils.py.
struct Rope {
  RopeKind kind = RopeKind::kDefault;
  double theta = 10000;  ///< frequency[i] = theta^(-2i/dim) before stretching
  /// Elements of a head that turn, from the first on; the rest stays.
  std::int64_t dim = 0;
  /// Planes (2i, 2i + 1) instead of (i, i + dim/2).
  bool interleaved = false;
  double factor = 1;
  std::int64_t original_max_positions = 0;   ///< llama3, yarn, longrope: context of pre-training
  double low_freq_factor = 1;                ///< llama3
  double high_freq_factor = 4;               ///< llama3
  double beta_fast = 32;                     ///< yarn: rotations above which nothing is stretched
  double beta_slow = 1;                      ///< yarn: rotations below which all is stretched
  bool truncate = true;                      ///< yarn: round the range's ends to whole dimensions
  std::optional<double> attention_factor{};  ///< yarn, longrope: factor of cos and sin
  std::optional<double> mscale{};
  std::optional<double> mscale_all_dim{};
  /// longrope: what frequency[i] is divided by, within the context of pre-training and beyond it.
  std::vector<double> short_factors{}, long_factors{};

  /// The frequencies of a sequence depend on its length.
  [[nodiscard]] bool by_length() const {
    return kind == RopeKind::kDynamic || kind == RopeKind::kLongRope;
  }
};

/// Normalisation of rows of `width` elements.
struct NormSpec {
  enum class Kind {
    kRms,    ///< x / sqrt(mean(x^2) + eps) (arXiv 1910.07467)
    kLayer,  ///< (x - mean) / sqrt(variance + eps) (arXiv 1607.06450)
  };
  Kind kind = Kind::kRms;
  double eps = 1e-6;
  std::string path{};        ///< Of weight and bias; empty: neither exists.
  std::int64_t width = 0;    ///< Elements that are normalised together
  std::int64_t weights = 0;  ///< Elements of the weight: width, or that of all heads
  bool bias = false;
  bool plus_one = false;  ///< What multiplies is 1 + weight.
  /// The normalised number is rounded to the element type before the weight multiplies it (as
  /// Llama's module does), or only after it.
  bool rounds_before_weight = true;
};

/// A matrix of the checkpoint, and the module that an adapter knows it as.
struct LinearSpec {
  std::string path{};  ///< Without ".weight"
  std::int64_t in = 0;
  std::int64_t out = 0;
  bool bias = false;
  checkpoint::Layout layout = checkpoint::Layout::kPlain;
};

/// softmax(score(q k)) v of one layer.
struct AttentionSpec {
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;  ///< Divides heads: each serves heads / kv_heads of them.
  std::int64_t head_dim = 0;
  std::int64_t window = 0;     ///< Position i sees j with i - window < j <= i; 0: all j <= i.
  double scale = 0;            ///< Of q k
  double soft_cap = 0;         ///< score = cap tanh(score / cap); 0: none
  bool alibi = false;          ///< Adds slope (j - i), one slope a head (arXiv 2108.12409)
  bool alibi_in_bf16 = false;  ///< Its slopes and what they give; the scale multiplies that as well
  std::string sinks{};         ///< Tensor [heads] of scores without a value; empty: none
  std::int64_t rotary = 0;     ///< Index in Spec::rotaries; kNoRotary: positions do not turn
  static constexpr std::int64_t kNoRotary = -1;

  [[nodiscard]] std::int64_t q_width() const { return heads * head_dim; }
  [[nodiscard]] std::int64_t kv_width() const { return kv_heads * head_dim; }
  [[nodiscard]] std::int64_t qkv_width() const { return q_width() + 2 * kv_width(); }
};

enum class Activation {
  kSilu,
  kGelu,      ///< x Phi(x), by the error function
  kGeluTanh,  ///< Its approximation by tanh: "gelu_new", "gelu_pytorch_tanh"
  kRelu,
  /// GPT-OSS: (clamp(up, -limit, limit) + 1) g sigmoid(1.702 g) with g = min(gate, limit)
  kClampedSwish,
};

/// down(act(gate) * up), or down(act(up)).
struct MlpSpec {
  bool gated = true;
  Activation activation = Activation::kSilu;
  std::int64_t width = 0;
  double limit = 0;  ///< kClampedSwish
};

/// Experts, of which a router chooses some for each token (model/experts.h).
struct ExpertsSpec {
  std::string router{};  ///< Path of [count, hidden]
  bool router_bias = false;
  std::int64_t count = 0;
  std::int64_t chosen = 0;
  bool normalised = false;  ///< The weights of the chosen ones add up to 1.
  MlpSpec mlp;              ///< Of each
  /// The stacks' paths as transformers loads them, whatever is stored: adapters know them by these.
  std::string up_stack{}, down_stack{};
  /// Each expert's matrices, one by one: up holds gate and up. In stacks, their rows of one tensor.
  std::vector<LinearSpec> up, down;  ///< Two an expert and one an expert; or one stack each
  bool stacked = false;
  bool bias = false;  ///< Stacks: [count, out] under "<path>_bias"
  /// The expert that every token visits; without width: none.
  MlpSpec shared{.width = 0};
  std::vector<LinearSpec> shared_up;  ///< Gate, up
  LinearSpec shared_down;
  std::optional<LinearSpec> shared_gate;  ///< How much of it; absent: all
};

/// One layer of the decoder. With attend(x) = output_norm(o(attention(qkv(input_norm(x))))) and
/// feed(x) = mlp_output_norm(down(act(up(mlp_norm(x))))), a norm that is absent changing nothing:
///
///   y = x + s attend(x),  z = y + s feed(y)       one after the other
///   z = x + s attend(x) + s feed(x)               in parallel
struct LayerSpec {
  std::optional<NormSpec> input_norm, query_norm, key_norm, output_norm;
  std::optional<NormSpec> mlp_norm, mlp_output_norm;
  std::vector<LinearSpec> qkv;  ///< Query, key, value; or the three fused
  LinearSpec o;
  AttentionSpec attention;
  std::vector<LinearSpec> up;  ///< Gate, up; or the two fused; or up alone
  LinearSpec down;
  MlpSpec mlp;
  std::optional<ExpertsSpec> experts;  ///< In place of up, down and mlp
  bool parallel = false;
  double residual_scale = 1;  ///< s
};

/// From tokens to the first layer: x = norm(scale * embedding[token] + positions[position]).
struct EmbeddingSpec {
  std::string path;
  double scale = 1;
  bool rounds_scale = false;  ///< The scale is rounded to the element type first.
  std::string positions{};    ///< Learned positions; empty: none
  std::int64_t position_rows = 0;
  std::int64_t first_position = 0;  ///< Row of position 0
  std::optional<NormSpec> norm{};
};

/// From the last layer to logits: cap tanh(scale * (W x + bias) / cap).
struct HeadSpec {
  std::string path;
  bool tied = false;  ///< W is the embedding.
  bool bias = false;
  bool normalised = false;  ///< Rows of W are divided by their length.
  double scale = 1;
  double soft_cap = 0;  ///< 0: none
};

struct Spec {
  std::string architecture;  ///< "LlamaForCausalLM"
  std::int64_t vocabulary = 0;
  std::int64_t hidden = 0;
  std::int64_t max_positions = 0;  ///< Context the model was made for.
  EmbeddingSpec embedding;
  std::vector<Rope> rotaries;
  std::vector<LayerSpec> layers;
  std::optional<NormSpec> final_norm;
  HeadSpec head;
  /// Keys of config.json that ask for dropout inside the base while it is trained; not applied.
  std::vector<std::string> dropouts;
  /// Beginnings of names of tensors that are of other parts of the model (images), not of its text.
  std::vector<std::string> other_parts;

  [[nodiscard]] std::int64_t depth() const { return std::ssize(layers); }
};

/// Reads config.json in the spelling of transformers 4 (rope_theta, rope_scaling) or 5
/// (rope_parameters). `where` is named in errors (a path).
/// InputError for a family that is not supported (names the nearest and those that are), a missing
/// or senseless value, and any key whose value would change the numbers in a way that weft does not
/// compute.
[[nodiscard]] Spec read_spec(const nlohmann::json& config, const std::string& where);

/// The same of a checkpoint, whose tensors are held against the number of layers before anything is
/// made for each layer, and decide between spellings of a family's tensors.
[[nodiscard]] Spec read_spec(const checkpoint::Checkpoint& checkpoint);

/// Architectures that read_spec accepts.
[[nodiscard]] std::vector<std::string> supported_architectures();

/// Linear layers that an adapter can take, in the order of the model: q, k, v, o, gate, up, down of
/// layer 0 (or what stands for them), of layer 1, ...
[[nodiscard]] std::vector<lora::Module> linear_modules(const Spec& spec);

/// Stacks of experts that an adapter can take, in the order of the model: gate and up of all
/// experts of a layer, one above the other, and down.
[[nodiscard]] std::vector<lora::Stack> expert_stacks(const Spec& spec);

/// A tensor of the checkpoint and the shape the spec gives it.
struct WeightShape {
  std::string name;
  std::vector<std::int64_t> shape;
};

/// Every tensor the model reads, under its Hugging Face name.
[[nodiscard]] std::vector<WeightShape> weight_shapes(const Spec& spec);

/// As GGUF stores a model's numbers: epsilons and rotary bases in fp32.
void round_to_gguf(Spec& spec);

}  // namespace weft::model
