#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <variant>
#include <vector>

#include "checkpoint/gguf_family.h"
#include "checkpoint/printable.h"
#include "core/error.h"

namespace weft::checkpoint {
namespace {

using nlohmann::json;
using Absent = GgufKey::Absent;

/// The metadata of an architecture: key("rope.freq_base").
class Key {
 public:
  explicit Key(std::string_view architecture) : architecture_(architecture) {}
  std::string operator()(std::string_view name) const {
    return fmt::format("{}.{}", architecture_, name);
  }

 private:
  std::string_view architecture_;
};

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

std::int64_t count_or(const Gguf& file, const std::string& key, std::int64_t otherwise) {
  const auto value = file.integer(key);
  return value ? checked_count(file, key, *value) : otherwise;
}

std::int64_t required_count(const Gguf& file, const std::string& key) {
  const auto value = file.integer(key);
  if (!value) fail(file, "metadata '{}' is missing", key);
  return checked_count(file, key, *value);
}

double positive_real(const Gguf& file, const std::string& key, double value) {
  if (!std::isfinite(value) || value <= 0) {
    fail(file, "metadata '{}' is {}, expected a positive number", key, value);
  }
  return value;
}

std::vector<float> read_factors(const Gguf& file, const GgufTensor& tensor, std::int64_t count) {
  const std::span<const std::byte> bytes = file.bytes(tensor);
  if (tensor.type->name != "F32" ||
      bytes.size() != static_cast<std::size_t>(count) * sizeof(float)) {
    fail(file, "tensor '{}' must hold {} values of F32", tensor.name, count);
  }
  std::vector<float> stored(static_cast<std::size_t>(count));
  std::memcpy(stored.data(), bytes.data(), bytes.size());
  return stored;
}

/// Llama 3's scaling is in no key: the converter bakes it into the tensor rope_freqs.weight. Its
/// parameters are recovered and must give the stored factors back; anything else is refused rather
/// than dropped (transformers drops it and computes other numbers).
json scaling_from_factors(const Gguf& file, const GgufTensor& tensor, double theta,
                          std::int64_t head_dim) {
  static constexpr double kTolerance = 1e-4;  // The converter's powers are in single precision.
  const std::vector<float> stored = read_factors(file, tensor, head_dim / 2);
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

json scaling_from_metadata(const Gguf& file, const Key& key, std::int64_t context, bool own_yarn) {
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
  if (own_yarn) scaling["truncate"] = false;
  // llama.cpp multiplies its own 0.1 ln(factor) + 1 by this; transformers replaces it.
  if (const auto attention = file.real(key("rope.scaling.attn_factor"))) {
    scaling["attention_factor"] = *attention * (0.1 * std::log(factor) + 1.0);
  }
  return scaling;
}

/// Phi-3's factors for each pair of dimensions, for short and for long texts.
json longrope_scaling(const Gguf& file, const Key& key, std::int64_t width, std::int64_t context) {
  json scaling = {{"type", "longrope"}};
  for (const auto& [name, config] : {std::pair("rope_factors_long.weight", "long_factor"),
                                     std::pair("rope_factors_short.weight", "short_factor")}) {
    const GgufTensor* const tensor = file.find_tensor(name);
    if (tensor == nullptr) fail(file, "the tensor '{}' is missing", name);
    scaling[config] = read_factors(file, *tensor, width / 2);
  }
  // transformers computes the same of the two lengths; anything else has to be said.
  const auto original =
      static_cast<double>(count_or(file, key("rope.scaling.original_context_length"), context));
  const double stretch = static_cast<double>(context) / original;
  const double usual = stretch > 1 ? std::sqrt(1 + std::log(stretch) / std::log(original)) : 1.0;
  const double stated = file.real(key("rope.scaling.attn_factor")).value_or(usual);
  if (std::abs(stated - usual) > 1e-5 * usual) scaling["attention_factor"] = stated;
  return scaling;
}

/// The type in which the model's numbers lie without loss: that of the embeddings and projections.
std::string_view natural_dtype(const Gguf& file) {
  bool all_f16 = true;
  bool all_bf16 = true;
  for (const GgufTensor& tensor : file.tensors()) {
    if (tensor.shape.size() < 2) continue;  // Norms are F32 in every file.
    // Routers and the biases of stacks too; MXFP4 lies in BF16 without loss.
    if (tensor.name.find("ffn_gate_inp") != std::string::npos || tensor.name.ends_with(".bias")) {
      continue;
    }
    all_f16 = all_f16 && tensor.type->name == "F16";
    all_bf16 = all_bf16 && (tensor.type->name == "BF16" || tensor.type->name == "MXFP4");
  }
  return all_f16 ? "float16" : all_bf16 ? "bfloat16" : "float32";
}

/// One number of config.json, from its key; the family's own value, or nothing, where the file
/// lacks it.
json number_of(const Gguf& file, const Key& key, const GgufKey& entry) {
  const std::string name = key(entry.gguf);
  if (file.find(name) == nullptr) {
    const bool always_said =
        entry.gguf.find("_epsilon") != std::string_view::npos || entry.gguf.starts_with("expert_");
    if (entry.absent == Absent::kOmitted) return nullptr;
    if (entry.absent != Absent::kDefault || always_said) {
      fail(file, "metadata '{}' is missing", name);
    }
    if (entry.kind == GgufKey::Kind::kFlag) return entry.fallback != 0;
    if (entry.kind == GgufKey::Kind::kReal) return entry.fallback;
    return static_cast<std::int64_t>(entry.fallback);
  }
  switch (entry.kind) {
    case GgufKey::Kind::kFlag: return file.boolean(name).value();
    case GgufKey::Kind::kReal: return positive_real(file, name, file.real(name).value());
    case GgufKey::Kind::kCount: break;
  }
  const std::int64_t value = file.integer(name).value();
  // No window, as converters of Phi-3 say it.
  if (value == 0 && entry.absent == Absent::kOmitted && entry.gguf.ends_with("sliding_window")) {
    return nullptr;
  }
  return checked_count(file, name, value);
}

/// Heads, which say how q and k are cut.
struct Heads {
  std::int64_t count = 0;
  std::int64_t keys = 0;
  std::int64_t width = 0;
};

Heads read_heads(const Gguf& file, const Key& key) {
  Heads heads;
  const std::int64_t hidden = required_count(file, key("embedding_length"));
  heads.count = required_count(file, key("attention.head_count"));
  heads.keys = count_or(file, key("attention.head_count_kv"), heads.count);
  if (heads.count % heads.keys != 0) {
    fail(file, "{} attention heads cannot share {} key-value heads", heads.count, heads.keys);
  }
  if (hidden % heads.count != 0 && !file.find(key("attention.key_length"))) {
    fail(file, "a width of {} cannot be cut into {} heads", hidden, heads.count);
  }
  heads.width = count_or(file, key("attention.key_length"), hidden / heads.count);
  if (heads.width % 2 != 0) fail(file, "a head width of {} is not even", heads.width);
  if (count_or(file, key("attention.value_length"), heads.width) != heads.width) {
    fail(file, "key and value heads of different width are not supported");
  }
  return heads;
}

std::string first_spelling(std::string_view keys) {
  return std::string(keys.substr(0, keys.find('|')));
}

/// The key of the length. Baichuan's models of 40 layers, which have slopes for positions, are
/// known by another name than those that turn.
std::string context_name(const Gguf& file, const Key& key, const GgufForm& form,
                         const GgufKey& entry) {
  constexpr std::string_view kUsual = "max_position_embeddings";
  if (form.architecture == "baichuan" && count_or(file, key("block_count"), 1) == 40) {
    return "model_max_length";
  }
  const bool usual = entry.config.find(kUsual) != std::string_view::npos;
  return usual ? std::string(kUsual) : first_spelling(entry.config);
}

void add_numbers(const Gguf& file, const Key& key, const GgufForm& form, const Heads& heads,
                 json& config) {
  for (const GgufKey& entry : form.keys) {
    std::string name = first_spelling(entry.config);
    if (entry.gguf == "context_length") name = context_name(file, key, form, entry);
    if (entry.gguf == "attention.head_count_kv") {
      if (!name.empty()) config[name] = heads.keys;
    } else if (entry.gguf == "attention.key_length" || entry.gguf == "attention.value_length") {
      config[name] = heads.width;
    } else if (entry.gguf == "vocab_size") {
      continue;  // The embedding has it.
    } else if (const json value = number_of(file, key, entry); !value.is_null()) {
      config[name] = value;
    }
  }
}

void add_rotation(const Gguf& file, const Key& key, const GgufForm& form, const Heads& heads,
                  json& config) {
  const GgufRotation& rotation = form.rotation;
  if (rotation.theta == 0) return;
  const std::int64_t width = count_or(file, key("rope.dimension_count"), heads.width);
  if (rotation.partial.empty() && width != heads.width) {
    fail(file, "rotary positions on {} of {} dimensions of a head are not supported", width,
         heads.width);
  }
  if (!rotation.partial.empty()) {
    config[std::string(rotation.partial)] =
        static_cast<double>(width) / static_cast<double>(heads.width);
  }
  const double theta = positive_real(file, key("rope.freq_base"),
                                     file.real(key("rope.freq_base")).value_or(10000.0));
  config["rope_theta"] = theta;
  if (rotation.local_theta != 0) {
    config["rope_local_base_freq"] = file.real(key("rope.freq_base_swa")).value_or(10000.0);
  }
  if (!rotation.ratio.empty()) config[std::string(rotation.ratio)] = theta / 10000.0;
  const std::int64_t context = count_or(file, key("context_length"), 1);
  const GgufTensor* const factors = file.find_tensor("rope_freqs.weight");
  if (rotation.longrope && file.find_tensor("rope_factors_long.weight") != nullptr) {
    config["rope_scaling"] = longrope_scaling(file, key, width, context);
  } else if (rotation.llama3 && factors != nullptr) {
    config["rope_scaling"] = scaling_from_factors(file, *factors, theta, heads.width);
  } else {
    config["rope_scaling"] = scaling_from_metadata(file, key, context, rotation.own_yarn);
  }
}

/// Which layers attend to a window.
void add_windows(const Gguf& file, const Key& key, const GgufForm& form, json& config) {
  if (form.window_period == 0) return;
  const std::string pattern = key("attention.sliding_window_pattern");
  const auto layers = count_or(file, key("block_count"), 1);
  std::vector<bool> slides;
  const GgufEntry* const entry = file.find(pattern);
  if (entry != nullptr && entry->type == GgufType::kArray) {
    const auto& listed = std::get<GgufArray>(entry->value);
    if (listed.element != GgufType::kBool || std::cmp_not_equal(listed.count, layers)) {
      fail(file, "metadata '{}' must be true or false for each of {} layers", pattern, layers);
    }
    for (const std::byte value : listed.raw) slides.push_back(value != std::byte{0});
  } else {
    const std::int64_t period = count_or(file, pattern, form.window_period);
    const bool windows = file.integer(key("attention.sliding_window")).value_or(0) != 0 ||
                         form.architecture != "gemma3";
    for (std::int64_t layer = 0; layer < layers; ++layer) {
      slides.push_back(windows && (layer + 1) % period != 0);
    }
  }
  json& types = config["layer_types"] = json::array();
  for (const bool window : slides) types.push_back(window ? "sliding_attention" : "full_attention");
}

/// Experts where the family has none, too many to be meant, and another way to weigh them.
void refuse_other_experts(const Gguf& file, const Key& key, const Family& family) {
  constexpr std::int64_t kMost = std::int64_t{1} << 16;
  const std::int64_t experts = file.integer(key("expert_count")).value_or(0);
  if (find_row(family, Part::kRouter) == nullptr && experts != 0) {
    fail(file, "a mixture of experts ('{}' is {}) without their tensors is not supported",
         key("expert_count"), experts);
  }
  if (experts > kMost)
    fail(file, "metadata '{}' is {}, at most {} are supported", key("expert_count"), experts,
         kMost);
  const double scale = file.real(key("expert_weights_scale")).value_or(1);
  if (scale != 0 && scale != 1) {
    fail(file, "metadata '{}' is {}, and weights of experts with a scale are not supported",
         key("expert_weights_scale"), scale);
  }
}

/// What the architecture computes without saying it, and config.json has to.
void add_implied(const Gguf& file, const GgufForm& form, const Heads& heads, json& config) {
  if (form.architecture == "gemma2" || form.architecture == "gemma3") {
    config["query_pre_attn_scalar"] = gemma_attention_scalar(
        config["num_hidden_layers"].get<std::int64_t>(), form,
        config["hidden_size"].get<std::int64_t>() / heads.count, heads.width);
  }
  if (form.architecture == "falcon") {
    const bool two_norms = file.find_tensor("blk.0.attn_norm_2.weight") != nullptr;
    const bool grouped = two_norms || (heads.keys != 1 && heads.keys != heads.count);
    config["new_decoder_architecture"] = grouped;
    config["multi_query"] = heads.keys == 1;
    if (grouped) config["num_ln_in_parallel_attn"] = two_norms ? 2 : 1;
    config["parallel_attn"] = true;
    config["alibi"] = false;
    config["bias"] = false;
  }
}

}  // namespace

std::int64_t gemma_attention_scalar(std::int64_t layers, const GgufForm& form,
                                    std::int64_t quotient, std::int64_t head_dim) {
  return layers == (form.architecture == "gemma2" ? 46 : 62) ? quotient : head_dim;
}

nlohmann::json gguf_config(const Gguf& file, const Family& family) {
  const GgufForm& form = *family.gguf;
  const Key key(form.architecture);
  refuse_other_experts(file, key, family);
  json config = {{"architectures", {family.architecture}}, {"model_type", family.model_type}};
  if (!form.activation_key.empty()) config[std::string(form.activation_key)] = form.activation;
  const Heads heads = read_heads(file, key);
  if (const auto layers = required_count(file, key("block_count"));
      layers > std::ssize(file.tensors())) {
    fail(file, "metadata '{}' is {}, and the file has {} tensors", key("block_count"), layers,
         file.tensors().size());
  }
  add_numbers(file, key, form, heads, config);

  const GgufTensor* const embedding = file.find_tensor("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    fail(file, "the tensor 'token_embd.weight' is missing or no matrix");
  }
  config["vocab_size"] = embedding->shape[0];
  if (family.model_type == "chatglm") {
    config["padded_vocab_size"] = embedding->shape[0];
    config["multi_query_attention"] = heads.keys != heads.count;
  }
  config["tie_word_embeddings"] = file.find_tensor("output.weight") == nullptr;
  add_rotation(file, key, form, heads, config);
  add_windows(file, key, form, config);
  for (const BiasRule& rule : form.biases) {
    config[std::string(rule.config)] = std::ranges::any_of(
        file.tensors(),
        [&](const GgufTensor& tensor) { return tensor.name.find(rule.gguf) != std::string::npos; });
  }
  for (const NeutralKey& entry : form.neutral) {
    if (!entry.by_default) config[std::string(entry.config)] = entry.neutral != 0;
  }
  add_implied(file, form, heads, config);
  // Families have a padding token by default, which may be none of the vocabulary.
  config["pad_token_id"] = nullptr;
  // A file holds the head as it is computed with: Baichuan 2's rows have been divided already.
  if (family.model_type == "baichuan") config["norm_head"] = false;
  config["torch_dtype"] = natural_dtype(file);
  for (const auto& [name, id] : {std::pair("bos_token_id", "tokenizer.ggml.bos_token_id"),
                                 std::pair("eos_token_id", "tokenizer.ggml.eos_token_id"),
                                 std::pair("pad_token_id", "tokenizer.ggml.padding_token_id")}) {
    if (const auto value = file.integer(id)) config[name] = *value;
  }
  return config;
}

}  // namespace weft::checkpoint
