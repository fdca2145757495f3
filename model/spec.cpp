#include "model/spec.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string_view>

#include "core/error.h"

namespace weft::model {
namespace {

using nlohmann::json;

/// Where a family takes a bias from: never, always, or a key of config.json.
struct BiasRule {
  bool always = false;
  const char* key = nullptr;
};

/// Which layers attend to a window only.
enum class WindowRule {
  kNone,   // none
  kAll,    // sliding_window for every layer
  kUpper,  // use_sliding_window: layers from max_window_layers on, or as layer_types says
};

/// What distinguishes one family from another; the rest is read from config.json alike.
/// Defaults are those that transformers gives to absent keys.
struct Family {
  const char* architecture;
  const char* model_type;
  BiasRule qkv_bias;
  BiasRule o_bias;
  BiasRule mlp_bias;
  WindowRule window;
  std::int64_t default_kv_heads;  // 0: as many as heads
  std::int64_t default_max_positions;
};

constexpr std::array kFamilies{
    Family{"LlamaForCausalLM",
           "llama",
           {false, "attention_bias"},
           {false, "attention_bias"},
           {false, "mlp_bias"},
           WindowRule::kNone,
           0,
           2048},
    Family{"MistralForCausalLM", "mistral", {}, {}, {}, WindowRule::kAll, 8, 131072},
    Family{"Qwen2ForCausalLM", "qwen2", {true, nullptr}, {}, {}, WindowRule::kUpper, 32, 32768},
};

/// Keys that change the numbers of other families, or of remote code that borrows a family's name,
/// with the value at which they change nothing.
struct NeutralKey {
  const char* key;
  double neutral;
};
constexpr std::array kNeutralKeys{
    NeutralKey{"partial_rotary_factor", 1},
    NeutralKey{"rotary_pct", 1},
    NeutralKey{"rope_interleaved", 0},
    NeutralKey{"attention_dropout", 0},
    NeutralKey{"residual_dropout", 0},
    NeutralKey{"embedding_dropout", 0},
    NeutralKey{"embedding_multiplier", 1},
    NeutralKey{"residual_multiplier", 1},
    NeutralKey{"logits_scaling", 1},
    NeutralKey{"logit_scale", 1},
    NeutralKey{"scale_emb", 1},
    NeutralKey{"scale_depth", 1},
    NeutralKey{"attn_logit_softcapping", 0},
    NeutralKey{"final_logit_softcapping", 0},
    NeutralKey{"use_qk_norm", 0},
    NeutralKey{"qk_layernorm", 0},
    NeutralKey{"parallel_residual", 0},
    NeutralKey{"use_parallel_residual", 0},
    NeutralKey{"num_local_experts", 0},
    NeutralKey{"num_experts", 0},
};

class Reader {
 public:
  Reader(const json& config, const std::string& where) : config_(config), where_(where) {
    if (!config.is_object()) throw InputError("{}: a model's config.json must be an object", where);
  }

  [[nodiscard]] const std::string& where() const { return where_; }
  /// The value, or null where the key is absent or null.
  [[nodiscard]] const json& at(const char* key) const { return at(config_, key); }
  [[nodiscard]] static const json& at(const json& object, const char* key) {
    static const json kNull;
    const auto found = object.find(key);
    return found == object.end() ? kNull : *found;
  }

  [[nodiscard]] std::int64_t size(const char* key,
                                  std::optional<std::int64_t> fallback = {}) const {
    const json& value = at(key);
    if (value.is_null()) {
      if (fallback) return *fallback;
      throw InputError("{}: '{}' is missing, expected a positive number", where_, key);
    }
    // Products of two sizes must stay far from overflow, whatever the file says.
    constexpr std::int64_t kMost = std::int64_t{1} << 30;
    if (!value.is_number_integer() || value < 1 || value > kMost) {
      throw InputError("{}: '{}' is {}, expected a whole number from 1 to {}", where_, key,
                       value.dump(), kMost);
    }
    return value.get<std::int64_t>();
  }

  [[nodiscard]] double number(const json& object, const char* key,
                              std::optional<double> fallback) const {
    const json& value = at(object, key);
    if (value.is_null() && fallback) return *fallback;
    if (!value.is_number()) {
      throw InputError("{}: '{}' is {}, expected a number", where_, key,
                       value.is_null() ? "missing" : value.dump());
    }
    const double number = value.get<double>();
    if (!std::isfinite(number)) throw InputError("{}: '{}' is not finite", where_, key);
    return number;
  }

  [[nodiscard]] double positive(const json& object, const char* key,
                                std::optional<double> fallback) const {
    const double value = number(object, key, fallback);
    if (value <= 0) throw InputError("{}: '{}' is {}, expected more than 0", where_, key, value);
    return value;
  }

  [[nodiscard]] bool flag(const char* key, bool fallback) const {
    return flag(config_, key, fallback);
  }
  [[nodiscard]] bool flag(const json& object, const char* key, bool fallback) const {
    const json& value = at(object, key);
    if (value.is_null()) return fallback;
    if (!value.is_boolean()) {
      throw InputError("{}: '{}' is {}, expected true or false", where_, key, value.dump());
    }
    return value.get<bool>();
  }

  [[nodiscard]] const json& config() const { return config_; }

 private:
  const json& config_;
  const std::string& where_;
};

const Family& find_family(const Reader& reader) {
  const json& listed = reader.at("architectures");
  const json& type = reader.at("model_type");
  std::string found = "no 'architectures'";
  if (listed.is_array() && !listed.empty() && listed[0].is_string()) {
    found = listed[0].get<std::string>();
    for (const Family& family : kFamilies) {
      if (found == family.architecture) return family;
    }
  } else if (type.is_string()) {
    found = fmt::format("model_type {}", type.get<std::string>());
    for (const Family& family : kFamilies) {
      if (type == family.model_type) return family;
    }
  }
  throw InputError("{}: model family '{}' is not supported, only {}", reader.where(), found,
                   fmt::join(supported_architectures(), ", "));
}

[[noreturn]] void refuse(const Reader& reader, std::string_view key, const json& value,
                         std::string_view supported) {
  throw InputError("{}: '{}' is {}, which weft does not compute (supported: {})", reader.where(),
                   key, value.dump(), supported);
}

void refuse_foreign_keys(const Reader& reader) {
  for (const NeutralKey& entry : kNeutralKeys) {
    const json& value = reader.at(entry.key);
    const bool neutral = value.is_null() ||
                         (value.is_boolean() && value.get<bool>() == (entry.neutral != 0)) ||
                         (value.is_number() && value.get<double>() == entry.neutral);
    if (!neutral) refuse(reader, entry.key, value, fmt::format("{}", entry.neutral));
  }
  const json& packed = reader.at("quantization_config");
  if (!packed.is_null()) {
    throw InputError(
        "{}: 'quantization_config' says that the weights are packed by {}; take the model's "
        "plain weights (F32, F16, BF16) or a GGUF file",
        reader.where(),
        packed.is_object() ? packed.value("quant_method", "another program") : packed.dump());
  }
  const json& act = reader.at("hidden_act");
  if (!act.is_null() && act != "silu" && act != "swish") refuse(reader, "hidden_act", act, "silu");
}

RopeKind rope_kind(const Reader& reader, const json& rope) {
  const json& newer = Reader::at(rope, "rope_type");
  const json& type = newer.is_null() ? Reader::at(rope, "type") : newer;
  if (type.is_null() || type == "default") return RopeKind::kDefault;
  if (type == "linear") return RopeKind::kLinear;
  if (type == "dynamic") return RopeKind::kDynamic;
  if (type == "llama3") return RopeKind::kLlama3;
  if (type == "yarn") return RopeKind::kYarn;
  refuse(reader, "rope_type", type, "default, linear, dynamic, llama3, yarn");
}

/// The stretching keys of yarn; absent ones keep transformers' defaults.
void read_yarn(const Reader& reader, const json& json_rope, std::int64_t max_positions,
               Rope& rope) {
  const auto optional = [&](const char* key) -> std::optional<double> {
    if (Reader::at(json_rope, key).is_null()) return std::nullopt;
    return reader.number(json_rope, key, {});
  };
  if (Reader::at(json_rope, "factor").is_null()) {
    rope.factor =
        static_cast<double>(max_positions) / static_cast<double>(rope.original_max_positions);
  }
  rope.beta_fast = reader.positive(json_rope, "beta_fast", 32);
  rope.beta_slow = reader.positive(json_rope, "beta_slow", 1);
  rope.truncate = reader.flag(json_rope, "truncate", true);
  rope.attention_factor = optional("attention_factor");
  rope.mscale = optional("mscale");
  rope.mscale_all_dim = optional("mscale_all_dim");
}

Rope read_rope(const Reader& reader, const Spec& spec) {
  const json& older = reader.at("rope_scaling");
  const bool has_older = older.is_object() && !older.empty();
  const json& chosen = has_older ? older : reader.at("rope_parameters");
  const json scaling = chosen.is_null() ? json::object() : chosen;
  if (!scaling.is_object()) refuse(reader, "rope_parameters", scaling, "an object");
  for (const auto& [key, value] : scaling.items()) {
    if (value.is_object())
      refuse(reader, "rope_parameters." + key, value, "one rotary for all layers");
  }
  const json& partial = Reader::at(scaling, "partial_rotary_factor");
  if (!partial.is_null() && partial != 1) refuse(reader, "partial_rotary_factor", partial, "1");

  Rope rope;
  rope.kind = rope_kind(reader, scaling);
  rope.theta =
      reader.positive(scaling, "rope_theta", reader.positive(reader.config(), "rope_theta", 10000));
  if (rope.kind == RopeKind::kDefault) return rope;

  const bool from_ratio = rope.kind == RopeKind::kYarn && scaling.contains("factor");
  rope.factor =
      reader.positive(scaling, "factor", from_ratio ? std::optional<double>(1) : std::nullopt);
  if (rope.kind == RopeKind::kLlama3 || rope.kind == RopeKind::kYarn) {
    // A top-level key wins over the one in the object, as in transformers.
    const char* key = "original_max_position_embeddings";
    const double inside = reader.positive(scaling, key, static_cast<double>(spec.max_positions));
    rope.original_max_positions = reader.size(key, static_cast<std::int64_t>(inside));
  }
  if (rope.kind == RopeKind::kLlama3) {
    rope.low_freq_factor = reader.positive(scaling, "low_freq_factor", {});
    rope.high_freq_factor = reader.positive(scaling, "high_freq_factor", {});
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      refuse(reader, "high_freq_factor", Reader::at(scaling, "high_freq_factor"),
             "more than low_freq_factor");
    }
  }
  if (rope.kind == RopeKind::kYarn) read_yarn(reader, scaling, spec.max_positions, rope);
  if (rope.kind == RopeKind::kDynamic && spec.head_dim == 2) {
    refuse(reader, "rope_type", "dynamic", "a head_dim above 2");
  }
  return rope;
}

std::int64_t read_window(const Reader& reader, std::optional<std::int64_t> fallback) {
  if (reader.config().contains("sliding_window") && reader.at("sliding_window").is_null()) return 0;
  return reader.size("sliding_window", fallback);
}

std::vector<std::int64_t> read_windows(const Reader& reader, const Family& family,
                                       std::int64_t layers) {
  std::vector<std::int64_t> windows(static_cast<std::size_t>(layers), 0);
  const json& types = reader.at("layer_types");
  const bool listed = types.is_array() && types.size() == windows.size();
  if (!types.is_null() && !listed) refuse(reader, "layer_types", types, "one entry a layer");
  std::int64_t width = 0;
  if (family.window == WindowRule::kAll) width = read_window(reader, 4096);
  if (family.window == WindowRule::kUpper && reader.flag("use_sliding_window", false)) {
    width = read_window(reader, 4096);
  }
  const std::int64_t first = family.window == WindowRule::kUpper && width > 0 && !listed
                                 ? reader.size("max_window_layers", 28)
                                 : 0;
  for (std::size_t i = 0; i < windows.size(); ++i) {
    const bool slides =
        listed ? types[i] == "sliding_attention" : static_cast<std::int64_t>(i) >= first;
    if (listed && !slides && types[i] != "full_attention") {
      refuse(reader, "layer_types", types[i], "full_attention, sliding_attention");
    }
    // A list that contradicts what the family computes is refused rather than ignored.
    if (listed &&
        ((slides && width == 0) || (!slides && family.window == WindowRule::kAll && width > 0))) {
      refuse(reader, "layer_types", types[i],
             fmt::format("what {} does in every layer", family.architecture));
    }
    windows[i] = slides ? width : 0;
  }
  return windows;
}

bool read_bias(const Reader& reader, const BiasRule& rule) {
  return rule.always || (rule.key != nullptr && reader.flag(rule.key, false));
}

void refuse_unsupported_biases(const Reader& reader, const Family& family) {
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    const bool known = std::ranges::any_of(
        std::array{family.qkv_bias, family.o_bias, family.mlp_bias}, [&](const BiasRule& rule) {
          return rule.key != nullptr && std::string_view(rule.key) == key;
        });
    if (!known && reader.flag(key, false)) {
      refuse(reader, key, true, fmt::format("false for {}", family.architecture));
    }
  }
}

void check_heads(const Reader& reader, const Spec& spec) {
  if (spec.heads % spec.kv_heads != 0) {
    throw InputError("{}: num_attention_heads {} is not a multiple of num_key_value_heads {}",
                     reader.where(), spec.heads, spec.kv_heads);
  }
  if (spec.head_dim % 2 != 0) {
    throw InputError("{}: head_dim {} is odd, rotary positions turn pairs", reader.where(),
                     spec.head_dim);
  }
}

}  // namespace

std::vector<std::string> supported_architectures() {
  std::vector<std::string> result;
  for (const Family& family : kFamilies) result.emplace_back(family.architecture);
  return result;
}

Spec read_spec(const json& config, const std::string& where) {
  const Reader reader(config, where);
  const Family& family = find_family(reader);
  refuse_foreign_keys(reader);
  refuse_unsupported_biases(reader, family);
  Spec spec;
  spec.architecture = family.architecture;
  spec.vocabulary = reader.size("vocab_size");
  spec.hidden = reader.size("hidden_size");
  spec.layers = reader.size("num_hidden_layers");
  spec.heads = reader.size("num_attention_heads");
  const bool names_kv = config.contains("num_key_value_heads");
  const bool own_default = family.default_kv_heads > 0 && !names_kv;
  spec.kv_heads =
      reader.size("num_key_value_heads", own_default ? family.default_kv_heads : spec.heads);
  if (reader.at("head_dim").is_null() && spec.hidden % spec.heads != 0) {
    throw InputError(
        "{}: hidden_size {} is not a multiple of num_attention_heads {} and there is no head_dim",
        where, spec.hidden, spec.heads);
  }
  spec.head_dim = reader.size("head_dim", std::max<std::int64_t>(1, spec.hidden / spec.heads));
  spec.intermediate = reader.size("intermediate_size");
  spec.max_positions = reader.size("max_position_embeddings", family.default_max_positions);
  spec.norm_eps = reader.number(config, "rms_norm_eps", 1e-6);
  if (spec.norm_eps < 0)
    throw InputError("{}: 'rms_norm_eps' is {}, expected 0 or more", where, spec.norm_eps);
  spec.qkv_bias = read_bias(reader, family.qkv_bias);
  spec.o_bias = read_bias(reader, family.o_bias);
  spec.mlp_bias = read_bias(reader, family.mlp_bias);
  spec.tied_head = reader.flag("tie_word_embeddings", false);
  check_heads(reader, spec);
  spec.rope = read_rope(reader, spec);
  spec.windows = read_windows(reader, family, spec.layers);
  return spec;
}

std::string names::layer(std::int64_t index, const char* module) {
  return fmt::format("model.layers.{}.{}", index, module);
}

std::vector<lora::Module> linear_modules(const Spec& spec) {
  std::vector<lora::Module> modules;
  for (std::int64_t i = 0; i < spec.layers; ++i) {
    const auto add = [&](const char* name, std::int64_t in, std::int64_t out) {
      modules.push_back({.path = names::layer(i, name), .in = in, .out = out});
    };
    add(names::kQ, spec.hidden, spec.q_width());
    add(names::kK, spec.hidden, spec.kv_width());
    add(names::kV, spec.hidden, spec.kv_width());
    add(names::kO, spec.q_width(), spec.hidden);
    add(names::kGate, spec.hidden, spec.intermediate);
    add(names::kUp, spec.hidden, spec.intermediate);
    add(names::kDown, spec.intermediate, spec.hidden);
  }
  return modules;
}

std::vector<WeightShape> weight_shapes(const Spec& spec) {
  std::vector<WeightShape> shapes;
  const auto add = [&](const std::string& module, std::vector<std::int64_t> shape,
                       bool bias = false) {
    const std::int64_t out = shape.front();
    shapes.push_back({module + ".weight", std::move(shape)});
    if (bias) shapes.push_back({module + ".bias", {out}});
  };
  add(names::kEmbedding, {spec.vocabulary, spec.hidden});
  for (std::int64_t i = 0; i < spec.layers; ++i) {
    const auto in_layer = [&](const char* module) { return names::layer(i, module); };
    add(in_layer(names::kInputNorm), {spec.hidden});
    add(in_layer(names::kQ), {spec.q_width(), spec.hidden}, spec.qkv_bias);
    add(in_layer(names::kK), {spec.kv_width(), spec.hidden}, spec.qkv_bias);
    add(in_layer(names::kV), {spec.kv_width(), spec.hidden}, spec.qkv_bias);
    add(in_layer(names::kO), {spec.hidden, spec.q_width()}, spec.o_bias);
    add(in_layer(names::kMlpNorm), {spec.hidden});
    add(in_layer(names::kGate), {spec.intermediate, spec.hidden}, spec.mlp_bias);
    add(in_layer(names::kUp), {spec.intermediate, spec.hidden}, spec.mlp_bias);
    add(in_layer(names::kDown), {spec.hidden, spec.intermediate}, spec.mlp_bias);
  }
  add(names::kFinalNorm, {spec.hidden});
  if (!spec.tied_head) add(names::kHead, {spec.vocabulary, spec.hidden});
  return shapes;
}

Spec read_spec(const checkpoint::Checkpoint& checkpoint) {
  const json& config = checkpoint.config();
  const auto tensors = std::ssize(checkpoint.tensors());
  const auto layers = config.find("num_hidden_layers");
  if (layers != config.end() && layers->is_number_integer() &&
      layers->get<std::int64_t>() > tensors) {
    throw InputError("{}: num_hidden_layers is {}, and the model has {} tensors in all",
                     checkpoint.path().string(), layers->dump(), tensors);
  }
  return read_spec(config, checkpoint.path().string());
}

}  // namespace weft::model
