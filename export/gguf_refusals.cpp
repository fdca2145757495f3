#include "export/gguf_refusals.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include "checkpoint/gguf_family.h"
#include "checkpoint/roles.h"
#include "core/error.h"
#include "export/config_values.h"
#include "export/gguf_metadata.h"

namespace weft::exporting {
namespace {

using checkpoint::Checkpoint;
using checkpoint::GgufForm;
using checkpoint::GgufKey;
using checkpoint::NeutralKey;
using nlohmann::json;

/// Of every family, unless a row of checkpoint/gguf_form.h names the key.
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
                                  NeutralKey{"attention_bias", 0},
                                  NeutralKey{"mlp_bias", 0},
                                  NeutralKey{"parallel_residual", 0},
                                  NeutralKey{"use_parallel_residual", 0},
                                  NeutralKey{"rope_interleaved", 0}};

bool names(std::string_view spellings, std::string_view key) {
  for (; !spellings.empty();) {
    const auto bar = spellings.find('|');
    if (spellings.substr(0, bar) == key) return true;
    spellings = bar == std::string_view::npos ? std::string_view() : spellings.substr(bar + 1);
  }
  return false;
}

/// Whether the architecture has a place for what the key says.
bool is_said(const GgufForm& form, std::string_view key) {
  const bool turns = key == "partial_rotary_factor" || key == "rotary_pct";
  return (turns && !form.rotation.partial.empty()) ||
         std::ranges::any_of(form.keys, [&](const GgufKey& k) { return names(k.config, key); }) ||
         std::ranges::any_of(form.biases, [&](const auto& rule) { return rule.config == key; }) ||
         std::ranges::any_of(form.neutral, [&](const auto& own) { return own.config == key; });
}

[[noreturn]] void refuse(const Checkpoint& model, std::string_view key, const json& value,
                         const std::string& wanted) {
  throw InputError(
      "{}: config.json has {} = {}, which the GGUF architecture '{}' cannot say ({} is what it "
      "computes)",
      model.path().string(), key, value.dump(), family_of(model).gguf->architecture, wanted);
}

void refuse_unless_neutral(const Checkpoint& model, const NeutralKey& entry) {
  const auto found = model.config().find(std::string(entry.config));
  const bool absent = found == model.config().end() || found->is_null();
  if (absent && entry.by_default) return;
  const json value = absent ? json() : *found;
  const bool neutral = (value.is_boolean() && value.get<bool>() == (entry.neutral != 0)) ||
                       (value.is_number() && value.get<double>() == entry.neutral);
  if (neutral) return;
  const bool flag = value.is_boolean() || value.is_null();
  refuse(
      model, entry.config, value,
      flag ? std::string(entry.neutral != 0 ? "true" : "false") : fmt::format("{}", entry.neutral));
}

/// llama.cpp computes every kind of GELU by the approximation with tanh.
void refuse_other_activation(const Checkpoint& model) {
  const std::string_view own = family_of(model).gguf->activation;
  const bool gelu = own.starts_with("gelu");
  for (const char* key : {"hidden_act", "hidden_activation", "activation_function", "activation"}) {
    const auto act = model.config().find(key);
    if (act == model.config().end() || act->is_null()) continue;
    const std::string name = act->is_string() ? act->get<std::string>() : "";
    const bool known = gelu ? name == "gelu" || name == "gelu_new" || name == "gelu_fast" ||
                                  name == "gelu_pytorch_tanh" || name == "gelu_python"
                            : name == "silu" || name == "swish";
    if (!known) refuse(model, key, *act, std::string(own));
  }
}

/// What an architecture decides by itself: the scale of Gemma's attention, the layers of SmolLM3
/// without positions, the norms of Command R's heads, what Baichuan has for positions.
void refuse_other_choices(const Checkpoint& model) {
  const json& config = model.config();
  const GgufForm& form = *family_of(model).gguf;
  const checkpoint::GgufSizes sizes = sizes_of(model);
  if (form.architecture == "gemma2" || form.architecture == "gemma3") {
    const std::int64_t own = checkpoint::gemma_attention_scalar(
        sizes.layers, form, sizes.hidden / sizes.heads, sizes.head_dim);
    const double stated = real(config, "query_pre_attn_scalar").value_or(256);
    if (stated != static_cast<double>(own)) {
      refuse(model, "query_pre_attn_scalar", stated, fmt::format("{}", own));
    }
  }
  if (form.architecture == "smollm3") {
    const json rotates = config.value("no_rope_layers", json());
    const auto interval = whole(config, "no_rope_layer_interval").value_or(4);
    for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
      const bool own = (layer + 1) % 4 != 0;
      const bool stated = rotates.is_array() && std::ssize(rotates) > layer
                              ? rotates[static_cast<std::size_t>(layer)] != 0
                              : (layer + 1) % interval != 0;
      if (own != stated) refuse(model, "no_rope_layers", rotates, "every fourth");
    }
  }
  if (form.architecture == "command-r") {
    const bool stated = config.value("use_qk_norm", json()) == true;
    if (stated != (sizes.layers >= 64)) {
      refuse(model, "use_qk_norm", stated, fmt::format("{} of {} layers", !stated, sizes.layers));
    }
  }
  if (form.architecture == "baichuan") {
    // llama.cpp goes by the number of layers; the models by the name of their length.
    const bool slopes =
        !whole(config, "max_position_embeddings") && whole(config, "model_max_length").has_value();
    if (sizes.layers != (slopes ? 40 : 32)) {
      refuse(model, "num_hidden_layers", sizes.layers,
             slopes ? "40 with slopes for positions" : "32 with rotary positions");
    }
  }
}

/// Architectures with experts have them in every layer.
void refuse_layers_without_experts(const Checkpoint& model) {
  const checkpoint::Family& family = family_of(model);
  if (checkpoint::find_row(family, checkpoint::Part::kRouter) == nullptr) return;
  for (const checkpoint::TensorInfo& tensor : model.tensors()) {
    const auto* row = checkpoint::find_tensor_row(family, tensor.name);
    if (row == nullptr || row->part != checkpoint::Part::kDown) continue;
    throw InputError(
        "{}: '{}' is of a layer without experts, and the GGUF architecture '{}' has them in every "
        "layer",
        model.path().string(), tensor.name, family.gguf->architecture);
  }
}

}  // namespace

void refuse_other_arithmetic(const Checkpoint& model) {
  const GgufForm& form = *family_of(model).gguf;
  refuse_other_activation(model);
  for (const NeutralKey& entry : kNeutralKeys) {
    if (!is_said(form, entry.config)) refuse_unless_neutral(model, entry);
  }
  for (const NeutralKey& entry : form.neutral) refuse_unless_neutral(model, entry);
  refuse_other_choices(model);
  refuse_layers_without_experts(model);
  const bool own_head = checkpoint::roles_of(model).head != nullptr;
  if (form.head == checkpoint::GgufHead::kTied && own_head) {
    throw InputError(
        "{}: the model has an output head of its own, and the GGUF architecture '{}' takes the "
        "embedding",
        model.path().string(), form.architecture);
  }
  if (form.head == checkpoint::GgufHead::kOwn && !own_head) {
    throw InputError(
        "{}: the model's output head is its embedding, and the GGUF architecture '{}' needs a head "
        "of its own",
        model.path().string(), form.architecture);
  }
}

}  // namespace weft::exporting
