#include "export/gguf_metadata.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "checkpoint/roles.h"
#include "core/error.h"
#include "export/config_values.h"
#include "export/gguf_refusals.h"
#include "export/gguf_vocabulary.h"

namespace weft::exporting {
namespace {

using checkpoint::Checkpoint;
using checkpoint::GgufFields;
using checkpoint::GgufForm;
using checkpoint::GgufKey;
using nlohmann::json;

/// The rotary parameters: rope_parameters of transformers 5, rope_scaling before. Of layers that
/// attend to everything, where those that slide have their own.
json rope_of(const json& config) {
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const auto found = config.find(key);
    if (found == config.end() || !found->is_object()) continue;
    const auto full = found->find("full_attention");
    return full != found->end() && full->is_object() ? *full : *found;
  }
  return json::object();
}

double local_theta(const json& config, const GgufForm& form) {
  const json sliding = config.value("rope_parameters", json::object());
  if (sliding.is_object() && sliding.value("sliding_attention", json()).is_object()) {
    if (const auto theta = real(sliding["sliding_attention"], "rope_theta")) return *theta;
  }
  return real(config, "rope_local_base_freq").value_or(form.rotation.local_theta);
}

std::string rope_type(const json& rope) {
  for (const char* key : {"rope_type", "type"}) {
    const auto found = rope.find(key);
    if (found != rope.end() && found->is_string()) return found->get<std::string>();
  }
  return "default";
}

bool is_longrope(const std::string& type) { return type == "longrope" || type == "su"; }

/// The part of each head that turns.
double rotary_part(const json& config, const GgufForm& form) {
  if (const auto part = real(rope_of(config), "partial_rotary_factor")) return *part;
  for (const char* key : {"partial_rotary_factor", "rotary_pct"}) {
    if (const auto part = real(config, key)) return *part;
  }
  return form.rotation.part;
}

std::int64_t rotary_width(const json& config, const GgufForm& form,
                          const checkpoint::GgufSizes& sizes) {
  if (form.rotation.partial.empty()) return sizes.head_dim;
  return static_cast<std::int64_t>(rotary_part(config, form) * static_cast<double>(sizes.head_dim));
}

void add_longrope(const Checkpoint& model, const json& rope, const std::string& prefix,
                  GgufFields& fields) {
  const GgufForm& form = *family_of(model).gguf;
  const auto number = [&](const char* key) {
    return checkpoint::gguf_value(model.config(), form, key, model.path().string()).value();
  };
  const double original = number("rope.scaling.original_context_length");
  const double stretch = real(rope, "factor").value_or(number("context_length") / original);
  const double usual = stretch > 1 ? std::sqrt(1 + std::log(stretch) / std::log(original)) : 1;
  fields.set_f32(prefix + "rope.scaling.attn_factor",
                 real(rope, "attention_factor").value_or(usual));
}

/// transformers stretches positions beyond the length of training only.
void tell_about_dynamic(const core::Log& log) {
  core::tell(log, core::Level::kWarning,
             "the rotary scaling 'dynamic' cannot be said in GGUF: texts longer than the context "
             "length are computed without it");
}

/// llama.cpp reads no bounds of the ramp but for a few architectures, and rounds them.
void tell_about_bounds(const json& rope, const core::Log& log) {
  const bool usual = rope.value("truncate", json()) != false &&
                     real(rope, "beta_fast").value_or(32) == 32 &&
                     real(rope, "beta_slow").value_or(1) == 1;
  if (usual) return;
  core::tell(log, core::Level::kWarning,
             "llama.cpp computes the rotary scaling 'yarn' with beta_fast = 32, beta_slow = 1 and "
             "truncate = true, the model with others: llama.cpp's numbers are slightly different");
}

bool states_rope(const json& config) {
  return std::ranges::any_of(std::array{"rope_parameters", "rope_scaling"}, [&](const char* key) {
    return config.value(key, json()).is_object();
  });
}

void add_scaling(const Checkpoint& model, const json& rope, const std::string& prefix,
                 const core::Log& log, GgufFields& fields) {
  const GgufForm& form = *family_of(model).gguf;
  const std::string type = rope_type(rope);
  if (form.rotation.own_yarn && type == "default" && !states_rope(model.config())) {
    throw InputError("{}: config.json must have 'rope_scaling' or 'rope_parameters'",
                     model.path().string());
  }
  if (type == "default" || (type == "llama3" && form.rotation.llama3)) return;
  if (type == "dynamic") return tell_about_dynamic(log);
  if (is_longrope(type) && form.rotation.longrope) {
    return add_longrope(model, rope, prefix, fields);
  }
  const auto factor = real(rope, "factor");
  const bool fixed = fields.contains(prefix + "rope.scaling.type");
  if (fixed || (type != "linear" && type != "yarn") || !factor) {
    throw InputError(
        "{}: rotary scaling '{}' cannot be written to GGUF of the architecture '{}'; {} can",
        model.path().string(), type, form.architecture,
        fixed                  ? "none"
        : form.rotation.llama3 ? "linear, yarn and llama3"
                               : "linear and yarn");
  }
  fields.set_string(prefix + "rope.scaling.type", type);
  fields.set_f32(prefix + "rope.scaling.factor", *factor);
  if (type == "linear") return;
  tell_about_bounds(rope, log);
  const auto original = whole(rope, "original_max_position_embeddings");
  if (!original) {
    throw InputError("{}: rotary scaling 'yarn' without original_max_position_embeddings",
                     model.path().string());
  }
  fields.set_u32(prefix + "rope.scaling.original_context_length", *original);
  // llama.cpp multiplies its own 0.1 ln(factor) + 1 by attn_factor, which attention_factor replaces
  // in transformers (checkpoint/gguf_config.cpp reads it back so).
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

void add_rope(const Checkpoint& model, const std::string& prefix, const core::Log& log,
              GgufFields& fields) {
  const json& config = model.config();
  const GgufForm& form = *family_of(model).gguf;
  const checkpoint::GgufRotation& rotation = form.rotation;
  if (rotation.theta == 0) return;
  const double theta = rope_theta(config, form);
  if (rotation.states_theta || theta != 10000) fields.set_f32(prefix + "rope.freq_base", theta);
  if (rotation.local_theta != 0) {
    fields.set_f32(prefix + "rope.freq_base_swa", local_theta(config, form));
  }
  if (rotation.states_width) {
    fields.set_u32(prefix + "rope.dimension_count", rotary_width(config, form, sizes_of(model)));
  }
  add_scaling(model, rope_of(config), prefix, log, fields);
}

/// "135M", "1.1B": gguf/utility.py, model_weight_count_rounded_notation.
std::string rounded_count(double count) {
  const auto [scale, suffix] = count > 1e12  ? std::pair(1e-12, 'T')
                               : count > 1e9 ? std::pair(1e-9, 'B')
                               : count > 1e6 ? std::pair(1e-6, 'M')
                                             : std::pair(1e-3, 'K');
  const double scaled = count * scale;
  const bool one_digit = std::nearbyint(scaled) < 10;
  const int decimals = std::nearbyint(scaled) < 1 ? 2 : one_digit ? 1 : 0;
  return fmt::format("{:.{}f}{}", scaled, decimals, suffix);
}

/// Of experts "8x7.2B": how many, and the numbers of all that is shared and of one expert, where
/// biases of stacks count as shared (gguf_writer.py, get_total_parameter_count).
std::string size_label(const Checkpoint& model) {
  const checkpoint::Family& family = family_of(model);
  const std::int64_t experts = sizes_of(model).experts;
  double count = 0;
  for (const auto& tensor : model.tensors()) {
    const auto* row = checkpoint::find_tensor_row(family, tensor.name);
    const bool shared =
        row == nullptr || (!checkpoint::is_expert(row->part) &&
                           !(checkpoint::is_stack(row->part) && tensor.shape.size() == 3));
    const auto elements = static_cast<double>(tensor.elements());
    count += shared ? elements : elements / static_cast<double>(experts);
  }
  const std::string text = rounded_count(count);
  return experts == 0 ? text : fmt::format("{}x{}", experts, text);
}

/// The rows of the embedding.
std::int64_t vocabulary_of(const Checkpoint& model) {
  const checkpoint::TensorInfo* const embedding = checkpoint::roles_of(model).embedding;
  if (embedding == nullptr) {
    const auto* row = checkpoint::find_row(family_of(model), checkpoint::Part::kEmbedding);
    throw InputError("{}: the tensor '{}.weight' is missing", model.path().string(), row->name);
  }
  return embedding->rows();
}

void add_numbers(const Checkpoint& model, const std::string& prefix, GgufFields& fields) {
  const GgufForm& form = *family_of(model).gguf;
  for (const GgufKey& key : form.keys) {
    const std::string name = prefix + std::string(key.gguf);
    if (key.gguf == "vocab_size") {
      fields.set_u32(name, vocabulary_of(model));
      continue;
    }
    if (key.absent == GgufKey::Absent::kQuotient) continue;
    auto value = checkpoint::gguf_value(model.config(), form, key, model.path().string());
    // Phi-3's converter says that there is no window.
    if (!value && key.gguf == "attention.sliding_window") value = 0;
    if (!value) continue;
    switch (key.kind) {
      case GgufKey::Kind::kCount: fields.set_u32(name, static_cast<std::int64_t>(*value)); break;
      case GgufKey::Kind::kReal: fields.set_f32(name, *value); break;
      case GgufKey::Kind::kFlag: fields.set_bool(name, *value != 0); break;
    }
  }
}

/// Which layers slide, where it is not as the architecture has it.
void add_windows(const Checkpoint& model, const std::string& prefix, GgufFields& fields) {
  const GgufForm& form = *family_of(model).gguf;
  if (form.window_period == 0) return;
  const json& config = model.config();
  const std::int64_t layers = sizes_of(model).layers;
  const auto slides = [&](std::int64_t period) {
    std::vector<bool> pattern;
    for (std::int64_t layer = 0; layer < layers; ++layer) {
      pattern.push_back((layer + 1) % period != 0);
    }
    return pattern;
  };
  const std::vector<bool> usual = slides(form.window_period);
  std::vector<bool> wanted = usual;
  const auto types = config.find("layer_types");
  const auto period = whole(config, "sliding_window_pattern");
  if (types != config.end() && types->is_array()) {
    wanted.clear();
    for (const json& type : *types) wanted.push_back(type == "sliding_attention");
    if (std::ssize(wanted) != layers) {
      throw InputError("{}: config.json has {} layer_types for {} layers", model.path().string(),
                       wanted.size(), layers);
    }
  } else if (period && *period > 0) {
    wanted = slides(*period);
  }
  if (wanted != usual) fields.set_bools(prefix + "attention.sliding_window_pattern", wanted);
}

/// llama.cpp's architectures of these families attend to all earlier tokens.
void tell_about_window(const Checkpoint& model, const core::Log& log) {
  const json& config = model.config();
  if (family_of(model).gguf->window_period != 0) return;
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

void carry_over(const checkpoint::Gguf& base, GgufFields& fields) {
  for (const checkpoint::GgufEntry& entry : base.metadata()) {
    if (!describes_storage(entry.key)) fields.set_entry(entry);
  }
}

}  // namespace

checkpoint::GgufSizes sizes_of(const Checkpoint& model) {
  return checkpoint::gguf_sizes(model.config(), *family_of(model).gguf, model.path().string());
}

const checkpoint::Family& family_of(const Checkpoint& model) {
  const checkpoint::Family* family = checkpoint::find_family(model.config());
  const auto type = model.config().find("model_type");
  const bool stated = type != model.config().end() && type->is_string();
  // Other spellings of one class ("BaiChuanForCausalLM").
  if (family == nullptr && stated) family = checkpoint::find_family_of(type->get<std::string>());
  if (family != nullptr && family->gguf != nullptr) return *family;
  if (family != nullptr) {
    throw InputError("{}: llama.cpp has no architecture for {}, so that there is no GGUF of it",
                     model.path().string(), family->architecture);
  }
  throw InputError("{}: a model of type '{}' cannot be written to GGUF; {} can",
                   model.path().string(), stated ? type->get<std::string>() : "",
                   checkpoint::known_gguf_families());
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

double rope_theta(const json& config, const GgufForm& form) {
  if (const auto theta = real(rope_of(config), "rope_theta")) return *theta;
  for (const char* key : {"rope_theta", "rotary_emb_base"}) {
    if (const auto theta = real(config, key)) return *theta;
  }
  const auto ratio = real(config, std::string(form.rotation.ratio).c_str());
  return ratio ? 10000.0 * *ratio : form.rotation.theta;
}

std::vector<float> longrope_factors(const Checkpoint& model, const char* key) {
  const GgufForm& form = *family_of(model).gguf;
  const json rope = rope_of(model.config());
  if (!form.rotation.longrope || !is_longrope(rope_type(rope))) return {};
  const auto found = rope.find(key);
  const auto width = rotary_width(model.config(), form, sizes_of(model));
  const auto is_number = [](const json& value) { return value.is_number(); };
  if (found == rope.end() || !found->is_array() || !std::ranges::all_of(*found, is_number) ||
      std::ssize(*found) != width / 2) {
    throw InputError("{}: config.json must have {} of {} numbers in its rotary scaling",
                     model.path().string(), key, width / 2);
  }
  return found->get<std::vector<float>>();
}

GgufFields model_fields(const Checkpoint& model, const FileType& type,
                        const MetadataChoices& choices, const core::Log& log) {
  GgufFields fields;
  const GgufForm& form = *family_of(model).gguf;
  // The architecture first: the format's convention.
  fields.set_string("general.architecture", form.architecture);
  fields.set_string("general.type", "model");
  if (model.gguf() != nullptr) {
    carry_over(*model.gguf(), fields);
    if (!choices.name.empty()) fields.set_string("general.name", choices.name);
    if (choices.pre) fields.set_string("tokenizer.ggml.pre", *choices.pre);
  } else {
    const std::string prefix = fmt::format("{}.", form.architecture);
    fields.set_string("general.name", choices.name);
    fields.set_string("general.size_label", size_label(model));
    refuse_other_arithmetic(model);
    for (const checkpoint::GgufText& text : form.texts) {
      fields.set_string(prefix + std::string(text.gguf), text.value);
    }
    add_numbers(model, prefix, fields);
    add_windows(model, prefix, fields);
    tell_about_window(model, log);
    add_rope(model, prefix, log, fields);
    add_vocabulary(model, vocabulary_of(model), choices.pre, log, fields);
  }
  fields.set_u32("general.file_type", type.id);
  fields.set_u32("general.quantization_version", 2);
  return fields;
}

}  // namespace weft::exporting
