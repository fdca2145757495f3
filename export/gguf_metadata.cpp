#include "export/gguf_metadata.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "export/gguf_vocabulary.h"

namespace weft::exporting {
namespace {

using checkpoint::Checkpoint;
using checkpoint::GgufFields;
using nlohmann::json;

std::optional<std::int64_t> whole(const json& config, const char* key) {
  const auto found = config.find(key);
  if (found == config.end() || !found->is_number_integer()) return std::nullopt;
  return found->get<std::int64_t>();
}

std::optional<double> real(const json& config, const char* key) {
  const auto found = config.find(key);
  if (found == config.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}

std::int64_t required(const Checkpoint& model, const char* key) {
  const auto value = whole(model.config(), key);
  if (!value || *value < 1) {
    throw InputError("{}: config.json must have a positive whole number '{}'",
                     model.path().string(), key);
  }
  return *value;
}

/// The rotary parameters: rope_parameters of transformers 5, rope_scaling before.
json rope_of(const json& config) {
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const auto found = config.find(key);
    if (found != config.end() && found->is_object()) return *found;
  }
  return json::object();
}

std::string rope_type(const json& rope) {
  for (const char* key : {"rope_type", "type"}) {
    const auto found = rope.find(key);
    if (found != rope.end() && found->is_string()) return found->get<std::string>();
  }
  return "default";
}

void add_rope(const Checkpoint& model, const std::string& prefix, GgufFields& fields) {
  const json rope = rope_of(model.config());
  const std::string type = rope_type(rope);
  fields.set_f32(prefix + "rope.freq_base", rope_theta(model.config()));
  if (type == "default" || type == "llama3") return;  // llama3: the tensor rope_freqs.weight.
  const auto factor = real(rope, "factor");
  if ((type != "linear" && type != "yarn") || !factor) {
    throw InputError(
        "{}: rotary scaling '{}' cannot be written to GGUF; linear, yarn and llama3 can",
        model.path().string(), type);
  }
  fields.set_string(prefix + "rope.scaling.type", type);
  fields.set_f32(prefix + "rope.scaling.factor", *factor);
  if (type == "linear") return;
  const auto original = whole(rope, "original_max_position_embeddings");
  if (!original) {
    throw InputError("{}: rotary scaling 'yarn' without original_max_position_embeddings",
                     model.path().string());
  }
  fields.set_u32(prefix + "rope.scaling.original_context_length", *original);
  // llama.cpp multiplies its own 0.1 ln(factor) + 1 by attn_factor, which attention_factor replaces
  // in transformers (checkpoint/gguf_family.cpp reads it back so).
  if (const auto attention = real(rope, "attention_factor")) {
    fields.set_f32(prefix + "rope.scaling.attn_factor",
                   *attention / (0.1 * std::log(*factor) + 1.0));
  }
  constexpr std::array<std::pair<const char*, const char*>, 3> kReals{
      {{"extrapolation_factor", "rope.scaling.yarn_ext_factor"},
       {"beta_fast", "rope.scaling.yarn_beta_fast"},
       {"beta_slow", "rope.scaling.yarn_beta_slow"}}};
  for (const auto& [key, name] : kReals) {
    if (const auto value = real(rope, key)) fields.set_f32(prefix + name, *value);
  }
}

/// "135M", "1.1B": gguf/utility.py, model_weight_count_rounded_notation.
std::string size_label(const Checkpoint& model) {
  double count = 0;
  for (const auto& tensor : model.tensors()) count += static_cast<double>(tensor.elements());
  const auto [scale, suffix] = count > 1e12  ? std::pair(1e-12, 'T')
                               : count > 1e9 ? std::pair(1e-9, 'B')
                               : count > 1e6 ? std::pair(1e-6, 'M')
                                             : std::pair(1e-3, 'K');
  const double scaled = count * scale;
  const bool one_digit = std::nearbyint(scaled) < 10;
  const int decimals = std::nearbyint(scaled) < 1 ? 2 : one_digit ? 1 : 0;
  return fmt::format("{:.{}f}{}", scaled, decimals, suffix);
}

void add_sizes(const Checkpoint& model, const checkpoint::GgufFamily& family, GgufFields& fields) {
  const std::string prefix = fmt::format("{}.", family.architecture);
  const Sizes sizes = sizes_of(model);
  const json& config = model.config();
  fields.set_u32(prefix + "block_count", sizes.layers);
  fields.set_u32(prefix + "context_length", required(model, "max_position_embeddings"));
  fields.set_u32(prefix + "embedding_length", sizes.hidden);
  fields.set_u32(prefix + "feed_forward_length", required(model, "intermediate_size"));
  fields.set_u32(prefix + "attention.head_count", sizes.heads);
  fields.set_u32(prefix + "attention.head_count_kv", sizes.key_heads);
  const auto epsilon = real(config, "rms_norm_eps");
  fields.set_f32(prefix + "attention.layer_norm_rms_epsilon", epsilon.value_or(1e-6));
  if (whole(config, "head_dim")) {
    fields.set_u32(prefix + "attention.key_length", sizes.head_dim);
    fields.set_u32(prefix + "attention.value_length", sizes.head_dim);
  }
  if (!family.names_vocabulary_and_rotation) return;
  fields.set_u32(prefix + "vocab_size", sizes.vocabulary);
  fields.set_u32(prefix + "rope.dimension_count", sizes.head_dim);
}

/// llama.cpp's architectures of these families attend to all earlier tokens.
void tell_about_window(const Checkpoint& model, const core::Log& log) {
  const json& config = model.config();
  const auto window = whole(config, "sliding_window");
  const auto used = config.find("use_sliding_window");  // Qwen's; Mistral has none.
  if (!window || (used != config.end() && !used->is_null() && *used != true)) return;
  core::tell(
      log, core::Level::kWarning,
      fmt::format("the model attends to the last {} tokens in some layers, which GGUF cannot "
                  "say of this architecture: beyond them llama.cpp computes otherwise",
                  *window));
}

/// Keys of a GGUF base that describe how it was stored, not what it is.
bool describes_storage(std::string_view key) {
  return key.starts_with("split.") || key.starts_with("quantize.imatrix.") ||
         key == "general.file_type" || key == "general.quantization_version" ||
         key == "general.alignment";
}

/// A key of config.json that llama.cpp's architectures of these families do not know, and the value
/// at which a model computes without it.
struct NeutralKey {
  const char* key;
  double neutral;
};
constexpr std::array kNeutralKeys{NeutralKey{"partial_rotary_factor", 1},
                                  NeutralKey{"rotary_pct", 1},
                                  NeutralKey{"embedding_multiplier", 1},
                                  NeutralKey{"residual_multiplier", 1},
                                  NeutralKey{"logits_scaling", 1},
                                  NeutralKey{"logit_scale", 1},
                                  NeutralKey{"scale_emb", 1},
                                  NeutralKey{"scale_depth", 1},
                                  NeutralKey{"attention_multiplier", 1},
                                  NeutralKey{"attn_logit_softcapping", 0},
                                  NeutralKey{"final_logit_softcapping", 0},
                                  NeutralKey{"use_qk_norm", 0},
                                  NeutralKey{"qk_layernorm", 0},
                                  NeutralKey{"parallel_residual", 0},
                                  NeutralKey{"use_parallel_residual", 0},
                                  NeutralKey{"rope_interleaved", 0}};

/// The GGUF architecture has one way to compute: a configuration that asks for another one would be
/// written as if it had not.
void refuse_other_arithmetic(const Checkpoint& model, const checkpoint::GgufFamily& family) {
  const json& config = model.config();
  const auto refuse = [&](const std::string& key, const json& value, const std::string& wanted) {
    throw InputError(
        "{}: config.json has {} = {}, which the GGUF architecture '{}' cannot say ({} is what it "
        "computes)",
        model.path().string(), key, value.dump(), family.architecture, wanted);
  };
  for (const char* key : {"hidden_act", "hidden_activation"}) {
    const auto act = config.find(key);
    if (act == config.end() || act->is_null() || *act == "silu" || *act == "swish") continue;
    refuse(key, *act, "silu");
  }
  for (const NeutralKey& entry : kNeutralKeys) {
    const auto value = config.find(entry.key);
    if (value == config.end() || value->is_null()) continue;
    const bool neutral = (value->is_boolean() && value->get<bool>() == (entry.neutral != 0)) ||
                         (value->is_number() && value->get<double>() == entry.neutral);
    if (!neutral) refuse(entry.key, *value, fmt::format("{}", entry.neutral));
  }
}

void carry_over(const checkpoint::Gguf& base, GgufFields& fields) {
  for (const checkpoint::GgufEntry& entry : base.metadata()) {
    if (!describes_storage(entry.key)) fields.set_entry(entry);
  }
}

}  // namespace

Sizes sizes_of(const Checkpoint& model) {
  Sizes sizes;
  sizes.hidden = required(model, "hidden_size");
  sizes.layers = required(model, "num_hidden_layers");
  sizes.heads = required(model, "num_attention_heads");
  sizes.key_heads = whole(model.config(), "num_key_value_heads").value_or(sizes.heads);
  sizes.head_dim = whole(model.config(), "head_dim").value_or(sizes.hidden / sizes.heads);
  const auto* embedding = model.find("model.embed_tokens.weight");
  if (embedding == nullptr) {
    throw InputError("{}: the tensor 'model.embed_tokens.weight' is missing",
                     model.path().string());
  }
  sizes.vocabulary = embedding->rows();
  return sizes;
}

const checkpoint::GgufFamily& family_of(const Checkpoint& model) {
  std::string type;
  if (const auto found = model.config().find("model_type"); found != model.config().end()) {
    if (found->is_string()) type = found->get<std::string>();
  }
  const auto* family = checkpoint::find_gguf_family_of(type);
  if (family == nullptr) {
    throw InputError("{}: a model of type '{}' cannot be written to GGUF; {} can",
                     model.path().string(), type, checkpoint::known_gguf_families());
  }
  return *family;
}

std::optional<checkpoint::Llama3Scaling> llama3_scaling(const Checkpoint& model) {
  const json rope = rope_of(model.config());
  if (rope_type(rope) != "llama3") return std::nullopt;
  checkpoint::Llama3Scaling scaling;
  scaling.factor = real(rope, "factor").value_or(scaling.factor);
  scaling.low = real(rope, "low_freq_factor").value_or(scaling.low);
  scaling.high = real(rope, "high_freq_factor").value_or(scaling.high);
  scaling.original = real(rope, "original_max_position_embeddings").value_or(scaling.original);
  return scaling;
}

double rope_theta(const json& config) {
  return real(rope_of(config), "rope_theta").value_or(real(config, "rope_theta").value_or(10000.0));
}

GgufFields model_fields(const Checkpoint& model, const FileType& type,
                        const MetadataChoices& choices, const core::Log& log) {
  GgufFields fields;
  const checkpoint::GgufFamily& family = family_of(model);
  // The architecture first: the format's convention.
  fields.set_string("general.architecture", family.architecture);
  fields.set_string("general.type", "model");
  if (model.gguf() != nullptr) {
    carry_over(*model.gguf(), fields);
    if (!choices.name.empty()) fields.set_string("general.name", choices.name);
    if (choices.pre) fields.set_string("tokenizer.ggml.pre", *choices.pre);
  } else {
    const std::string prefix = fmt::format("{}.", family.architecture);
    fields.set_string("general.name", choices.name);
    fields.set_string("general.size_label", size_label(model));
    refuse_other_arithmetic(model, family);
    add_sizes(model, family, fields);
    tell_about_window(model, log);
    add_rope(model, prefix, fields);
    add_vocabulary(model, sizes_of(model).vocabulary, choices.pre, log, fields);
  }
  fields.set_u32("general.file_type", type.id);
  fields.set_u32("general.quantization_version", 2);
  return fields;
}

}  // namespace weft::exporting
