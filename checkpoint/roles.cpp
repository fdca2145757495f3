#include "checkpoint/roles.h"

#include <algorithm>
#include <array>
#include <span>

#include "core/error.h"

namespace weft::checkpoint {
namespace {

using nlohmann::json;
using Name = std::string_view;

// Where a kind of model stores its embedding and its head, the usual name first. transformers
// renames what older versions stored otherwise (conversion_mapping.py), so that there are several.
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
constexpr std::array<Name, 2> kWordEmbedding{"transformer.word_embeddings.weight",
                                             "word_embeddings.weight"};
constexpr std::array<Name, 2> kNeoxEmbedding{"gpt_neox.embed_in.weight", "embed_in.weight"};
constexpr std::array<Name, 2> kNeoxHead{"embed_out.weight", "lm_head.weight"};
constexpr std::array<Name, 2> kBackboneEmbedding{"backbone.embeddings.weight",
                                                 "backbone.embedding.weight"};

struct Family {
  std::span<const Name> types;
  std::span<const Name> embedding;
  std::span<const Name> head;
  Name prefix{};  ///< That published files may lack.
};

constexpr std::array<Name, 74> kPlainTypes{"afmoe",
                                           "apertus",
                                           "arcee",
                                           "bamba",
                                           "bitnet",
                                           "cohere",
                                           "cohere2",
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
                                           "gemma",
                                           "gemma2",
                                           "gemma3_text",
                                           "gemma4_text",
                                           "glm",
                                           "glm4",
                                           "glm4_moe",
                                           "glm4_moe_lite",
                                           "gpt_oss",
                                           "granite",
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
                                           "llama",
                                           "llama4_text",
                                           "longcat_flash",
                                           "minicpm3",
                                           "minimax",
                                           "minimax_m2",
                                           "ministral",
                                           "ministral3",
                                           "mistral",
                                           "mixtral",
                                           "nanochat",
                                           "nemotron",
                                           "olmo",
                                           "olmo2",
                                           "olmo3",
                                           "olmoe",
                                           "persimmon",
                                           "phi",
                                           "phi3",
                                           "phimoe",
                                           "qwen2",
                                           "qwen2_moe",
                                           "qwen3",
                                           "qwen3_5_text",
                                           "qwen3_5_moe_text",
                                           "qwen3_moe",
                                           "qwen3_next",
                                           "recurrent_gemma",
                                           "seed_oss",
                                           "smollm3",
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
constexpr std::array<Name, 7> kWteTypes{"gpt2", "gpt-sw3", "gpt_bigcode", "gpt_neo",
                                        "gptj", "codegen", "mpt"};
constexpr std::array<Name, 4> kDecoderTypes{"opt", "bart", "mbart", "pegasus"};
constexpr std::array<Name, 2> kWordTypes{"bloom", "falcon"};
constexpr std::array<Name, 2> kNeoxTypes{"gpt_neox", "gpt_neox_japanese"};
constexpr std::array<Name, 3> kBackboneTypes{"mamba", "mamba2", "falcon_mamba"};

constexpr std::array kFamilies{Family{kPlainTypes, kPlainEmbedding, kPlainHead},
                               Family{kNestedTypes, kNestedEmbedding, kNestedHead},
                               Family{kWteTypes, kWteEmbedding, kPlainHead, "transformer."},
                               Family{kDecoderTypes, kDecoderEmbedding, kPlainHead, "model."},
                               Family{kWordTypes, kWordEmbedding, kPlainHead, "transformer."},
                               Family{kNeoxTypes, kNeoxEmbedding, kNeoxHead, "gpt_neox."},
                               Family{kBackboneTypes, kBackboneEmbedding, kPlainHead}};

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

const Family* family_of(const json& config) {
  const Name type = type_of(config);
  const auto found = std::ranges::find_if(
      kFamilies, [&](const Family& family) { return contains(family.types, type); });
  return found == kFamilies.end() ? nullptr : &*found;
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
  if (const Family* const family = family_of(config)) {
    names.embedding = first_of(family->embedding, has);
    names.head = first_of(family->head, has);
    names.usual_embedding = family->embedding.front();
    names.usual_head = family->head.front();
    return names;
  }
  for (const Family& family : kFamilies) {
    if (names.embedding.empty()) names.embedding = first_of(family.embedding, has);
    if (names.head.empty()) names.head = first_of(family.head, has);
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
  return std::ranges::any_of(kFamilies,
                             [&](const Family& family) { return contains(family.head, tensor); });
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
  const Family* const family = family_of(config);
  return family == nullptr ? Name() : family->prefix;
}

}  // namespace weft::checkpoint
