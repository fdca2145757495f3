#include "checkpoint/gguf_family.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <numbers>
#include <vector>

#include "checkpoint/printable.h"
#include "core/error.h"

namespace weft::checkpoint {
namespace {

using nlohmann::json;

// ggml-org/llama.cpp, gguf-py/gguf/tensor_mapping.py, conversion/llama.py and conversion/qwen.py.
constexpr std::array kLlamaTensors{
    TensorRule{"token_embd", "model.embed_tokens"}, TensorRule{"output_norm", "model.norm"},
    TensorRule{"output", "lm_head", RowOrder::kSame, false},
    TensorRule{"blk.{}.attn_norm", "model.layers.{}.input_layernorm"},
    TensorRule{"blk.{}.attn_q", "model.layers.{}.self_attn.q_proj", RowOrder::kInterleavedQuery},
    TensorRule{"blk.{}.attn_k", "model.layers.{}.self_attn.k_proj", RowOrder::kInterleavedKey},
    TensorRule{"blk.{}.attn_v", "model.layers.{}.self_attn.v_proj"},
    TensorRule{"blk.{}.attn_output", "model.layers.{}.self_attn.o_proj"},
    TensorRule{"blk.{}.ffn_norm", "model.layers.{}.post_attention_layernorm"},
    TensorRule{"blk.{}.ffn_gate", "model.layers.{}.mlp.gate_proj"},
    TensorRule{"blk.{}.ffn_up", "model.layers.{}.mlp.up_proj"},
    TensorRule{"blk.{}.ffn_down", "model.layers.{}.mlp.down_proj"},
    // Rotary factors become the configuration's rope_scaling; the buffers of old converters follow
    // from it. Neither is a tensor of the Hugging Face model.
    TensorRule{"rope_freqs", "", RowOrder::kSame, false},
    TensorRule{"blk.{}.attn_rot_embd", "", RowOrder::kSame, false}};

/// Rotary positions pair a head's two halves, as in Hugging Face's files: nothing is interleaved.
constexpr std::array kQwen2Tensors{
    TensorRule{"token_embd", "model.embed_tokens"},
    TensorRule{"output_norm", "model.norm"},
    TensorRule{"output", "lm_head", RowOrder::kSame, false},
    TensorRule{"blk.{}.attn_norm", "model.layers.{}.input_layernorm"},
    TensorRule{"blk.{}.attn_q", "model.layers.{}.self_attn.q_proj"},
    TensorRule{"blk.{}.attn_k", "model.layers.{}.self_attn.k_proj"},
    TensorRule{"blk.{}.attn_v", "model.layers.{}.self_attn.v_proj"},
    TensorRule{"blk.{}.attn_output", "model.layers.{}.self_attn.o_proj"},
    TensorRule{"blk.{}.ffn_norm", "model.layers.{}.post_attention_layernorm"},
    TensorRule{"blk.{}.ffn_gate", "model.layers.{}.mlp.gate_proj"},
    TensorRule{"blk.{}.ffn_up", "model.layers.{}.mlp.up_proj"},
    TensorRule{"blk.{}.ffn_down", "model.layers.{}.mlp.down_proj"}};

/// Qwen2's, and a norm of each head's queries and keys.
constexpr auto kQwen3Tensors = [] {
  std::array<TensorRule, kQwen2Tensors.size() + 2> rules{};
  std::copy(kQwen2Tensors.begin(), kQwen2Tensors.end(), rules.begin());
  rules[kQwen2Tensors.size()] = {"blk.{}.attn_q_norm", "model.layers.{}.self_attn.q_norm"};
  rules[kQwen2Tensors.size() + 1] = {"blk.{}.attn_k_norm", "model.layers.{}.self_attn.k_norm"};
  return rules;
}();

constexpr std::array kConfig{
    ConfigRule{"embedding_length", "hidden_size"},
    ConfigRule{"feed_forward_length", "intermediate_size"},
    ConfigRule{"block_count", "num_hidden_layers"},
    ConfigRule{"attention.head_count", "num_attention_heads"},
    ConfigRule{"context_length", "max_position_embeddings"},
    ConfigRule{"attention.layer_norm_rms_epsilon", "rms_norm_eps", ConfigRule::Kind::kReal}};

constexpr std::array kLlamaBiases{BiasRule{".attn_q.", "attention_bias"},
                                  BiasRule{".ffn_up.", "mlp_bias"}};
constexpr std::array kQwen3Biases{BiasRule{".attn_q.", "attention_bias"}};

constexpr std::array kFamilies{
    GgufFamily{"llama", "llama", "LlamaForCausalLM", kLlamaTensors, kConfig, kLlamaBiases, true},
    GgufFamily{"qwen2", "qwen2", "Qwen2ForCausalLM", kQwen2Tensors, kConfig, {}, false},
    GgufFamily{"qwen3", "qwen3", "Qwen3ForCausalLM", kQwen3Tensors, kConfig, kQwen3Biases, false}};

/// The number that stands where `pattern` has "{}"; -1 for a pattern without one that equals
/// `text`; nothing when they do not match.
std::optional<std::int64_t> match(std::string_view pattern, std::string_view text) {
  const auto hole = pattern.find("{}");
  if (hole == std::string_view::npos) {
    return pattern == text ? std::optional<std::int64_t>(-1) : std::nullopt;
  }
  const std::string_view before = pattern.substr(0, hole);
  const std::string_view after = pattern.substr(hole + 2);
  if (text.size() <= before.size() + after.size() || !text.starts_with(before) ||
      !text.ends_with(after)) {
    return std::nullopt;
  }
  const std::string_view digits =
      text.substr(before.size(), text.size() - before.size() - after.size());
  std::int32_t number = 0;
  const auto [end, error] = std::from_chars(digits.begin(), digits.end(), number);
  const bool canonical = digits == "0" || digits[0] != '0';
  if (error != std::errc() || end != digits.end() || number < 0 || !canonical) return std::nullopt;
  return number;
}

std::string fill(std::string_view pattern, std::int64_t layer) {
  const auto hole = pattern.find("{}");
  if (hole == std::string_view::npos) return std::string(pattern);
  return fmt::format("{}{}{}", pattern.substr(0, hole), layer, pattern.substr(hole + 2));
}

std::string key_of(const GgufFamily& family, std::string_view name) {
  return fmt::format("{}.{}", family.architecture, name);
}

template <typename... Args>
[[noreturn]] void fail(const Gguf& file, fmt::format_string<Args...> text, Args&&... args) {
  throw InputError("{}: {}", file.path().string(), fmt::format(text, std::forward<Args>(args)...));
}

std::int64_t checked_count(const Gguf& file, const std::string& key, std::int64_t value) {
  if (value < 1 || value > std::int64_t{1} << 31) {
    fail(file, "metadata '{}' is {}, which cannot be meant", key, value);
  }
  return value;
}

std::int64_t required_count(const Gguf& file, const std::string& key) {
  const auto value = file.integer(key);
  if (!value) fail(file, "metadata '{}' is missing", key);
  return checked_count(file, key, *value);
}

std::int64_t count_or(const Gguf& file, const std::string& key, std::int64_t otherwise) {
  const auto value = file.integer(key);
  return value ? checked_count(file, key, *value) : otherwise;
}

double positive_real(const Gguf& file, const std::string& key, double value) {
  if (!std::isfinite(value) || value <= 0) {
    fail(file, "metadata '{}' is {}, expected a positive number", key, value);
  }
  return value;
}

/// Llama 3's scaling is in no key: the converter bakes it into the tensor rope_freqs.weight. Its
/// parameters are recovered and must give the stored factors back; anything else is refused rather
/// than dropped (transformers drops it and computes other numbers).
json scaling_from_factors(const Gguf& file, const GgufTensor& tensor, double theta,
                          std::int64_t head_dim) {
  static constexpr double kTolerance = 1e-4;  // The converter's powers are in single precision.
  const std::span<const std::byte> bytes = file.bytes(tensor);
  const auto count = static_cast<std::size_t>(head_dim / 2);
  if (tensor.type->name != "F32" || bytes.size() != count * sizeof(float)) {
    fail(file, "tensor 'rope_freqs.weight' must hold {} values of F32", count);
  }
  std::vector<float> stored(count);
  std::memcpy(stored.data(), bytes.data(), bytes.size());
  if (std::ranges::all_of(stored, [](float f) { return f == 1.0F; })) return nullptr;
  const double factor = *std::ranges::max_element(stored);
  for (const double original : {8192.0, 4096.0, 16384.0, 32768.0, 131072.0}) {
    const std::vector<float> expected =
        llama3_rope_factors(theta, head_dim, {.factor = factor, .original = original});
    if (std::ranges::equal(stored, expected,
                           [](double a, double b) { return std::abs(a - b) <= kTolerance * b; })) {
      return {{"rope_type", "llama3"},
              {"factor", factor},
              {"low_freq_factor", 1.0},
              {"high_freq_factor", 4.0},
              {"original_max_position_embeddings", static_cast<std::int64_t>(original)}};
    }
  }
  fail(file, "tensor 'rope_freqs.weight' holds rotary factors that are not Llama 3's scaling");
}

json scaling_from_metadata(const Gguf& file, const GgufFamily& family, std::int64_t context) {
  const auto key = [&](std::string_view name) { return key_of(family, name); };
  const std::string type(file.string(key("rope.scaling.type")).value_or(""));
  const auto old_linear = file.real(key("rope.scale_linear"));  // Before rope.scaling.* existed.
  const auto given = file.real(key("rope.scaling.factor"));
  const double factor = given.value_or(old_linear.value_or(1.0));
  const std::string kind = !type.empty() ? type : old_linear && factor != 1.0 ? "linear" : "none";
  if (kind == "none" || (factor == 1.0 && kind == "linear")) return nullptr;
  positive_real(file, key("rope.scaling.factor"), factor);
  if (kind == "linear") return {{"rope_type", "linear"}, {"factor", factor}};
  if (kind != "yarn") {
    fail(file, "rotary scaling {} is not supported; none, linear and yarn are", printable(kind));
  }
  json scaling = {{"rope_type", "yarn"},
                  {"factor", factor},
                  {"original_max_position_embeddings",
                   count_or(file, key("rope.scaling.original_context_length"), context)}};
  if (const auto beta = file.real(key("rope.scaling.yarn_beta_fast"))) scaling["beta_fast"] = *beta;
  if (const auto beta = file.real(key("rope.scaling.yarn_beta_slow"))) scaling["beta_slow"] = *beta;
  // llama.cpp multiplies its own 0.1 ln(factor) + 1 by this; transformers replaces it.
  if (const auto attention = file.real(key("rope.scaling.attn_factor"))) {
    scaling["attention_factor"] = *attention * (0.1 * std::log(factor) + 1.0);
  }
  return scaling;
}

/// The widths that say how q and k are cut into heads.
void add_heads(const Gguf& file, const GgufFamily& family, json& config) {
  const auto key = [&](std::string_view name) { return key_of(family, name); };
  const auto heads = config["num_attention_heads"].get<std::int64_t>();
  const auto hidden = config["hidden_size"].get<std::int64_t>();
  const std::int64_t key_heads = count_or(file, key("attention.head_count_kv"), heads);
  if (heads % key_heads != 0) {
    fail(file, "{} attention heads cannot share {} key-value heads", heads, key_heads);
  }
  if (hidden % heads != 0 && !file.find(key("attention.key_length"))) {
    fail(file, "a width of {} cannot be cut into {} heads", hidden, heads);
  }
  const std::int64_t head_dim = count_or(file, key("attention.key_length"), hidden / heads);
  if (head_dim % 2 != 0) fail(file, "a head width of {} is not even", head_dim);
  if (count_or(file, key("attention.value_length"), head_dim) != head_dim) {
    fail(file, "key and value heads of different width are not supported");
  }
  if (const auto rotary = count_or(file, key("rope.dimension_count"), head_dim);
      rotary != head_dim) {
    fail(file, "rotary positions on {} of {} dimensions of a head are not supported", rotary,
         head_dim);
  }
  config["num_key_value_heads"] = key_heads;
  config["head_dim"] = head_dim;
}

/// The type in which the model's numbers lie without loss: that of the embeddings and projections.
std::string_view natural_dtype(const Gguf& file) {
  bool all_f16 = true;
  bool all_bf16 = true;
  for (const GgufTensor& tensor : file.tensors()) {
    if (tensor.shape.size() < 2) continue;  // Norms are F32 in every file.
    all_f16 = all_f16 && tensor.type->name == "F16";
    all_bf16 = all_bf16 && tensor.type->name == "BF16";
  }
  return all_f16 ? "float16" : all_bf16 ? "bfloat16" : "float32";
}

bool has_bias(const Gguf& file, std::string_view part) {
  return std::ranges::any_of(file.tensors(), [&](const GgufTensor& tensor) {
    return tensor.name.ends_with(".bias") && tensor.name.find(part) != std::string::npos;
  });
}

}  // namespace

const GgufFamily* find_gguf_family(std::string_view architecture) noexcept {
  const auto found = std::ranges::find(kFamilies, architecture, &GgufFamily::architecture);
  return found == kFamilies.end() ? nullptr : &*found;
}

const GgufFamily* find_gguf_family_of(std::string_view model_type) noexcept {
  if (model_type == "mistral") model_type = "llama";
  const auto found = std::ranges::find(kFamilies, model_type, &GgufFamily::model_type);
  return found == kFamilies.end() ? nullptr : &*found;
}

std::string known_gguf_families() {
  std::string text;
  for (const GgufFamily& family : kFamilies) {
    text += text.empty() ? "" : ", ";
    text += family.architecture;
  }
  return text;
}

std::optional<MappedName> hugging_face_name(const GgufFamily& family, std::string_view gguf_name) {
  const auto dot = gguf_name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view suffix = gguf_name.substr(dot);
  if (suffix != ".weight" && suffix != ".bias") return std::nullopt;
  for (const TensorRule& rule : family.tensors) {
    if (const auto layer = match(rule.gguf, gguf_name.substr(0, dot))) {
      if (rule.hugging_face.empty()) return MappedName{};
      return MappedName{fill(rule.hugging_face, *layer) + std::string(suffix), rule.rows};
    }
  }
  return std::nullopt;
}

std::optional<MappedName> gguf_name(const GgufFamily& family, std::string_view name) {
  const auto dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view suffix = name.substr(dot);
  if (suffix != ".weight" && suffix != ".bias") return std::nullopt;
  for (const TensorRule& rule : family.tensors) {
    if (rule.hugging_face.empty()) continue;
    if (const auto layer = match(rule.hugging_face, name.substr(0, dot))) {
      return MappedName{fill(rule.gguf, *layer) + std::string(suffix), rule.rows};
    }
  }
  return std::nullopt;
}

std::vector<float> llama3_rope_factors(double theta, std::int64_t head_dim,
                                       const Llama3Scaling& scaling) {
  std::vector<float> factors(static_cast<std::size_t>(head_dim / 2));
  for (std::size_t i = 0; i < factors.size(); ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(head_dim);
    const double wavelength = 2.0 * std::numbers::pi * std::pow(theta, exponent);
    double value = 1.0;
    if (wavelength > scaling.original / scaling.low) {
      value = scaling.factor;
    } else if (wavelength >= scaling.original / scaling.high) {
      const double smooth =
          (scaling.original / wavelength - scaling.low) / (scaling.high - scaling.low);
      value = 1.0 / ((1.0 - smooth) / scaling.factor + smooth);
    }
    factors[i] = static_cast<float>(value);
  }
  return factors;
}

nlohmann::json gguf_config(const Gguf& file, const GgufFamily& family) {
  const auto key = [&](std::string_view name) { return key_of(family, name); };
  if (file.integer(key("expert_count")).value_or(0) > 0) {
    fail(file, "a mixture of experts ('{}') is not supported", key("expert_count"));
  }
  json config = {{"architectures", {family.class_name}},
                 {"model_type", family.model_type},
                 {"hidden_act", "silu"}};
  for (const ConfigRule& rule : family.config) {
    if (rule.kind == ConfigRule::Kind::kCount) {
      config[rule.config] = required_count(file, key(rule.gguf));
    } else {
      const auto value = file.real(key(rule.gguf));
      if (!value) fail(file, "metadata '{}' is missing", key(rule.gguf));
      config[rule.config] = positive_real(file, key(rule.gguf), *value);
    }
  }
  add_heads(file, family, config);

  const GgufTensor* const embedding = file.find_tensor("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    fail(file, "the tensor 'token_embd.weight' is missing or no matrix");
  }
  config["vocab_size"] = embedding->shape[0];
  config["tie_word_embeddings"] = file.find_tensor("output.weight") == nullptr;

  const double theta = positive_real(file, key("rope.freq_base"),
                                     file.real(key("rope.freq_base")).value_or(10000.0));
  config["rope_theta"] = theta;
  const GgufTensor* const factors = file.find_tensor("rope_freqs.weight");
  config["rope_scaling"] =
      factors != nullptr
          ? scaling_from_factors(file, *factors, theta, config["head_dim"].get<std::int64_t>())
          : scaling_from_metadata(file, family,
                                  config["max_position_embeddings"].get<std::int64_t>());

  for (const BiasRule& rule : family.biases) config[rule.config] = has_bias(file, rule.gguf);
  config["torch_dtype"] = natural_dtype(file);
  for (const auto& [name, id] : {std::pair("bos_token_id", "tokenizer.ggml.bos_token_id"),
                                 std::pair("eos_token_id", "tokenizer.ggml.eos_token_id"),
                                 std::pair("pad_token_id", "tokenizer.ggml.padding_token_id")}) {
    if (const auto value = file.integer(id)) config[name] = *value;
  }
  return config;
}

void check_gguf_layers(const Gguf& file, const GgufFamily& family, std::int64_t layers) {
  for (const TensorRule& rule : family.tensors) {
    if (!rule.weight_required) continue;
    const bool in_layers = rule.gguf.find("{}") != std::string_view::npos;
    for (std::int64_t layer = 0; layer < (in_layers ? layers : 1); ++layer) {
      const std::string name = fill(rule.gguf, layer) + ".weight";
      if (file.find_tensor(name) == nullptr) fail(file, "the tensor '{}' is missing", name);
    }
  }
}

}  // namespace weft::checkpoint
