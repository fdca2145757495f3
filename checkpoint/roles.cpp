#include "checkpoint/roles.h"

#include <algorithm>
#include <array>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/family.h"
#include "core/error.h"

namespace weft::checkpoint {
namespace {

using nlohmann::json;
using Name = std::string_view;

// Families without a row in checkpoint/family.h: where a kind of model stores its embedding and its
// head, the usual name first. transformers renames what older versions stored otherwise
// (conversion_mapping.py), so that there are several.
constexpr std::array<Name, 2> kPlainEmbedding{"model.embed_tokens.weight", "embed_tokens.weight"};
constexpr std::array<Name, 1> kPlainHead{"lm_head.weight"};
constexpr std::array<Name, 4> kNestedEmbedding{
    "model.language_model.embed_tokens.weight", "language_model.model.embed_tokens.weight",
    "model.text_model.embed_tokens.weight", "model.embed_tokens.weight"};
constexpr std::array<Name, 3> kNestedHead{"lm_head.weight", "language_model.lm_head.weight",
                                          "model.language_model.lm_head.weight"};
constexpr std::array<Name, 2> kWteEmbedding{"transformer.wte.weight", "wte.weight"};
constexpr std::array<Name, 3> kDecoderEmbedding{
    "model.decoder.embed_tokens.weight", "decoder.embed_tokens.weight", "model.shared.weight"};
constexpr std::array<Name, 2> kNeoxEmbedding{"gpt_neox.embed_in.weight", "embed_in.weight"};
constexpr std::array<Name, 2> kNeoxHead{"embed_out.weight", "lm_head.weight"};
constexpr std::array<Name, 2> kBackboneEmbedding{"backbone.embeddings.weight",
                                                 "backbone.embedding.weight"};

struct Names {
  std::span<const Name> types;
  std::span<const Name> embedding;
  std::span<const Name> head;
  Name prefix{};  ///< That published files may lack.
};

constexpr std::array<Name, 53> kPlainTypes{"afmoe",
                                           "apertus",
                                           "arcee",
                                           "bamba",
                                           "bitnet",
                                           "cwm",
                                           "deepseek_v2",
                                           "deepseek_v3",
                                           "diffllama",
                                           "doge",
                                           "ernie4_5",
                                           "ernie4_5_moe",
                                           "exaone4",
                                           "falcon_h1",
                                           "flex_olmo",
                                           "gemma4_text",
                                           "glm4_moe",
                                           "glm4_moe_lite",
                                           "granitemoe",
                                           "granitemoehybrid",
                                           "granitemoeshared",
                                           "helium",
                                           "hunyuan_v1_dense",
                                           "internlm3",
                                           "jais2",
                                           "jamba",
                                           "jetmoe",
                                           "kimi_linear",
                                           "lfm2",
                                           "llama4_text",
                                           "longcat_flash",
                                           "minicpm3",
                                           "minimax",
                                           "minimax_m2",
                                           "ministral3",
                                           "nanochat",
                                           "nemotron",
                                           "olmo",
                                           "olmo3",
                                           "olmoe",
                                           "persimmon",
                                           "phimoe",
                                           "qwen3_5_text",
                                           "qwen3_5_moe_text",
                                           "qwen3_next",
                                           "recurrent_gemma",
                                           "seed_oss",
                                           "solar_open",
                                           "stablelm",
                                           "starcoder2",
                                           "vaultgemma",
                                           "xglm",
                                           "zamba2"};
constexpr std::array<Name, 33> kNestedTypes{
    "aria",       "aya_vision",       "cohere2_vision",  "fuyu",      "gemma3",
    "gemma3n",    "gemma4",           "glm4v",           "glm4v_moe", "got_ocr2",
    "idefics2",   "idefics3",         "internvl",        "llama4",    "llava",
    "llava_next", "llava_next_video", "llava_onevision", "mistral3",  "ovis2",
    "paligemma",  "qwen2_5_vl",       "qwen2_vl",        "qwen3_5",   "qwen3_5_moe",
    "qwen3_vl",   "qwen3_vl_moe",     "shieldgemma2",    "smolvlm",   "video_llava",
    "vipllava",   "mllama",           "lfm2_vl"};
constexpr std::array<Name, 6> kWteTypes{"gpt-sw3", "gpt_bigcode", "gpt_neo",
                                        "gptj",    "codegen",     "mpt"};
constexpr std::array<Name, 3> kDecoderTypes{"bart", "mbart", "pegasus"};
constexpr std::array<Name, 1> kNeoxTypes{"gpt_neox_japanese"};
constexpr std::array<Name, 3> kBackboneTypes{"mamba", "mamba2", "falcon_mamba"};

constexpr std::array kNames{Names{kPlainTypes, kPlainEmbedding, kPlainHead},
                            Names{kNestedTypes, kNestedEmbedding, kNestedHead},
                            Names{kWteTypes, kWteEmbedding, kPlainHead, "transformer."},
                            Names{kDecoderTypes, kDecoderEmbedding, kPlainHead, "model."},
                            Names{kNeoxTypes, kNeoxEmbedding, kNeoxHead, "gpt_neox."},
                            Names{kBackboneTypes, kBackboneEmbedding, kPlainHead}};

// Families whose configuration ties the head when it does not say so (configuration_*.py of
// transformers 5.23); every other family is untied by default.
constexpr std::array<Name, 49> kTiedByDefault{"bart",
                                              "bloom",
                                              "cohere",
                                              "cohere2",
                                              "cohere2_moe",
                                              "cohere2_vision",
                                              "ernie4_5",
                                              "ernie4_5_moe",
                                              "ernie4_5_vl_moe",
                                              "falcon",
                                              "falcon_mamba",
                                              "gemma",
                                              "gemma2",
                                              "gemma3",
                                              "gemma3_text",
                                              "gemma3n",
                                              "gemma3n_text",
                                              "gemma4",
                                              "gemma4_text",
                                              "got_ocr2",
                                              "gpt-sw3",
                                              "gpt2",
                                              "gpt_bigcode",
                                              "gpt_neo",
                                              "gpt_neox_japanese",
                                              "internvl",
                                              "jetmoe",
                                              "lfm2",
                                              "lfm2_vl",
                                              "mamba",
                                              "mbart",
                                              "minicpm3",
                                              "mistral3",
                                              "mpt",
                                              "openai-gpt",
                                              "opt",
                                              "ovis2",
                                              "paligemma",
                                              "pegasus",
                                              "recurrent_gemma",
                                              "shieldgemma2",
                                              "smollm3",
                                              "starcoder2",
                                              "vaultgemma",
                                              "xglm",
                                              "youtu",
                                              "zamba",
                                              "zamba2",
                                              "zaya"};

bool contains(std::span<const Name> names, Name name) {
  return std::ranges::find(names, name) != names.end();
}

Name type_of(const json& config) {
  const auto type = config.find("model_type");
  if (type == config.end() || !type->is_string()) return {};
  return type->get_ref<const std::string&>();
}

const Names* kind_of(const json& config) {
  const Name type = type_of(config);
  const auto found =
      std::ranges::find_if(kNames, [&](const Names& kind) { return contains(kind.types, type); });
  return found == kNames.end() ? nullptr : &*found;
}

/// What families with a row may lack at the beginning of their names.
constexpr std::array kPrefixes{
    std::pair<Name, Name>{"gpt2", "transformer."}, std::pair<Name, Name>{"bloom", "transformer."},
    std::pair<Name, Name>{"falcon", "transformer."}, std::pair<Name, Name>{"opt", "model."},
    std::pair<Name, Name>{"gpt_neox", "gpt_neox."}};

/// "model.embed_tokens.weight", and without what files of the body alone lack.
std::vector<std::string> spellings(const Family& family, Part part) {
  std::vector<std::string> names;
  for (const TensorRow& row : family.tensors) {
    if (row.part == part) names.push_back(std::string(row.name) + ".weight");
  }
  if (names.empty()) return names;
  const std::string first = names.front();
  if (part == Part::kEmbedding) names.push_back(first.substr(first.find('.') + 1));
  // What PEFT and older versions of transformers call it.
  if (part == Part::kHead && first != kPlainHead.front()) names.emplace_back(kPlainHead.front());
  return names;
}

std::string first_of(const std::vector<std::string>& names, const std::function<bool(Name)>& has) {
  const auto found = std::ranges::find_if(names, has);
  return found == names.end() ? std::string() : *found;
}

std::string first_of(std::span<const Name> names, const std::function<bool(Name)>& has) {
  const auto found = std::ranges::find_if(names, has);
  return found == names.end() ? std::string() : std::string(*found);
}

/// What a configuration or its text_config says; nothing where it does not.
std::optional<bool> stated_tie(const json& config, Name where) {
  const auto tied = config.find("tie_word_embeddings");
  if (tied == config.end() || tied->is_null()) return std::nullopt;
  if (tied->is_boolean()) return tied->get<bool>();
  throw InputError("{}: tie_word_embeddings must be true or false, found {}", where, tied->dump());
}

}  // namespace

RoleNames role_names(const json& config, const std::function<bool(Name)>& has) {
  RoleNames names;
  if (const Family* const family = find_family_of(type_of(config))) {
    const auto embedding = spellings(*family, Part::kEmbedding);
    const auto head = spellings(*family, Part::kHead);
    names.embedding = first_of(embedding, has);
    names.head = first_of(head, has);
    names.usual_embedding = embedding.front();
    names.usual_head = head.front();
    return names;
  }
  if (const Names* const kind = kind_of(config)) {
    names.embedding = first_of(kind->embedding, has);
    names.head = first_of(kind->head, has);
    names.usual_embedding = kind->embedding.front();
    names.usual_head = kind->head.front();
    return names;
  }
  for (const Family& family : families()) {
    if (names.embedding.empty()) {
      names.embedding = first_of(spellings(family, Part::kEmbedding), has);
    }
    if (names.head.empty()) names.head = first_of(spellings(family, Part::kHead), has);
  }
  for (const Names& kind : kNames) {
    if (names.embedding.empty()) names.embedding = first_of(kind.embedding, has);
    if (names.head.empty()) names.head = first_of(kind.head, has);
  }
  return names;
}

bool ties_head(const json& config, Name where) {
  if (const auto stated = stated_tie(config, where)) return *stated;
  const auto text = config.find("text_config");
  if (text != config.end() && text->is_object()) {
    if (const auto stated = stated_tie(*text, where)) return *stated;
  }
  return contains(kTiedByDefault, type_of(config));
}

bool is_head_name(Name tensor) {
  const auto is_row = [&](const Family& family) {
    return std::ranges::any_of(family.tensors, [&](const TensorRow& row) {
      return row.part == Part::kHead && tensor == std::string(row.name) + ".weight";
    });
  };
  return std::ranges::any_of(families(), is_row) ||
         std::ranges::any_of(kNames,
                             [&](const Names& kind) { return contains(kind.head, tensor); });
}

Roles roles_of(const Checkpoint& model) {
  const auto has = [&](Name name) { return model.find(name) != nullptr; };
  const RoleNames names = role_names(model.config(), has);
  Roles roles;
  if (!names.embedding.empty()) roles.embedding = model.find(names.embedding);
  if (!names.head.empty()) roles.head = model.find(names.head);
  roles.head_name = names.head.empty() ? names.usual_head : names.head;
  roles.tied = roles.head == nullptr && roles.embedding != nullptr &&
               ties_head(model.config(), model.path().string());
  return roles;
}

Name optional_prefix(const json& config) {
  const auto prefix = std::ranges::find(kPrefixes, type_of(config), &std::pair<Name, Name>::first);
  if (prefix != kPrefixes.end()) return prefix->second;
  const Names* const kind = kind_of(config);
  return kind == nullptr ? Name() : kind->prefix;
}

}  // namespace weft::checkpoint
