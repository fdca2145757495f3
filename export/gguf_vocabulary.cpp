#include "export/gguf_vocabulary.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "export/pre_tokenizer.h"
#include "text/pre_tokenizers.h"
#include "text/template_file.h"
#include "text/tokenizer.h"
#include "text/tokenizer_config.h"
#include "text/white_space.h"

namespace weft::exporting {
namespace {

// Objects with an index: tokenizer.json has one with as many keys as there are tokens.
using Json = nlohmann::json;

/// tokenizer.ggml.token_type
enum TokenType : std::int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

constexpr float kAddedScore = -1000.0F;
constexpr float kPaddingScore = -10000.0F;

/// The files of a tokenizer, read once.
struct Source {
  std::filesystem::path folder;
  text::FileTexts files;
  Json tokenizer;  ///< tokenizer.json; an empty object when absent.
  Json config;     ///< tokenizer_config.json
  Json model;      ///< config.json
  text::TokenizerConfig parsed;
};

Source read_source(const checkpoint::Checkpoint& model) {
  Source source;
  source.folder = model.path();
  for (const char* name : {"tokenizer.json", "tokenizer.model", "tokenizer_config.json",
                           "special_tokens_map.json", "added_tokens.json", "config.json",
                           "generation_config.json", "chat_template.jinja", "chat_template.json"}) {
    if (std::filesystem::is_regular_file(source.folder / name)) {
      source.files[name] = core::read_text(source.folder / name);
    }
  }
  const std::string where = source.folder.string();
  // text::Tokenizer has read it before, and complained if it is no JSON.
  const auto file = source.files.find("tokenizer.json");
  source.tokenizer = file == source.files.end() ? Json::object() : Json::parse(file->second);
  source.config = text::parse_object(source.files, "tokenizer_config.json", where);
  source.model = text::parse_object(source.files, "config.json", where);
  source.parsed = text::TokenizerConfig::parse(source.files, where);
  return source;
}

struct Entries {
  std::vector<std::string> tokens;
  std::vector<std::int32_t> types;
  std::vector<float> scores;  ///< Empty for byte-level BPE.
};

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (std::size_t at = text.find(from); at != text.npos; at = text.find(from)) {
    out.append(text.substr(0, at)).append(to);
    text.remove_prefix(at + from.size());
  }
  return out.append(text);
}

/// Added tokens that are control tokens whatever their flag says (does_token_look_special).
bool looks_special(std::string_view token) {
  constexpr std::array<std::string_view, 4> kNames{"<pad>", "<mask>", "<2mass>", "[@BOS@]"};
  return std::ranges::find(kNames, token) != kNames.end() ||
         (token.starts_with("<|") && token.ends_with("|>")) ||
         (token.starts_with("<｜") && token.ends_with("｜>")) ||
         (token.starts_with("<unused") && token.ends_with(">"));
}

/// Added tokens by text: those of tokenizer.json, then those of tokenizer_config.json.
std::map<std::string, text::AddedToken> added_tokens(const Source& source) {
  std::map<std::string, text::AddedToken> added;
  for (const Json& entry : source.tokenizer.value("added_tokens", Json::array())) {
    text::AddedToken token;
    token.content = entry.value("content", "");
    token.special = entry.value("special", false);
    token.normalized = entry.value("normalized", true);
    added[token.content] = token;
  }
  for (const text::AddedToken& token : source.parsed.added_tokens) {
    added.insert_or_assign(token.content, token);
  }
  return added;
}

[[noreturn]] void too_many(const Source& source, std::int64_t tokens, std::int64_t rows) {
  throw InputError(
      "{}: the tokenizer has {} tokens, the embedding {} rows; resize the model's embeddings, or "
      "take the tokenizer that belongs to it",
      source.folder.string(), tokens, rows);
}

Entries byte_level_entries(const Source& source, const text::Tokenizer& tokenizer,
                           std::int64_t size) {
  const auto added = added_tokens(source);
  Entries entries;
  for (std::int32_t id = 0; id < size; ++id) {
    std::optional<std::string> token = tokenizer.id_to_token(id);
    std::int32_t type = kNormal;
    if (!token) {
      token = fmt::format("[PAD{}]", id);
      type = kUnused;
    } else if (const auto found = added.find(*token); found != added.end()) {
      // llama.cpp searches text for these as they are.
      if (!found->second.normalized) token = tokenizer.decode(tokenizer.encode(*token));
      const bool control = found->second.special || looks_special(*token);
      type = control ? kControl : kUserDefined;
      if (!control) token = replace_all(*token, text::kSentencePieceSpace, " ");
    }
    entries.tokens.push_back(std::move(*token));
    entries.types.push_back(type);
  }
  return entries;
}

/// "a b" for each merge; a space inside a part is written as byte-level BPE writes it.
std::vector<std::string> merges_of(const Source& source) {
  const auto part = [](const Json& text) {
    return replace_all(text.get<std::string>(), " ", "\xC4\xA0");
  };
  std::vector<std::string> merges;
  for (const Json& merge : source.tokenizer.at("model").value("merges", Json::array())) {
    if (merge.is_string()) {
      merges.push_back(merge.get<std::string>());
    } else if (merge.is_array() && merge.size() == 2) {
      merges.push_back(fmt::format("{} {}", part(merge[0]), part(merge[1])));
    } else {
      throw InputError("{}/tokenizer.json: merge {} is no pair of tokens", source.folder.string(),
                       merges.size());
    }
  }
  return merges;
}

/// Added tokens over the pieces, in the order in which the converter lays them.
void overlay_added(const Source& source, Entries& entries) {
  const auto place = [&](std::int64_t id, std::string token, std::int32_t type) {
    const auto size = static_cast<std::int64_t>(entries.tokens.size());
    if (id < 0 || id >= size) too_many(source, id + 1, size);
    if (type == kUserDefined) token = replace_all(token, text::kSentencePieceSpace, " ");
    const auto at = static_cast<std::size_t>(id);
    entries.tokens[at] = std::move(token);
    entries.types[at] = type;
    entries.scores[at] = kAddedScore;
  };
  const Json from_file =
      text::parse_object(source.files, "added_tokens.json", source.folder.string());
  for (const auto& [token, id] : from_file.items()) {
    place(id.get<std::int64_t>(), token, kUserDefined);
  }
  for (const Json& token : source.tokenizer.value("added_tokens", Json::array())) {
    const auto id = token.at("id").get<std::int64_t>();
    const std::string content = token.at("content").get<std::string>();
    const auto at = static_cast<std::size_t>(id);
    // The model's own pieces (<s>, <0x0A> ...) are listed there too and keep their types.
    if (at < entries.types.size() && entries.tokens[at] == content) continue;
    const bool control = token.value("special", false) || looks_special(content);
    place(id, content, control ? kControl : kUserDefined);
  }
  for (const auto& [id, token] :
       source.config.value("added_tokens_decoder", Json::object()).items()) {
    const std::string content = token.at("content").get<std::string>();
    const bool control = token.value("special", false) || looks_special(content);
    place(std::stoll(id), content, control ? kControl : kUserDefined);
  }
}

Entries padded_entries(std::int64_t size) {
  Entries entries;
  const auto count = static_cast<std::size_t>(size);
  entries.types.assign(count, kUnused);
  entries.scores.assign(count, kPaddingScore);
  for (std::int64_t id = 0; id < size; ++id) entries.tokens.push_back(fmt::format("[PAD{}]", id));
  return entries;
}

Entries sentencepiece_entries(const Source& source, std::int64_t size) {
  sentencepiece::SentencePieceProcessor pieces;
  if (const auto status = pieces.LoadFromSerializedProto(source.files.at("tokenizer.model"));
      !status.ok()) {
    throw InputError("{}/tokenizer.model: {}", source.folder.string(), status.ToString());
  }
  Entries entries = padded_entries(size);
  if (pieces.GetPieceSize() > size) too_many(source, pieces.GetPieceSize(), size);
  for (int id = 0; id < pieces.GetPieceSize(); ++id) {
    const auto at = static_cast<std::size_t>(id);
    entries.tokens[at] = pieces.IdToPiece(id);
    entries.scores[at] = pieces.GetScore(id);
    entries.types[at] = pieces.IsUnknown(id)   ? kUnknown
                        : pieces.IsControl(id) ? kControl
                        : pieces.IsUnused(id)  ? kUnused
                        : pieces.IsByte(id)    ? kByte
                                               : kNormal;
  }
  overlay_added(source, entries);
  return entries;
}

/// "<0x0A>"
bool is_byte_piece(std::string_view token) {
  return token.size() == 6 && token.starts_with("<0x") && token.ends_with(">");
}

/// What a merge makes: of "a b" or ["a", "b"].
std::string merged(const Json& merge) {
  if (merge.is_array() && merge.size() == 2) {
    return fmt::format("{}{}", merge[0].get<std::string>(), merge[1].get<std::string>());
  }
  return replace_all(merge.get<std::string>(), " ", "");
}

/// A tokenizer.json that was made of a SentencePiece model. llama.cpp merges the pair whose result
/// has the highest score, so a token's score is the place of the first merge that makes it.
Entries fallback_entries(const Source& source, const text::Tokenizer& tokenizer,
                         std::int64_t size) {
  Entries entries = padded_entries(size);
  std::unordered_map<std::string, float> first_merge;
  float place = 0;
  for (const Json& merge : source.tokenizer.at("model").value("merges", Json::array())) {
    first_merge.try_emplace(merged(merge), -place);
    place += 1;
  }
  const auto unknown = source.tokenizer.at("model").value("unk_token", Json());
  for (std::int32_t id = 0; id < tokenizer.vocabulary_size(); ++id) {
    const auto token = tokenizer.id_to_token(id);
    if (!token) continue;
    const auto at = static_cast<std::size_t>(id);
    const auto found = first_merge.find(*token);
    entries.tokens[at] = *token;
    entries.scores[at] = found != first_merge.end() ? found->second : -place;
    entries.types[at] = unknown.is_string() && unknown == *token ? kUnknown
                        : is_byte_piece(*token)                  ? kByte
                                                                 : kNormal;
  }
  for (const auto& [content, token] : added_tokens(source)) {
    const auto id = tokenizer.token_to_id(content);
    if (!id) continue;
    const auto at = static_cast<std::size_t>(*id);
    if (entries.types[at] == kUnknown) continue;
    const bool control = token.special || looks_special(content);
    entries.types[at] = control ? kControl : kUserDefined;
    entries.scores[at] = kAddedScore;
    if (!control) entries.tokens[at] = replace_all(content, text::kSentencePieceSpace, " ");
  }
  return entries;
}

/// Splitting rules by which an extended vocabulary is recognised: the types and expressions of
/// pre_tokenizer, without their flags that do not change how text is split.
std::string splitting_rules(const Json& rule) {
  if (rule.is_null()) return "";
  if (rule.value("type", "") == "Sequence") {
    std::string all;
    for (const Json& part : rule.value("pretokenizers", Json::array())) {
      all += splitting_rules(part) + ";";
    }
    return all;
  }
  std::string text = rule.value("type", "");
  if (rule.contains("pattern")) text += rule["pattern"].dump();
  if (rule.value("individual_digits", false)) text += " digits";
  if (rule.value("type", "") == "ByteLevel" && rule.value("use_regex", true)) text += " regex";
  return text;
}

std::optional<std::string> pre_of_rules(const Source& source) {
  const std::string rules = splitting_rules(source.tokenizer.value("pre_tokenizer", Json()));
  for (const text::PreTokenizer& pre : text::pre_tokenizers()) {
    if (splitting_rules(Json::parse(text::pre_tokenizer_json(pre).dump())) == rules) {
      return std::string(pre.name);
    }
  }
  return std::nullopt;
}

std::string find_pre(const Source& source, const text::Tokenizer& tokenizer,
                     const std::optional<std::string>& given, const core::Log& log) {
  if (given) return *given;
  const std::string hash = pre_tokenizer_hash(tokenizer);
  if (const auto name = pre_tokenizer_of_hash(hash)) return *name;
  if (const auto name = pre_of_rules(source)) {
    core::tell(log, core::Level::kInfo,
               fmt::format("the vocabulary is none that llama.cpp knows (probe {}); its text is "
                           "split by the rules of '{}', which is written as tokenizer.ggml.pre",
                           hash.substr(0, 12), *name));
    return *name;
  }
  throw InputError(
      "{}: llama.cpp does not know this pre-tokenizer (probe hash {}); name the one that splits "
      "text in the same way with --pre ({}, ...)",
      source.folder.string(), hash, text::known_pre_tokenizers());
}

/// Whether a text of pieces begins with a space that it does not have (not so with Gemma's).
bool adds_space(const text::Tokenizer& tokenizer) {
  const std::vector<std::int32_t> ids = tokenizer.encode("a");
  const auto token = ids.empty() ? std::nullopt : tokenizer.id_to_token(ids.front());
  return !token || token->starts_with(text::kSentencePieceSpace);
}

/// tokenizer.ggml.add_bos_token and add_eos_token: what the tokenizer does, so that llama.cpp does
/// not follow a default of its own.
void add_rules(const text::Tokenizer& tokenizer, checkpoint::GgufFields& fields) {
  const std::vector<std::int32_t> plain = tokenizer.encode("a");
  const std::vector<std::int32_t> whole = tokenizer.encode("a", text::AddSpecial::kYes);
  const bool longer = whole.size() > plain.size();
  fields.set_bool("tokenizer.ggml.add_bos_token",
                  longer && tokenizer.bos() && whole.front() == *tokenizer.bos());
  fields.set_bool("tokenizer.ggml.add_eos_token",
                  longer && tokenizer.eos() && whole.back() == *tokenizer.eos());
}

void add_special_ids(const Source& source, const text::Tokenizer& tokenizer, std::int64_t size,
                     checkpoint::GgufFields& fields) {
  constexpr std::array<std::pair<const char*, const char*>, 7> kKeys{{{"bos", "bos_token_id"},
                                                                      {"eos", "eos_token_id"},
                                                                      {"unk", "unknown_token_id"},
                                                                      {"sep", "seperator_token_id"},
                                                                      {"pad", "padding_token_id"},
                                                                      {"cls", "cls_token_id"},
                                                                      {"mask", "mask_token_id"}}};
  for (const auto& [name, key] : kKeys) {
    std::optional<std::int64_t> id;
    const auto token = source.parsed.special_tokens.find(fmt::format("{}_token", name));
    if (token != source.parsed.special_tokens.end()) {
      id = tokenizer.token_to_id(token->get<std::string>());
    }
    const auto configured = source.model.find(fmt::format("{}_token_id", name));
    if (!id && configured != source.model.end() && configured->is_number_integer()) {
      id = configured->get<std::int64_t>();
    }
    if (id && *id >= 0 && *id < size) {
      fields.set_u32(fmt::format("tokenizer.ggml.{}", key), *id);
    }
  }
}

/// Ids at which generation_config.json ends a turn besides EOS: as the end-of-turn and
/// end-of-message ids, at which llama.cpp stops too.
void add_end_ids(const Source& source, const text::Tokenizer& tokenizer, std::int64_t size,
                 const core::Log& log, checkpoint::GgufFields& fields) {
  const Json generation =
      text::parse_object(source.files, "generation_config.json", source.folder.string());
  const Json stated = generation.value("eos_token_id", Json());
  std::vector<std::int64_t> ids;
  for (const Json& id : stated.is_array() ? stated : Json::array({stated})) {
    if (!id.is_number_integer()) continue;
    const auto value = id.get<std::int64_t>();
    const bool known = value >= 0 && value < size && value != tokenizer.eos();
    if (known && std::ranges::find(ids, value) == ids.end()) ids.push_back(value);
  }
  // What is called end of message has a key of its own.
  std::ranges::stable_partition(ids, [&](std::int64_t id) {
    const auto token = tokenizer.id_to_token(static_cast<std::int32_t>(id));
    return !token || token->find("eom") == token->npos;
  });
  constexpr std::array<const char*, 2> kKeys{"tokenizer.ggml.eot_token_id",
                                             "tokenizer.ggml.eom_token_id"};
  for (std::size_t i = 0; i < std::min(ids.size(), kKeys.size()); ++i) {
    fields.set_u32(kKeys[i], ids[i]);
  }
  if (ids.size() <= kKeys.size()) return;
  ids.erase(ids.begin(), ids.begin() + kKeys.size());
  core::tell(log, core::Level::kWarning,
             fmt::format("generation_config.json ends a turn at more ids than GGUF has keys for; "
                         "programs that read the file may not stop at {}",
                         fmt::join(ids, ", ")));
}

void add_chat_template(const Source& source, checkpoint::GgufFields& fields) {
  const text::StoredTemplate stored = text::stored_template(source.files, source.folder.string());
  const Json value = stored.value;
  if (value.is_string()) {
    fields.set_string("tokenizer.chat_template", value.get<std::string>());
  }
  if (!value.is_array()) return;
  std::vector<std::string> names;
  for (const Json& choice : value) {
    if (!choice.is_object() || !choice.value("name", Json()).is_string() ||
        !choice.value("template", Json()).is_string()) {
      throw InputError(
          "{}/{}: a chat_template of a list must be an object with a name and a template, found {}",
          source.folder.string(), stored.file,
          choice.dump(-1, ' ', false, Json::error_handler_t::replace));
    }
    std::string name = choice.value("name", "");
    const std::string text = choice.value("template", "");
    std::ranges::replace_if(
        name, [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
    if (name == "default") {
      fields.set_string("tokenizer.chat_template", text);
    } else if (!name.empty()) {
      fields.set_string("tokenizer.chat_template." + name, text);
      names.push_back(name);
    }
  }
  if (!names.empty()) fields.set_strings("tokenizer.chat_templates", names);
}

}  // namespace

void add_vocabulary(const checkpoint::Checkpoint& model, std::int64_t vocabulary_size,
                    const std::optional<std::string>& pre, const core::Log& log,
                    checkpoint::GgufFields& fields) {
  const text::Tokenizer tokenizer = text::Tokenizer::load(model);
  const Source source = read_source(model);
  if (tokenizer.vocabulary_size() > vocabulary_size) {
    too_many(source, tokenizer.vocabulary_size(), vocabulary_size);
  }
  const Json kind = source.tokenizer.value("model", Json::object());
  const bool pieces = source.files.contains("tokenizer.model");
  const bool fallback = kind.value("byte_fallback", false);
  if (!pieces && kind.value("type", "") != "BPE") {
    throw InputError(
        "{}: a tokenizer of type {} cannot be written to GGUF; BPE and SentencePiece can",
        source.folder.string(), kind.value("type", "unknown"));
  }
  const auto prefix = source.config.find("add_prefix_space");
  if (prefix != source.config.end() && prefix->is_boolean()) {
    fields.set_bool("tokenizer.ggml.add_space_prefix", prefix->get<bool>());
  } else if ((pieces || fallback) && !adds_space(tokenizer)) {
    fields.set_bool("tokenizer.ggml.add_space_prefix", false);  // llama.cpp's default is to add it.
  }
  Entries entries;
  if (pieces || fallback) {
    entries = pieces ? sentencepiece_entries(source, vocabulary_size)
                     : fallback_entries(source, tokenizer, vocabulary_size);
    fields.set_string("tokenizer.ggml.model", "llama");
    fields.set_string("tokenizer.ggml.pre", pre.value_or("default"));
  } else {
    entries = byte_level_entries(source, tokenizer, vocabulary_size);
    fields.set_string("tokenizer.ggml.model", "gpt2");
    fields.set_string("tokenizer.ggml.pre", find_pre(source, tokenizer, pre, log));
  }
  fields.set_strings("tokenizer.ggml.tokens", entries.tokens);
  if (!entries.scores.empty()) fields.set_f32s("tokenizer.ggml.scores", entries.scores);
  fields.set_i32s("tokenizer.ggml.token_type", entries.types);
  if (entries.scores.empty()) fields.set_strings("tokenizer.ggml.merges", merges_of(source));
  add_special_ids(source, tokenizer, vocabulary_size, fields);
  add_end_ids(source, tokenizer, vocabulary_size, log, fields);
  add_rules(tokenizer, fields);
  add_chat_template(source, fields);
}

}  // namespace weft::exporting
