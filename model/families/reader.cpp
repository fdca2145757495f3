#include "model/families/reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "checkpoint/roles.h"
#include "core/error.h"
#include "core/suggest.h"

namespace weft::model::families {
namespace {

using checkpoint::Part;
using nlohmann::json;

/// Keys that change the numbers of some family, or of remote code that borrows a family's name,
/// with the value at which they change nothing.
struct NeutralKey {
  const char* key;
  double neutral;
};
constexpr std::array kNeutralKeys{
    NeutralKey{"partial_rotary_factor", 1},
    NeutralKey{"rotary_pct", 1},
    NeutralKey{"rope_interleaved", 0},
    NeutralKey{"embedding_multiplier", 1},
    NeutralKey{"residual_multiplier", 1},
    NeutralKey{"attention_multiplier", 1},
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
    NeutralKey{"parallel_attn", 0},
    NeutralKey{"alibi", 0},
    NeutralKey{"attention_bias", 0},
    NeutralKey{"mlp_bias", 0},
    NeutralKey{"use_bidirectional_attention", 0},
    NeutralKey{"apply_residual_connection_post_layernorm", 0},
    NeutralKey{"scale_attn_by_inverse_layer_idx", 0},
    NeutralKey{"num_local_experts", 0},
    NeutralKey{"num_experts", 0},
    NeutralKey{"clip_qkv", 0},
};

/// Dropout inside the base, which is for pre-training: nothing here applies it.
constexpr std::array kDropouts{"activation_dropout",
                               "hidden_dropout_prob",
                               "attention_probs_dropout_prob",
                               "attention_dropout",
                               "attn_pdrop",
                               "resid_pdrop",
                               "embd_pdrop",
                               "residual_dropout",
                               "embedding_dropout",
                               "hidden_dropout",
                               "dropout",
                               "layerdrop"};

const checkpoint::Family& find_family(const json& config, const std::string& where) {
  if (const checkpoint::Family* const family = checkpoint::find_family(config)) return *family;
  const json& listed = Reader::at(config, "architectures");
  const json& type = Reader::at(config, "model_type");
  std::string found;
  if (listed.is_array() && !listed.empty() && listed[0].is_string()) {
    found = listed[0].get<std::string>();
  } else if (type.is_string()) {
    found = type.get<std::string>();
  }
  const std::vector<std::string> known = supported_architectures();
  std::vector<std::string> names = known;
  for (const checkpoint::Family& family : checkpoint::families())
    names.emplace_back(family.model_type);
  const std::string near = found.empty() ? "" : core::nearest(found, names);
  throw InputError("{}: model family '{}' is not supported{}, only {}", where,
                   found.empty() ? "no 'architectures'" : found,
                   near.empty() ? "" : fmt::format(" (nearest: '{}')", near),
                   fmt::join(known, ", "));
}

RopeKind rope_kind(const Reader& reader, const json& rope) {
  const json& newer = Reader::at(rope, "rope_type");
  const json& type = newer.is_null() ? Reader::at(rope, "type") : newer;
  if (type.is_null() || type == "default") return RopeKind::kDefault;
  if (type == "linear") return RopeKind::kLinear;
  if (type == "dynamic") return RopeKind::kDynamic;
  if (type == "llama3") return RopeKind::kLlama3;
  if (type == "yarn") return RopeKind::kYarn;
  if (type == "longrope" || type == "su") return RopeKind::kLongRope;
  reader.refuse("rope_type", type, "default, linear, dynamic, llama3, yarn, longrope");
}

std::optional<double> optional_number(const Reader& reader, const json& object, const char* key) {
  if (Reader::at(object, key).is_null()) return std::nullopt;
  return reader.number(object, key, {});
}

/// Scaling keys of yarn; absent ones keep transformers' defaults.
void read_yarn(const Reader& reader, const json& scaling, Rope& rope) {
  rope.beta_fast = reader.positive(scaling, "beta_fast", 32);
  rope.beta_slow = reader.positive(scaling, "beta_slow", 1);
  rope.truncate = reader.flag(scaling, "truncate", true);
  rope.mscale = optional_number(reader, scaling, "mscale");
  rope.mscale_all_dim = optional_number(reader, scaling, "mscale_all_dim");
}

std::vector<double> factors_of(const Reader& reader, const json& scaling, const char* key,
                               std::int64_t planes) {
  const json& list = Reader::at(scaling, key);
  const bool fits =
      list.is_array() && std::ssize(list) == planes &&
      std::ranges::all_of(list, [](const json& v) { return v.is_number() && v.get<double>() > 0; });
  if (!fits) reader.refuse(key, list, fmt::format("a list of {} positive numbers", planes));
  return list.get<std::vector<double>>();
}

/// The object with the rotary parameters: rope_scaling of transformers 4, rope_parameters of 5,
/// which may hold one object for each kind of layer.
json scaling_of(const Reader& reader, const char* layer_type) {
  const json& older = reader.at("rope_scaling");
  const bool has_older = older.is_object() && !older.empty();
  const json& chosen = has_older ? older : reader.at("rope_parameters");
  json scaling = chosen.is_null() ? json::object() : chosen;
  if (!scaling.is_object()) reader.refuse("rope_parameters", scaling, "an object");
  if (layer_type != nullptr && scaling.contains(layer_type)) {
    scaling = scaling[layer_type];
    if (!scaling.is_object()) reader.refuse("rope_parameters", scaling, "an object");
  }
  for (const auto& [key, value] : scaling.items()) {
    if (value.is_object())
      reader.refuse("rope_parameters." + key, value, "one rotary for all layers");
  }
  return scaling;
}

/// config.json of the text model that a model of text and images holds, as that of the text model
/// alone; others as they are.
json text_part(const json& config) {
  const auto type = config.find("model_type");
  const auto text = config.find("text_config");
  if (type == config.end() || *type != "gemma3" || text == config.end() || !text->is_object())
    return config;
  json part = *text;
  part["architectures"] = {"Gemma3ForCausalLM"};
  part["model_type"] = "gemma3_text";
  for (const char* key : {"tie_word_embeddings", "quantization_config"})
    if (config.contains(key)) part[key] = config[key];
  return part;
}

/// Where the text model lies in it, in the order of transformers' versions.
constexpr std::array kTextPrefixes{"model.language_model.", "language_model.model."};

}  // namespace

Reader::Reader(const json& config, const std::string& where, HasTensor has)
    : where_(where), has_(std::move(has)) {
  if (!config.is_object()) throw InputError("{}: a model's config.json must be an object", where);
  config_ = text_part(config);
  family_ = &find_family(config_, where);
  if (config_.size() == config.size() && config_ == config) return;
  prefix_ = kTextPrefixes.front();
  for (const char* prefix : kTextPrefixes)
    if (stores(std::string(prefix) + "embed_tokens.weight")) prefix_ = prefix;
}

std::string Reader::stored_name(std::string_view name) const {
  constexpr std::string_view kPlain = "model.";
  if (prefix_.empty() || !name.starts_with(kPlain)) return std::string(name);
  return prefix_ + std::string(name.substr(kPlain.size()));
}

std::vector<std::string> Reader::other_parts() const {
  if (prefix_.empty()) return {};
  return {"vision_tower.", "multi_modal_projector.", "model.vision_tower.",
          "model.multi_modal_projector."};
}

const json& Reader::at(const char* key) const {
  read_.emplace(key);
  return at(config_, key);
}

const json& Reader::at(const json& object, const char* key) {
  static const json kNull;
  const auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}

std::int64_t Reader::size(const char* key, std::optional<std::int64_t> fallback) const {
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

std::int64_t Reader::count(const char* key, std::int64_t fallback) const {
  return at(key) == 0 ? 0 : size(key, fallback);
}

std::int64_t Reader::size(std::initializer_list<const char*> keys,
                          std::optional<std::int64_t> fallback) const {
  for (const char* key : keys)
    if (!at(key).is_null()) return size(key);
  return size(*keys.begin(), fallback);
}

double Reader::number(const char* key, std::optional<double> fallback) const {
  read_.emplace(key);
  return number(config_, key, fallback);
}

double Reader::number(const json& object, const char* key, std::optional<double> fallback) const {
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

double Reader::positive(const json& object, const char* key, std::optional<double> fallback) const {
  const double value = number(object, key, fallback);
  if (value <= 0) throw InputError("{}: '{}' is {}, expected more than 0", where_, key, value);
  return value;
}

double Reader::not_negative(const char* key, double fallback) const {
  const double value = number(key, fallback);
  if (value < 0) throw InputError("{}: '{}' is {}, expected 0 or more", where_, key, value);
  return value;
}

bool Reader::flag(const char* key, bool fallback) const {
  read_.emplace(key);
  return flag(config_, key, fallback);
}

bool Reader::flag(const json& object, const char* key, bool fallback) const {
  const json& value = at(object, key);
  if (value.is_null()) return fallback;
  if (!value.is_boolean()) {
    throw InputError("{}: '{}' is {}, expected true or false", where_, key, value.dump());
  }
  return value.get<bool>();
}

Activation Reader::activation(std::initializer_list<const char*> keys, Activation fallback) const {
  struct Name {
    const char* name;
    Activation activation;
  };
  static constexpr std::array kNames{
      Name{"silu", Activation::kSilu},          Name{"swish", Activation::kSilu},
      Name{"gelu", Activation::kGelu},          Name{"gelu_new", Activation::kGeluTanh},
      Name{"gelu_fast", Activation::kGeluTanh}, Name{"gelu_pytorch_tanh", Activation::kGeluTanh},
      Name{"relu", Activation::kRelu}};
  for (const char* key : keys) {
    const json& value = at(key);
    if (value.is_null()) continue;
    const auto found =
        std::ranges::find_if(kNames, [&](const Name& one) { return value == one.name; });
    if (found != kNames.end()) return found->activation;
    refuse(key, value, "silu, gelu, gelu_new, gelu_pytorch_tanh, relu");
  }
  return fallback;
}

void Reader::require(const char* key, const json& wanted) const {
  const json& value = at(key);
  if (!value.is_null() && value != wanted)
    refuse(key, value, fmt::format("{} for {}", wanted.dump(), family_->architecture));
}

void Reader::refuse(std::string_view key, const json& value, std::string_view supported) const {
  throw InputError("{}: '{}' is {}, which weft does not compute (supported: {})", where_, key,
                   value.dump(), supported);
}

void Reader::refuse_unread() const {
  for (const NeutralKey& entry : kNeutralKeys) {
    if (read_.contains(entry.key)) continue;
    const json& value = at(config_, entry.key);
    const bool neutral = value.is_null() ||
                         (value.is_boolean() && value.get<bool>() == (entry.neutral != 0)) ||
                         (value.is_number() && value.get<double>() == entry.neutral);
    if (!neutral)
      refuse(entry.key, value, fmt::format("{} for {}", entry.neutral, family_->architecture));
  }
  const json& packed = at(config_, "quantization_config");
  // Experts in MXFP4 are read as they are (checkpoint/).
  const bool readable = packed.is_object() && packed.value("quant_method", "") == "mxfp4" &&
                        row(Part::kExpertsGateUp) != nullptr;
  if (!packed.is_null() && !readable) {
    throw InputError(
        "{}: 'quantization_config' says that the weights are packed by {}; take the model's "
        "plain weights (F32, F16, BF16) or a GGUF file",
        where_,
        packed.is_object() ? packed.value("quant_method", "another program") : packed.dump());
  }
}

const checkpoint::TensorRow* Reader::row(Part part) const {
  if (!has_) return checkpoint::find_row(*family_, part);
  return checkpoint::find_row(*family_, part,
                              [&](std::string_view name) { return has_(stored_name(name)); });
}

bool Reader::ties_head() const { return checkpoint::ties_head(config_, where_); }

std::string Reader::path(Part part, std::int64_t layer, std::int64_t expert) const {
  const checkpoint::TensorRow* const found = row(part);
  return found == nullptr ? std::string()
                          : stored_name(checkpoint::numbered(found->name, layer, expert));
}

Spec sizes(const Reader& reader, std::int64_t default_positions,
           std::optional<std::int64_t> default_vocabulary) {
  Spec spec;
  spec.architecture = reader.family().architecture;
  spec.vocabulary = reader.size("vocab_size", default_vocabulary);
  spec.hidden = reader.size({"hidden_size", "n_embd", "n_embed"});
  spec.max_positions = reader.size(
      {"max_position_embeddings", "n_positions", "n_ctx", "model_max_length", "seq_length"},
      default_positions);
  for (const char* key : kDropouts) {
    if (reader.at(key).is_number() && reader.at(key) != 0) spec.dropouts.emplace_back(key);
  }
  return spec;
}

AttentionSpec attention(const Reader& reader, const Spec& spec, const HeadDefaults& defaults) {
  AttentionSpec result;
  result.heads = reader.size({"num_attention_heads", "n_head", "num_heads"}, defaults.heads);
  const bool own_default = defaults.kv_heads > 0 && !reader.names("num_key_value_heads");
  result.kv_heads =
      reader.size("num_key_value_heads", own_default ? defaults.kv_heads : result.heads);
  const bool own_dim = defaults.head_dim > 0 && !reader.names("head_dim");
  if (!own_dim && reader.at("head_dim").is_null() && spec.hidden % result.heads != 0) {
    throw InputError(
        "{}: hidden_size {} is not a multiple of num_attention_heads {} and there is no head_dim",
        reader.where(), spec.hidden, result.heads);
  }
  result.head_dim =
      reader.size("head_dim", own_dim ? defaults.head_dim
                                      : std::max<std::int64_t>(1, spec.hidden / result.heads));
  if (result.heads % result.kv_heads != 0) {
    throw InputError("{}: num_attention_heads {} is not a multiple of num_key_value_heads {}",
                     reader.where(), result.heads, result.kv_heads);
  }
  result.scale = 1 / std::sqrt(static_cast<double>(result.head_dim));
  return result;
}

Rope rope(const Reader& reader, const Spec& spec, std::int64_t head_dim,
          const RopeDefaults& defaults, const char* layer_type) {
  const json scaling = scaling_of(reader, layer_type);
  Rope rope;
  rope.interleaved = defaults.interleaved;
  rope.kind = rope_kind(reader, scaling);
  rope.theta = reader.positive(
      scaling, "rope_theta",
      reader.at("rope_theta").is_null() ? defaults.theta : reader.number("rope_theta", {}));
  if (rope.theta <= 0)
    throw InputError("{}: 'rope_theta' is {}, expected more than 0", reader.where(), rope.theta);
  double partial = defaults.partial;
  if (defaults.partial != 1) {  // a family whose heads turn in part
    partial = reader.number("rotary_pct", reader.number("partial_rotary_factor", partial));
  } else {
    partial = reader.number("partial_rotary_factor", partial);
  }
  partial = reader.number(scaling, "partial_rotary_factor", partial);
  rope.dim = static_cast<std::int64_t>(static_cast<double>(head_dim) * partial);
  if (partial <= 0 || partial > 1 || rope.dim < 1) {
    reader.refuse("partial_rotary_factor", partial, "more than 0, at most 1");
  }
  if (rope.dim % 2 != 0) {
    throw InputError("{}: {} of head_dim {} turn, rotary positions turn pairs", reader.where(),
                     rope.dim, head_dim);
  }
  if (rope.kind == RopeKind::kDefault) return rope;

  const bool may_follow = rope.kind == RopeKind::kLongRope ||
                          (rope.kind == RopeKind::kYarn && scaling.contains("factor"));
  rope.factor =
      reader.positive(scaling, "factor", may_follow ? std::optional<double>(1) : std::nullopt);
  if (rope.kind == RopeKind::kLlama3 || rope.kind == RopeKind::kYarn ||
      rope.kind == RopeKind::kLongRope) {
    // A top-level key wins over the one in the object, as in transformers.
    const char* key = "original_max_position_embeddings";
    const json& inside = Reader::at(scaling, key);
    const bool whole = inside.is_null() || (inside.is_number() && inside >= 1 && inside < 1e9);
    if (!whole) reader.refuse(key, inside, "a number of positions");
    rope.original_max_positions =
        reader.size(key, inside.is_null() ? spec.max_positions
                                          : static_cast<std::int64_t>(inside.get<double>()));
    if (rope.kind == RopeKind::kLongRope && rope.original_max_positions < 2)
      reader.refuse(key, rope.original_max_positions, "more than 1 for longrope");
    rope.attention_factor = optional_number(reader, scaling, "attention_factor");
    if (Reader::at(scaling, "factor").is_null()) {
      rope.factor = static_cast<double>(spec.max_positions) /
                    static_cast<double>(rope.original_max_positions);
    }
  }
  if (rope.kind == RopeKind::kLlama3) {
    rope.low_freq_factor = reader.positive(scaling, "low_freq_factor", {});
    rope.high_freq_factor = reader.positive(scaling, "high_freq_factor", {});
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      reader.refuse("high_freq_factor", Reader::at(scaling, "high_freq_factor"),
                    "more than low_freq_factor");
    }
  }
  if (rope.kind == RopeKind::kYarn && rope.theta <= 1)
    reader.refuse("rope_theta", rope.theta, "more than 1 for yarn");
  if (rope.kind == RopeKind::kYarn) read_yarn(reader, scaling, rope);
  if (rope.kind == RopeKind::kLongRope) {
    rope.short_factors = factors_of(reader, scaling, "short_factor", rope.dim / 2);
    rope.long_factors = factors_of(reader, scaling, "long_factor", rope.dim / 2);
  }
  if (rope.kind == RopeKind::kDynamic && rope.dim == 2) {
    reader.refuse("rope_type", "dynamic", "a head_dim above 2");
  }
  return rope;
}

std::vector<bool> sliding_layers(const Reader& reader, std::int64_t layers,
                                 const std::function<bool(std::int64_t)>& slides) {
  std::vector<bool> result(static_cast<std::size_t>(layers));
  const json& types = reader.at("layer_types");
  const bool listed = types.is_array() && types.size() == result.size();
  if (!types.is_null() && !listed) reader.refuse("layer_types", types, "one entry a layer");
  for (std::size_t i = 0; i < result.size(); ++i) {
    if (!listed) {
      result[i] = slides(static_cast<std::int64_t>(i));
      continue;
    }
    result[i] = types[i] == "sliding_attention";
    if (!result[i] && types[i] != "full_attention")
      reader.refuse("layer_types", types[i], "full_attention, sliding_attention");
  }
  return result;
}

namespace {

/// Makes the linear of a part in a layer.
auto linear_of(const Reader& reader, std::int64_t layer) {
  return [&reader, layer](Part part, std::int64_t in, std::int64_t out, bool bias = false,
                          std::int64_t expert = 0) {
    const checkpoint::TensorRow& row = *reader.row(part);
    return LinearSpec{reader.path(part, layer, expert), in, out, bias, row.layout};
  };
}

/// Everything of a layer but its MLP.
LayerSpec attention_layer(const Reader& reader, const Block& block, const Spec& spec) {
  const std::int64_t index = spec.depth();
  LayerSpec layer;
  layer.attention = block.attention;
  layer.mlp = block.mlp;
  layer.parallel = block.parallel;
  layer.residual_scale = block.residual_scale;
  const AttentionSpec& a = block.attention;

  const auto norm = [&](Part part, NormSpec like, std::int64_t width, std::int64_t weights) {
    std::optional<NormSpec> result;
    if (reader.row(part) == nullptr) return result;
    like.path = reader.path(part, index);
    like.width = width;
    like.weights = weights;
    result = std::move(like);
    return result;
  };
  const auto of_stream = [&](Part part) {
    return norm(part, block.norm, spec.hidden, spec.hidden);
  };
  layer.input_norm = of_stream(Part::kInputNorm);
  layer.output_norm = of_stream(Part::kOutputNorm);
  layer.mlp_norm = of_stream(Part::kMlpNorm);
  layer.mlp_output_norm = of_stream(Part::kMlpOutputNorm);
  // A parallel block whose family names one norm gives it to both branches.
  if (block.parallel && !layer.mlp_norm) layer.mlp_norm = layer.input_norm;
  if (block.head_norm) {
    const auto of_heads = [&](Part part, std::int64_t heads) {
      const std::int64_t all = heads * a.head_dim;
      switch (block.head_norm_kind) {
        case Block::HeadNorm::kWhole: return norm(part, *block.head_norm, all, all);
        case Block::HeadNorm::kOfItsOwn: return norm(part, *block.head_norm, a.head_dim, all);
        case Block::HeadNorm::kShared: break;
      }
      return norm(part, *block.head_norm, a.head_dim, a.head_dim);
    };
    layer.query_norm = of_heads(Part::kQueryNorm, a.heads);
    layer.key_norm = of_heads(Part::kKeyNorm, a.kv_heads);
  }

  const auto linear = linear_of(reader, index);
  // Of a family with both spellings, the one that is stored.
  const checkpoint::TensorRow* const fused = reader.row(Part::kQueryKeyValue);
  const bool apart =
      reader.row(Part::kQuery) != nullptr &&
      (fused == nullptr || !reader.stores(checkpoint::numbered(fused->name, 0) + ".weight"));
  if (apart) {
    layer.qkv = {linear(Part::kQuery, spec.hidden, a.q_width(), block.qkv_bias),
                 linear(Part::kKey, spec.hidden, a.kv_width(), block.qkv_bias),
                 linear(Part::kValue, spec.hidden, a.kv_width(), block.qkv_bias)};
  } else {
    layer.qkv = {linear(Part::kQueryKeyValue, spec.hidden, a.qkv_width(), block.qkv_bias)};
  }
  layer.attention.sinks = reader.path(Part::kSinks, index);
  layer.o = linear(Part::kOutput, a.q_width(), spec.hidden, block.o_bias);
  return layer;
}

}  // namespace

void add_layer(const Reader& reader, const Block& block, Spec& spec) {
  const std::int64_t index = spec.depth();
  LayerSpec layer = attention_layer(reader, block, spec);
  const auto linear = linear_of(reader, index);
  const std::int64_t width = block.mlp.width;
  if (reader.row(Part::kGateUp) != nullptr) {
    layer.up = {linear(Part::kGateUp, spec.hidden, 2 * width, block.up_bias)};
  } else {
    if (block.mlp.gated) layer.up.push_back(linear(Part::kGate, spec.hidden, width, block.up_bias));
    layer.up.push_back(linear(Part::kUp, spec.hidden, width, block.up_bias));
  }
  layer.down = linear(Part::kDown, width, spec.hidden, block.down_bias);
  spec.layers.push_back(std::move(layer));
}

void add_expert_layer(const Reader& reader, const Block& block, const ExpertSizes& sizes,
                      Spec& spec) {
  const std::int64_t index = spec.depth();
  LayerSpec layer = attention_layer(reader, block, spec);
  const auto linear = linear_of(reader, index);
  constexpr std::int64_t kMostExperts = 1 << 16;
  if (sizes.count > kMostExperts)
    reader.refuse("num_experts", sizes.count, fmt::format("at most {}", kMostExperts));
  if (sizes.chosen > sizes.count)
    reader.refuse("num_experts_per_tok", sizes.chosen, fmt::format("at most {}", sizes.count));
  ExpertsSpec experts;
  experts.router = reader.path(Part::kRouter, index);
  experts.count = sizes.count;
  experts.chosen = sizes.chosen;
  experts.normalised = sizes.normalised;
  experts.bias = experts.router_bias = sizes.bias;
  experts.mlp = block.mlp;
  experts.mlp.width = sizes.width;
  // Stacks where they are stored, or where a family has nothing else.
  experts.up_stack = reader.path(Part::kExpertsGateUp, index);
  experts.down_stack = reader.path(Part::kExpertsDown, index);
  experts.stacked = reader.row(Part::kExpertUp) == nullptr || reader.stores(experts.up_stack);
  if (experts.stacked) {
    experts.up = {linear(Part::kExpertsGateUp, spec.hidden, 2 * sizes.width)};
    experts.down = {linear(Part::kExpertsDown, sizes.width, spec.hidden)};
  } else {
    // Before anything is made for each of them.
    const std::string last = reader.path(Part::kExpertDown, index, sizes.count - 1) + ".weight";
    if (reader.knows_tensors() && !reader.stores(last)) {
      throw InputError("{}: config.json says {} experts, and there is no tensor '{}'",
                       reader.where(), sizes.count, last);
    }
    for (std::int64_t e = 0; e < sizes.count; ++e) {
      experts.up.push_back(linear(Part::kExpertGate, spec.hidden, sizes.width, false, e));
      experts.up.push_back(linear(Part::kExpertUp, spec.hidden, sizes.width, false, e));
      experts.down.push_back(linear(Part::kExpertDown, sizes.width, spec.hidden, false, e));
    }
  }
  if (sizes.shared > 0) {
    experts.shared = block.mlp;
    experts.shared.width = sizes.shared;
    experts.shared_up = {linear(Part::kSharedGate, spec.hidden, sizes.shared),
                         linear(Part::kSharedUp, spec.hidden, sizes.shared)};
    experts.shared_down = linear(Part::kSharedDown, sizes.shared, spec.hidden);
    if (reader.row(Part::kSharedRouter) != nullptr)
      experts.shared_gate = linear(Part::kSharedRouter, spec.hidden, 1);
  }
  layer.down.out = spec.hidden;
  layer.experts = std::move(experts);
  spec.layers.push_back(std::move(layer));
}

Spec finish(const Reader& reader, const Block& block, std::int64_t layers, Spec spec) {
  for (std::int64_t i = 0; i < layers; ++i) add_layer(reader, block, spec);
  set_ends(reader, block.norm, spec);
  return spec;
}

void set_ends(const Reader& reader, const NormSpec& norm, Spec& spec) {
  spec.embedding.path = reader.path(Part::kEmbedding);
  NormSpec last = norm;
  last.path = reader.path(Part::kFinalNorm);
  last.width = last.weights = spec.hidden;
  spec.final_norm = std::move(last);
  spec.head.path = reader.path(Part::kHead);
  spec.head.tied = reader.ties_head();
}

}  // namespace weft::model::families
