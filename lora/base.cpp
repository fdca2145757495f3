#include <algorithm>
#include <array>
#include <string>

#include "checkpoint/checkpoint.h"
#include "checkpoint/digest_store.h"
#include "checkpoint/family.h"
#include "checkpoint/printable.h"
#include "checkpoint/roles.h"
#include "core/error.h"
#include "core/suggest.h"
#include "lora/adapter.h"
#include "lora/peft_file.h"
#include "lora/targets.h"

namespace weft::lora {
namespace {

using checkpoint::shape_text;

constexpr std::string_view kWeight = ".weight";
constexpr const char* kAllowOther = "allow_other_base (--allow-other-base)";

}  // namespace

bool stores_input_first(const checkpoint::Checkpoint& base, std::string_view path) {
  const auto& config = base.config();
  const auto type = config.find("model_type");
  if (type == config.end() || !type->is_string()) return false;
  const auto* const family = checkpoint::find_family_of(type->get_ref<const std::string&>());
  if (family == nullptr) return false;
  const auto* row = checkpoint::find_row(*family, path);
  if (row == nullptr) {
    row = checkpoint::find_row(*family,
                               fmt::format("{}{}", checkpoint::optional_prefix(config), path));
  }
  // Stacks of experts say for themselves how they lie.
  return row != nullptr && row->layout == checkpoint::Layout::kTransposed &&
         row->part != checkpoint::Part::kExpertsGateUp &&
         row->part != checkpoint::Part::kExpertsDown;
}

std::vector<Module> linear_modules(const checkpoint::Checkpoint& base) {
  std::vector<Module> modules;
  for (const checkpoint::TensorInfo& tensor : base.tensors()) {
    if (tensor.shape.size() != 2 || !tensor.name.ends_with(kWeight)) continue;
    const std::string path = tensor.name.substr(0, tensor.name.size() - kWeight.size());
    if (is_embedding_or_head(path) || is_lookup_table(path)) continue;
    const bool input_first = stores_input_first(base, path);
    modules.push_back({path, tensor.shape[input_first ? 0 : 1], tensor.shape[input_first ? 1 : 0]});
  }
  std::ranges::sort(modules, {}, &Module::path);
  return modules;
}

void require_fit(const checkpoint::Checkpoint& base, const Target& target,
                 const std::vector<std::int64_t>& shape) {
  const Module& module = target.module;
  std::vector<std::int64_t> wanted{module.out, module.in};
  if (target.kind == TargetKind::kEmbedding || stores_input_first(base, module.path)) {
    std::swap(wanted[0], wanted[1]);
  }
  if (shape == wanted) return;
  throw InputError(
      "the adapter fits '{}' of shape {}, the base '{}' has {}; is it the adapter's base?",
      weight_name(target), shape_text(wanted), base.path().string(), shape_text(shape));
}

void explain_missing(const checkpoint::Checkpoint& base, const std::string& name) {
  if (name.ends_with(kWeight) &&
      is_embedding_or_head(name.substr(0, name.size() - kWeight.size()))) {
    throw InputError(
        "the adapter changes '{}', which the base '{}' does not have (its head is the "
        "embedding itself where tie_word_embeddings is true); that is not supported",
        name, base.path().string());
  }
  std::vector<std::string> names;
  for (const checkpoint::TensorInfo& other : base.tensors()) names.push_back(other.name);
  const std::string near = core::nearest(name, names);
  throw InputError(
      "the adapter changes '{}', which the base '{}' does not have{}; is it the "
      "adapter's base?",
      name, base.path().string(), near.empty() ? "" : " (nearest: '" + near + "')");
}

const checkpoint::TensorInfo& base_weight(const checkpoint::Checkpoint& base,
                                          const Target& target) {
  const std::string name = weight_name(target);
  const checkpoint::TensorInfo* tensor = base.find(name);
  if (tensor == nullptr) explain_missing(base, name);
  require_fit(base, target, tensor->shape);
  return *tensor;
}

void check_base(const std::optional<Provenance>& provenance, std::string_view digest,
                const std::filesystem::path& base) {
  if (!provenance || provenance->base_weights.empty() || provenance->base_weights == digest) return;
  throw InputError(
      "the adapter was trained on weights with digest {} (stored as {}), '{}' has {}; "
      "use that base, or {} if you know that it fits",
      provenance->base_weights, provenance->base_storage.empty() ? "?" : provenance->base_storage,
      base.string(), digest, kAllowOther);
}

void check_base(const Adapter& adapter, const checkpoint::Checkpoint& base) {
  if (!adapter.provenance || adapter.provenance->base_weights.empty()) return;
  check_base(adapter.provenance, checkpoint::known_weights_digest(base), base.path());
}

void check_prompts(const std::optional<Provenance>& provenance, const PromptDigests& now,
                   const std::filesystem::path& base, const core::Log& log) {
  if (!provenance) return;
  if (!provenance->tokenizer.empty() && provenance->tokenizer != now.tokenizer &&
      provenance->tokenizer != now.legacy_tokenizer) {
    throw InputError(
        "the adapter was trained with the tokenizer of digest {}, '{}' has {}; use "
        "that base, or {} if you know that it fits",
        provenance->tokenizer, base.string(), now.tokenizer, kAllowOther);
  }
  const std::string& trained = provenance->chat_template;
  if (trained.empty() || !now.chat_template || trained == *now.chat_template) return;
  core::tell(log, core::Level::kWarning,
             fmt::format("the adapter was trained with the chat template of digest {}, '{}' has "
                         "{}: it sees other prompts than it learned",
                         trained, base.string(),
                         now.chat_template->empty() ? "none" : *now.chat_template));
}

}  // namespace weft::lora
