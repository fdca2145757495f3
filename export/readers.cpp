#include "export/readers.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "checkpoint/json_file.h"
#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "lora/config.h"
#include "lora/peft_file.h"

namespace weft::exporting {
namespace {

using nlohmann::json;

constexpr std::array<std::string_view, 5> kReaders{"vllm", "llama.cpp", "ollama", "lorax",
                                                   "transformers"};

bool is_set(const json& config, const char* key) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return false;
  if (found->is_boolean()) return found->get<bool>();
  if (found->is_structured()) return !found->empty();
  return true;
}

std::string text_of(const json& config, const char* key) {
  const auto found = config.find(key);
  return found != config.end() && found->is_string() ? found->get<std::string>() : "";
}

void read_config(const json& config, AdapterTraits& traits) {
  traits.other_method = text_of(config, "peft_type") != "LORA";
  traits.rslora = is_set(config, "use_rslora");
  traits.alpha_differs = is_set(config, "alpha_pattern");
  traits.rank_differs = is_set(config, "rank_pattern");
  traits.dora = is_set(config, "use_dora");
  traits.full_modules = is_set(config, "modules_to_save");
  const std::string bias = text_of(config, "bias");
  traits.bias = (!bias.empty() && bias != "none") || is_set(config, "lora_bias");
  traits.trained_tokens = is_set(config, "trainable_token_indices");
  traits.experts = is_set(config, "target_parameters");
  const std::string start = text_of(config, "init_lora_weights");
  traits.changed_base = start.starts_with("pissa") || start == "olora" || start == "corda" ||
                        start == "loftq" || start == "lora_ga";
  traits.activated = is_set(config, "alora_invocation_tokens");
  traits.block_diagonal = is_set(config, "use_bdlora");
  traits.replicated = is_set(config, "layer_replication");
  for (const char* key : {"use_qalora", "arrow_config", "velora_config", "kasa_config",
                          "monteclora_config", "megatron_config"}) {
    if (is_set(config, key)) traits.variants.emplace_back(key);
  }
  if (const auto alpha = config.find("lora_alpha"); alpha != config.end() && alpha->is_number()) {
    // A float such as 16.0 fails as well where an unsigned integer is parsed.
    traits.alpha_fractional = alpha->is_number_float();
  }
}

/// A pair of factors of the module or tensor of that name.
void note_factors(std::string_view name, AdapterTraits& traits) {
  const auto has = [&](std::string_view part) { return name.find(part) != name.npos; };
  traits.head = traits.head || has("lm_head");
  traits.attention_qk = traits.attention_qk || has(".q_proj") || has(".k_proj");
}

void read_tensors(const checkpoint::Safetensors& weights, AdapterTraits& traits) {
  std::set<std::int64_t> ranks;
  for (const checkpoint::SafetensorsEntry& entry : weights.entries()) {
    const std::string_view name = entry.name;
    const auto has = [&](std::string_view part) { return name.find(part) != name.npos; };
    if (has(".lora_A.weight") || has(".lora_embedding_A")) {
      if (!entry.shape.empty()) ranks.insert(entry.shape[0]);
      traits.embedding = traits.embedding || has(".lora_embedding_A");
      note_factors(name, traits);
    } else if (has("lora_magnitude_vector")) {
      traits.dora = true;
    } else if (has("trainable_tokens_delta")) {
      traits.trained_tokens = true;
    } else if (!has(".lora_B.weight") && !has(".lora_embedding_B")) {
      (name.ends_with(".bias") ? traits.bias : traits.full_modules) = true;
    }
  }
  traits.rank_differs = traits.rank_differs || ranks.size() > 1;
  traits.rank = ranks.empty() ? 0 : *ranks.rbegin();
}

constexpr const char* kPortable = "weft export --adapter DIR --to peft --out DIR2";
constexpr const char* kLora =
    "weft export --model BASE --adapter DIR --to gguf-lora --out adapter.gguf";
constexpr const char* kMerge = "weft merge --model BASE --adapter DIR --out MODEL";
constexpr const char* kModel = "weft export --model BASE --adapter DIR --to gguf --out model.gguf";

/// Collects what one reader does.
class Reasons {
 public:
  explicit Reasons(std::string_view reader) { report_.reader = reader; }

  void refuses(bool when, const char* why, std::initializer_list<const char*> repairs) {
    add(when, Verdict::kRefuses, why, repairs);
  }
  void misreads(bool when, const char* why, std::initializer_list<const char*> repairs) {
    add(when, Verdict::kMisreads, why, repairs);
  }
  void note(bool when, std::string text) {
    if (when) report_.notes.push_back(std::move(text));
  }
  /// What only PEFT computes: everybody else takes the factors for those of plain LoRA.
  void variants(const AdapterTraits& a) {
    misreads(a.block_diagonal, "the factors are block-diagonal (use_bdlora), which it ignores", {});
    misreads(a.replicated, "layer_replication is ignored: the base has not the layers it adapts",
             {});
    for (const std::string& key : a.variants) {
      misreads(true,
               fmt::format("{} is ignored, so the adapter computes something else", key).c_str(),
               {});
    }
  }
  /// Commands of weft mend nothing where weft cannot read the adapter.
  [[nodiscard]] ReaderReport take(const AdapterTraits& a) {
    if (a.is_foreign() && report_.verdict != Verdict::kReads) {
      report_.repairs.clear();
      report_.notes.emplace_back(
          "weft cannot convert an adapter of this kind: fold it with PEFT (merge_and_unload)");
    }
    return std::move(report_);
  }

 private:
  void add(bool when, Verdict verdict, const char* why,
           std::initializer_list<const char*> repairs) {
    if (!when) return;
    report_.verdict = std::max(report_.verdict, verdict);
    report_.reasons.emplace_back(why);
    for (const char* repair : repairs) {
      if (std::ranges::find(report_.repairs, repair) == report_.repairs.end()) {
        report_.repairs.emplace_back(repair);
      }
    }
  }
  ReaderReport report_;
};

// vllm/lora/peft_helper.py, vllm/config/lora.py
ReaderReport vllm(const AdapterTraits& a) {
  Reasons r("vllm");
  r.refuses(a.other_method, "it reads adapters of type LORA only", {});
  r.misreads(a.rank_differs, "one r for the scale of all modules: rank_pattern is ignored",
             {kPortable});
  r.misreads(a.alpha_differs, "alpha_pattern is ignored, so those modules get another scale",
             {kPortable});
  r.refuses(a.dora, "DoRA is not supported", {kMerge});
  r.refuses(a.full_modules, "modules_to_save, or whole weights beside the factors", {kMerge});
  r.refuses(a.bias, "bias is not none", {kMerge});
  r.refuses(a.trained_tokens, "trained token rows are not supported", {kMerge});
  r.refuses(a.changed_base, "the initialisation changed the base", {});
  r.refuses(a.experts, "target_parameters is not supported", {kMerge});
  r.misreads(a.activated,
             "activated LoRA (aLoRA) is applied to every token, not from its invocation", {});
  r.variants(a);
  r.refuses(a.rank > 512, "its largest rank is 512", {kMerge});
  r.note(a.rank > 16 && a.rank <= 512,
         fmt::format("start it with --max-lora-rank {} or more (its default is 16)", a.rank));
  return r.take(a);
}

// convert_lora_to_gguf.py, src/llama-adapter.cpp
ReaderReport llama_cpp(const AdapterTraits& a) {
  Reasons r("llama.cpp");
  r.refuses(a.other_method, "it reads adapters of type LORA only", {});
  r.misreads(a.rslora, "use_rslora is ignored: alpha / r instead of alpha / sqrt(r)", {kLora});
  r.misreads(a.alpha_differs, "alpha_pattern is ignored, so those modules get another scale",
             {kLora});
  r.refuses(a.dora, "its converter stops at DoRA's magnitudes", {kModel});
  r.refuses(a.full_modules, "its converter stops at whole weights (modules_to_save)", {kModel});
  r.refuses(a.bias, "its converter stops at biases", {kModel});
  r.refuses(a.trained_tokens, "new token rows cannot be loaded", {kModel});
  r.misreads(a.changed_base, "the adapter belongs to a base that its initialisation changed", {});
  r.refuses(a.experts, "target_parameters is not supported", {kModel});
  r.variants(a);
  r.note(a.activated,
         "activated LoRA (aLoRA): its own converter writes the invocation tokens, weft does not");
  r.note(a.head, "an adapter of lm_head fails where the head is tied to the embedding");
  r.note(true, "wants a GGUF file: weft writes it, or its own convert_lora_to_gguf.py");
  return r.take(a);
}

// convert/convert.go and its families
ReaderReport ollama(const AdapterTraits& a) {
  Reasons r("ollama");
  r.refuses(a.other_method, "it reads adapters of type LORA only", {});
  r.misreads(a.rslora, "use_rslora is ignored: alpha / r instead of alpha / sqrt(r)",
             {kLora, kPortable});
  r.misreads(a.alpha_differs, "alpha_pattern is ignored, so those modules get another scale",
             {kLora, kPortable});
  r.refuses(a.alpha_fractional, "lora_alpha must be written as a whole number", {kLora, kPortable});
  r.refuses(a.dora, "DoRA's magnitudes have no place in its files", {kModel});
  r.refuses(a.full_modules, "whole weights (modules_to_save) have no place in an adapter",
            {kModel});
  r.refuses(a.bias, "biases have no place in an adapter", {kModel});
  r.refuses(a.trained_tokens, "new token rows cannot be loaded", {kModel});
  r.misreads(a.changed_base, "the adapter belongs to a base that its initialisation changed", {});
  r.refuses(a.experts, "target_parameters is not supported", {kModel});
  r.misreads(a.activated,
             "activated LoRA (aLoRA) is applied to every token, not from its invocation", {});
  r.variants(a);
  r.note(
      true,
      "from version 0.34.1 on it is reported to take no ADAPTER line any more "
      "(generative-computing/mellea#1651): merge the adapter into the model (weft export --model "
      "BASE --adapter DIR --to ollama --out FOLDER)");
  r.note(
      true,
      "older versions convert adapters of the architectures llama and gemma2 only; a GGUF adapter "
      "(--to gguf-lora) avoids the converter");
  r.note(a.attention_qk,
         "by its source, its converter reorders A of q and k where B should be: prefer the GGUF "
         "adapter");
  return r.take(a);
}

// server/lorax_server/adapters, docs/models/adapters/lora.md
ReaderReport lorax(const AdapterTraits& a) {
  Reasons r("lorax");
  r.refuses(a.other_method, "it reads adapters of type LORA only", {});
  r.misreads(a.rank_differs, "one r for the scale of all modules: rank_pattern is ignored",
             {kPortable});
  r.misreads(a.alpha_differs, "alpha_pattern is ignored, so those modules get another scale",
             {kPortable});
  r.misreads(a.dora, "DoRA's magnitudes are never read", {kMerge});
  r.misreads(a.full_modules, "whole weights (modules_to_save) are never read", {kMerge});
  r.misreads(a.bias, "biases are never read", {kMerge});
  r.misreads(a.trained_tokens, "trained token rows are never read", {kMerge});
  r.misreads(a.changed_base, "the adapter belongs to a base that its initialisation changed", {});
  r.misreads(a.experts, "target_parameters is never read", {kMerge});
  r.misreads(a.activated,
             "activated LoRA (aLoRA) is applied to every token, not from its invocation", {});
  r.variants(a);
  r.note(true, "ignores target modules that it does not support, with a warning in its log");
  return r.take(a);
}

ReaderReport transformers(const AdapterTraits& a) {
  Reasons r("transformers");
  r.note(a.changed_base, "PEFT changes the base again when it loads the adapter");
  return r.take(a);
}

}  // namespace

AdapterTraits traits_of(const std::filesystem::path& directory) {
  const auto config = directory / lora::kConfigFile;
  const auto weights = directory / lora::kWeightsFile;
  if (!std::filesystem::exists(config) || !std::filesystem::exists(weights)) {
    throw InputError("'{}' is no PEFT adapter: it must hold {} and {}", directory.string(),
                     lora::kConfigFile, lora::kWeightsFile);
  }
  AdapterTraits traits;
  read_config(checkpoint::read_json_object(config), traits);
  read_tensors(checkpoint::Safetensors::open(weights), traits);
  if (traits.rank == 0 && !traits.other_method) {
    throw InputError(
        "'{}' holds no LoRA factors (names that end in lora_A.weight): a server would answer with "
        "the base model",
        weights.string());
  }
  return traits;
}

AdapterTraits traits_of(const lora::Adapter& adapter) {
  AdapterTraits traits;
  std::vector<lora::Target> targets;
  for (const lora::Factors& factors : adapter.factors) targets.push_back(factors.target);
  read_config(json::parse(lora::config_text(adapter.config, targets)), traits);
  for (const lora::Target& target : targets) {
    traits.rank_differs = traits.rank_differs || target.rank != targets.front().rank;
    traits.rank = std::max(traits.rank, target.rank);
    traits.embedding = traits.embedding || target.kind == lora::TargetKind::kEmbedding;
    note_factors(target.module.path, traits);
  }
  return traits;
}

std::string_view name_of(Verdict verdict) noexcept {
  return verdict == Verdict::kReads     ? "reads"
         : verdict == Verdict::kRefuses ? "refuses"
                                        : "misreads";
}

std::span<const std::string_view> known_readers() noexcept { return kReaders; }

ReaderReport check_reader(const AdapterTraits& adapter, std::string_view reader) {
  if (reader == "vllm") return vllm(adapter);
  if (reader == "llama.cpp") return llama_cpp(adapter);
  if (reader == "ollama") return ollama(adapter);
  if (reader == "lorax") return lorax(adapter);
  if (reader == "transformers") return transformers(adapter);
  throw ConfigError("reader '{}' is unknown; known are {}", reader, fmt::join(kReaders, ", "));
}

json report_json(std::span<const ReaderReport> reports) {
  json result = json::array();
  for (const ReaderReport& report : reports) {
    result.push_back({{"reader", report.reader},
                      {"verdict", name_of(report.verdict)},
                      {"reasons", report.reasons},
                      {"notes", report.notes},
                      {"repairs", report.repairs}});
  }
  return result;
}

std::string report_table(std::span<const ReaderReport> reports) {
  std::string text;
  for (const ReaderReport& report : reports) {
    text += fmt::format("{:13} {}\n", report.reader, name_of(report.verdict));
    for (const std::string& reason : report.reasons)
      text += fmt::format("    because {}\n", reason);
    for (const std::string& note : report.notes) text += fmt::format("    note: {}\n", note);
    for (const std::string& repair : report.repairs)
      text += fmt::format("    repair: {}\n", repair);
  }
  return text;
}

}  // namespace weft::exporting
