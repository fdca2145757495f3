#include "text/gguf_vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/error.h"
#include "core/utf8.h"
#include "text/pre_tokenizers.h"
#include "text/sentencepiece_merges.h"
#include "text/white_space.h"

namespace weft::text {
namespace {

using checkpoint::Gguf;
using Json = nlohmann::ordered_json;

/// tokenizer.ggml.token_type.
enum TokenType : std::int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4 };

const PreTokenizer& find_pre(std::string_view name, const std::string& where) {
  if (const PreTokenizer* const pre = find_pre_tokenizer(name)) return *pre;
  throw InputError("{}: the pre-tokenizer '{}' (tokenizer.ggml.pre) is not supported; known are {}",
                   where, name, known_pre_tokenizers());
}

/// The arrays of a file's vocabulary, checked against each other.
struct Entries {
  std::string where;
  std::span<const std::string_view> tokens;
  std::vector<std::int64_t> types;  ///< One a token; kNormal where the file does not say.
  std::unordered_map<std::string_view, std::size_t> ids;

  [[nodiscard]] bool is_added(std::size_t id) const {
    return types[id] == kControl || types[id] == kUserDefined;
  }
};

Entries read_entries(const Gguf& gguf) {
  Entries entries{.where = gguf.path().string(), .tokens = {}, .types = {}, .ids = {}};
  const auto tokens = gguf.strings("tokenizer.ggml.tokens");
  if (!tokens || tokens->empty()) {
    throw InputError("{} embeds no vocabulary (tokenizer.ggml.tokens)", entries.where);
  }
  entries.tokens = *tokens;
  entries.types = gguf.integers("tokenizer.ggml.token_type")
                      .value_or(std::vector<std::int64_t>(tokens->size(), kNormal));
  if (entries.types.size() != tokens->size()) {
    throw InputError("{}: tokenizer.ggml.token_type has {} entries, tokenizer.ggml.tokens {}",
                     entries.where, entries.types.size(), tokens->size());
  }
  entries.ids.reserve(tokens->size());
  for (std::size_t id = 0; id < tokens->size(); ++id) {
    const std::string_view token = (*tokens)[id];
    if (core::replace_invalid_utf8(token) != token) {
      throw InputError("{}: token {} (tokenizer.ggml.tokens) is not valid UTF-8", entries.where,
                       id);
    }
    if (const auto [same, is_new] = entries.ids.try_emplace(token, id); !is_new) {
      throw InputError("{}: tokens {} and {} (tokenizer.ggml.tokens) are both '{}'", entries.where,
                       same->second, id, token);
    }
  }
  return entries;
}

Json sequence(const char* items, Json parts) {
  return {{"type", "Sequence"}, {items, std::move(parts)}};
}

Json replace(std::string_view from, std::string_view to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

/// The special tokens of a file: name in transformers, id.
struct Special {
  const char* name;
  const char* key;
};
constexpr std::array kSpecials{
    Special{"bos_token", "tokenizer.ggml.bos_token_id"},
    Special{"eos_token", "tokenizer.ggml.eos_token_id"},
    Special{"unk_token", "tokenizer.ggml.unknown_token_id"},
    Special{"pad_token", "tokenizer.ggml.padding_token_id"},
    Special{"sep_token", "tokenizer.ggml.seperator_token_id"},
    Special{"mask_token", "tokenizer.ggml.mask_token_id"},
};

std::optional<std::size_t> token_id(const Gguf& gguf, const Entries& entries, const char* key) {
  const auto id = gguf.integer(key);
  if (!id || *id < 0) return std::nullopt;
  if (static_cast<std::uint64_t>(*id) >= entries.tokens.size()) {
    throw InputError("{}: {} is {}, but the vocabulary has {} tokens", entries.where, key, *id,
                     entries.tokens.size());
  }
  return static_cast<std::size_t>(*id);
}

/// Ids of every token that text is searched for first, in order: control and user-defined tokens,
/// and those the file names as BOS, EOS and so on.
std::vector<std::size_t> added_ids(const Gguf& gguf, const Entries& entries) {
  std::vector<std::size_t> ids;
  for (std::size_t id = 0; id < entries.tokens.size(); ++id) {
    if (entries.is_added(id) && !entries.tokens[id].empty()) ids.push_back(id);
  }
  for (const Special& special : kSpecials) {
    const auto id = token_id(gguf, entries, special.key);
    if (id && std::ranges::find(ids, *id) == ids.end()) ids.push_back(*id);
  }
  std::ranges::sort(ids);
  return ids;
}

Json added_token(const Entries& entries, std::size_t id) {
  return {{"content", entries.tokens[id]},
          {"single_word", false},
          {"lstrip", false},
          {"rstrip", false},
          {"normalized", false},
          {"special", entries.types[id] != kUserDefined}};
}

/// BOS and EOS around the text where the file asks for them; null where it does not.
Json post_processor(const Gguf& gguf, const Entries& entries, bool bos_by_default) {
  Json single = Json::array();
  Json pair = Json::array();
  Json specials = Json::object();
  const auto add = [&](Json& items, std::size_t id, int type) {
    const std::string token(entries.tokens[id]);
    items.push_back({{"SpecialToken", {{"id", token}, {"type_id", type}}}});
    specials[token] = {{"id", token}, {"ids", {id}}, {"tokens", {token}}};
  };
  const auto bos = gguf.boolean("tokenizer.ggml.add_bos_token").value_or(bos_by_default)
                       ? token_id(gguf, entries, "tokenizer.ggml.bos_token_id")
                       : std::nullopt;
  const auto eos = gguf.boolean("tokenizer.ggml.add_eos_token").value_or(false)
                       ? token_id(gguf, entries, "tokenizer.ggml.eos_token_id")
                       : std::nullopt;
  for (const auto& [sequence_name, type] : {std::pair{"A", 0}, std::pair{"B", 1}}) {
    if (bos) add(pair, *bos, type);
    pair.push_back({{"Sequence", {{"id", sequence_name}, {"type_id", type}}}});
    if (eos) add(pair, *eos, type);
    if (type == 0) single = pair;
  }
  if (specials.empty()) return nullptr;
  return {{"type", "TemplateProcessing"},
          {"single", single},
          {"pair", pair},
          {"special_tokens", specials}};
}

/// The model's part of tokenizer.json, written by hand: objects of this size are slow as JSON
/// values.
std::string bpe_model(const Entries& entries, const Json& settings,
                      const std::vector<std::pair<std::string, std::string>>& merges) {
  std::string text = settings.dump();
  text.pop_back();  // the closing brace
  text += ",\"vocab\":{";
  for (std::size_t id = 0; id < entries.tokens.size(); ++id) {
    if (id > 0) text += ',';
    text += fmt::format("{}:{}", Json(entries.tokens[id]).dump(), id);
  }
  text += "},\"merges\":[";
  for (std::size_t i = 0; i < merges.size(); ++i) {
    if (i > 0) text += ',';
    text += fmt::format("[{},{}]", Json(merges[i].first).dump(), Json(merges[i].second).dump());
  }
  return text + "]}";
}

std::string tokenizer_json(const Gguf& gguf, const Entries& entries, const Json& rest,
                           const std::string& model) {
  Json added = Json::array();
  for (const std::size_t id : added_ids(gguf, entries)) {
    Json token = {{"id", id}};
    token.update(added_token(entries, id));
    added.push_back(std::move(token));
  }
  Json document = {{"version", "1.0"},
                   {"truncation", nullptr},
                   {"padding", nullptr},
                   {"added_tokens", std::move(added)}};
  document.update(rest);
  std::string text = document.dump();
  text.pop_back();
  return fmt::format("{},\"model\":{}}}\n", text, model);
}

std::string byte_level_json(const Gguf& gguf, const Entries& entries) {
  const auto name = gguf.string("tokenizer.ggml.pre");
  if (!name) {
    throw InputError(
        "{} does not say how its text is split (no tokenizer.ggml.pre): it was written by an old "
        "converter; convert the model again",
        entries.where);
  }
  const PreTokenizer& pre = find_pre(*name, entries.where);
  const auto lines = gguf.strings("tokenizer.ggml.merges");
  if (!lines) throw InputError("{} has no merges (tokenizer.ggml.merges)", entries.where);
  std::vector<std::pair<std::string, std::string>> merges;
  merges.reserve(lines->size());
  for (const std::string_view line : *lines) {
    const std::size_t space = line.find(' ', 1);
    if (space == std::string_view::npos || space + 1 == line.size()) {
      throw InputError("{}: merge {} (tokenizer.ggml.merges) is '{}', not two tokens",
                       entries.where, merges.size(), line);
    }
    merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  const Json settings = {{"type", "BPE"},
                         {"dropout", nullptr},
                         {"unk_token", nullptr},
                         {"continuing_subword_prefix", nullptr},
                         {"end_of_word_suffix", nullptr},
                         {"fuse_unk", false},
                         {"byte_fallback", false},
                         {"ignore_merges", pre.ignore_merges}};
  const Json rest = {{"normalizer", pre.nfc ? Json{{"type", "NFC"}} : Json(nullptr)},
                     {"pre_tokenizer", pre_tokenizer_json(pre)},
                     {"post_processor", post_processor(gguf, entries, pre.add_bos)},
                     {"decoder", byte_level_step(true)}};
  return tokenizer_json(gguf, entries, rest, bpe_model(entries, settings, merges));
}

std::string sentencepiece_json(const Gguf& gguf, const Entries& entries) {
  const auto scores = gguf.reals("tokenizer.ggml.scores");
  if (!scores || scores->size() != entries.tokens.size()) {
    throw InputError("{}: tokenizer.ggml.scores has {} entries, tokenizer.ggml.tokens {}",
                     entries.where, scores ? scores->size() : 0, entries.tokens.size());
  }
  if (!std::ranges::all_of(*scores, [](float score) { return std::isfinite(score); })) {
    throw InputError("{}: tokenizer.ggml.scores holds a number that is not finite", entries.where);
  }
  const bool prefix = gguf.boolean("tokenizer.ggml.add_space_prefix").value_or(true);
  const auto unknown = token_id(gguf, entries, "tokenizer.ggml.unknown_token_id");
  const Json settings = {{"type", "BPE"},
                         {"dropout", nullptr},
                         {"unk_token", unknown ? Json(entries.tokens[*unknown]) : Json(nullptr)},
                         {"continuing_subword_prefix", nullptr},
                         {"end_of_word_suffix", nullptr},
                         {"fuse_unk", true},
                         {"byte_fallback", true},
                         {"ignore_merges", false}};
  // Llama's own tokenizer.json: a space before every piece of text, also after a special token,
  // which is what llama.cpp does too.
  Json normalizers = Json::array();
  if (prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", kSentencePieceSpace}});
  normalizers.push_back(replace(" ", kSentencePieceSpace));
  Json decoders = {
      replace(kSentencePieceSpace, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
  if (prefix) {
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  const Json rest = {{"normalizer", sequence("normalizers", std::move(normalizers))},
                     {"pre_tokenizer", nullptr},
                     {"post_processor", post_processor(gguf, entries, true)},
                     {"decoder", sequence("decoders", std::move(decoders))}};
  return tokenizer_json(gguf, entries, rest,
                        bpe_model(entries, settings, merges_of_pieces(entries.tokens, *scores)));
}

/// The template as text, or as transformers' list of named ones where the file has several.
Json chat_templates(const Gguf& gguf) {
  const auto plain = gguf.string("tokenizer.chat_template");
  Json named = Json::array();
  constexpr std::string_view kPrefix = "tokenizer.chat_template.";
  for (const checkpoint::GgufEntry& entry : gguf.metadata()) {
    if (!entry.key.starts_with(kPrefix)) continue;
    if (const auto text = gguf.string(entry.key)) {
      named.push_back({{"name", entry.key.substr(kPrefix.size())}, {"template", *text}});
    }
  }
  if (named.empty()) return plain ? Json(*plain) : Json(nullptr);
  if (plain) named.insert(named.begin(), Json{{"name", "default"}, {"template", *plain}});
  return named;
}

std::string pretty(const Json& value) {
  return value.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string config_json(const Gguf& gguf, const Entries& entries, const Json& specials) {
  Json decoder = Json::object();
  for (const std::size_t id : added_ids(gguf, entries)) {
    decoder[std::to_string(id)] = added_token(entries, id);
  }
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"added_tokens_decoder", std::move(decoder)},
                 {"clean_up_tokenization_spaces", false}};
  config.update(specials);
  const auto family = gguf.string("general.architecture");
  const auto length =
      family ? gguf.integer(fmt::format("{}.context_length", *family)) : std::nullopt;
  if (length && *length > 0) config["model_max_length"] = *length;
  if (Json templates = chat_templates(gguf); !templates.is_null()) {
    config["chat_template"] = std::move(templates);
  }
  return pretty(config);
}

/// Ids that end a turn: EOS, then the end-of-turn and end-of-message ids that differ from it.
std::vector<std::size_t> end_ids(const Gguf& gguf, const Entries& entries) {
  std::vector<std::size_t> ids;
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    const auto id = token_id(gguf, entries, key);
    if (id && std::ranges::find(ids, *id) == ids.end()) ids.push_back(*id);
  }
  return ids;
}

std::string_view model_of(const Gguf& gguf) {
  const auto model = gguf.string("tokenizer.ggml.model");
  if (!model) {
    throw InputError("{} embeds no vocabulary (tokenizer.ggml.model)", gguf.path().string());
  }
  if (*model != "gpt2" && *model != "llama") {
    throw InputError(
        "{}: the vocabulary kind '{}' (tokenizer.ggml.model) is not supported; known "
        "are gpt2, llama",
        gguf.path().string(), *model);
  }
  return *model;
}

}  // namespace

std::map<std::string, std::string> tokenizer_files(const Gguf& gguf) {
  const bool is_byte_level = model_of(gguf) == "gpt2";
  const Entries entries = read_entries(gguf);
  Json specials = Json::object();
  for (const Special& special : kSpecials) {
    if (const auto id = token_id(gguf, entries, special.key)) {
      specials[special.name] = entries.tokens[*id];
    }
  }
  std::map<std::string, std::string> files{
      {"tokenizer.json",
       is_byte_level ? byte_level_json(gguf, entries) : sentencepiece_json(gguf, entries)},
      {"tokenizer_config.json", config_json(gguf, entries, specials)},
      {"special_tokens_map.json", pretty(specials)}};
  if (const std::vector<std::size_t> ends = end_ids(gguf, entries); ends.size() > 1) {
    files["generation_config.json"] = pretty({{"eos_token_id", ends}});
  }
  return files;
}

std::string vocabulary_kind(const Gguf& gguf) {
  if (model_of(gguf) == "llama") return "llama";
  return fmt::format("gpt2, pre {}", gguf.string("tokenizer.ggml.pre").value_or("none"));
}

}  // namespace weft::text
