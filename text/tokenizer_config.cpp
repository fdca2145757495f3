#include "text/tokenizer_config.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "checkpoint/json_file.h"
#include "core/error.h"

namespace weft::text {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array kNames{"bos_token", "eos_token", "unk_token", "sep_token",
                            "pad_token", "cls_token", "mask_token"};

[[noreturn]] void reject(const std::string& where, std::string_view key, std::string_view wanted,
                         const Json& found) {
  throw InputError("{}: '{}' in the tokenizer's files: expected {}, found {}", where, key, wanted,
                   found.type_name());
}

bool flag(const Json& object, const char* key, bool otherwise) {
  const auto found = object.find(key);
  return found != object.end() && found->is_boolean() ? found->get<bool>() : otherwise;
}

std::optional<bool> optional_flag(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_boolean()) return std::nullopt;
  return found->get<bool>();
}

/// A token as string or as object with "content"; nothing for null.
std::optional<AddedToken> token_of(const Json& value, std::string_view key, bool special,
                                   const std::string& where) {
  if (value.is_null()) return std::nullopt;
  if (value.is_string()) {
    return AddedToken{.content = value.get<std::string>(),
                      .special = special,
                      .normalized = !special,
                      .id = std::nullopt};
  }
  if (!value.is_object() || !value.contains("content") || !value["content"].is_string()) {
    reject(where, key, "a string or an object with \"content\"", value);
  }
  const bool is_special = special || flag(value, "special", false);
  return AddedToken{.content = value["content"].get<std::string>(),
                    .special = is_special,
                    .normalized = flag(value, "normalized", !is_special),
                    .lstrip = flag(value, "lstrip", false),
                    .rstrip = flag(value, "rstrip", false),
                    .single_word = flag(value, "single_word", false),
                    .id = std::nullopt};
}

std::vector<std::int32_t> ids_of(const Json& object, const char* key, const std::string& where) {
  std::vector<std::int32_t> ids;
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return ids;
  const auto take = [&](const Json& value) {
    if (!value.is_number_integer() || value.get<std::int64_t>() < -1 ||
        value.get<std::int64_t>() > std::int64_t{0x7FFFFFFF}) {
      reject(where, key, "token ids", value);
    }
    if (value.get<std::int64_t>() >= 0) ids.push_back(value.get<std::int32_t>());
  };
  if (found->is_array()) {
    for (const Json& value : *found) take(value);
  } else {
    take(*found);
  }
  return ids;
}

void read_decoder(const Json& decoder, const std::string& where, TokenizerConfig& config) {
  if (!decoder.is_object()) reject(where, "added_tokens_decoder", "an object", decoder);
  for (const auto& [key, value] : decoder.items()) {
    std::optional<AddedToken> token = token_of(value, "added_tokens_decoder", false, where);
    const bool digits = !key.empty() && key.size() <= 9 &&
                        std::ranges::all_of(key, [](char c) { return c >= '0' && c <= '9'; });
    if (!token || !digits) reject(where, "added_tokens_decoder", "id: token", value);
    token->id = std::stoi(key);
    config.added_tokens.push_back(std::move(*token));
  }
  std::ranges::sort(config.added_tokens, {}, [](const AddedToken& token) { return *token.id; });
}

/// added_tokens.json, of tokenizers saved before added_tokens_decoder was: token -> id.
void read_added(const Json& added, const std::string& where, TokenizerConfig& config) {
  for (const auto& [content, id] : added.items()) {
    if (!id.is_number_integer()) reject(where, "added_tokens.json", "token: id", id);
    config.added_tokens.push_back({.content = content, .id = id.get<std::int32_t>()});
  }
  std::ranges::sort(config.added_tokens, {}, [](const AddedToken& token) { return *token.id; });
}

/// Special tokens are added where the decoder lacks them, as transformers does.
void read_special(const Json& named, const std::string& where, TokenizerConfig& config) {
  const auto add = [&](const std::optional<AddedToken>& token) {
    if (!token || token->content.empty()) return;
    const auto same = std::ranges::find(config.added_tokens, token->content, &AddedToken::content);
    if (same == config.added_tokens.end()) {
      config.added_tokens.push_back(*token);
    } else if (same->id && !same->special) {
      same->special = true;
    }
  };
  for (const char* name : kNames) {
    if (!named.contains(name)) continue;
    const std::optional<AddedToken> token = token_of(named[name], name, true, where);
    if (token) config.special_tokens[name] = token->content;
    add(token);
  }
  for (const char* key : {"extra_special_tokens", "additional_special_tokens"}) {
    if (!named.contains(key)) continue;
    const Json& extra = named[key];
    if (!extra.is_array() && !extra.is_object() && !extra.is_null()) {
      reject(where, key, "a list or an object", extra);
    }
    for (const Json& value : extra) add(token_of(value, key, true, where));
  }
}

}  // namespace

Json parse_object(const FileTexts& files, const std::string& name, const std::string& where) {
  const auto found = files.find(name);
  if (found == files.end()) return Json::object();
  Json value = checkpoint::parse_ordered_json(found->second, where + "/" + name);
  if (!value.is_object()) throw InputError("{}/{} is not a JSON object", where, name);
  return value;
}

TokenizerConfig TokenizerConfig::parse(const FileTexts& files, const std::string& where) {
  const Json file = parse_object(files, "tokenizer_config.json", where);
  TokenizerConfig config;
  if (file.contains("tokenizer_class") && file["tokenizer_class"].is_string()) {
    config.tokenizer_class = file["tokenizer_class"].get<std::string>();
  }
  config.add_bos_token = optional_flag(file, "add_bos_token");
  config.add_eos_token = optional_flag(file, "add_eos_token");
  config.add_prefix_space = optional_flag(file, "add_prefix_space");
  config.legacy = optional_flag(file, "legacy");

  Json named = file;
  if (file.contains("added_tokens_decoder")) {
    read_decoder(file["added_tokens_decoder"], where, config);
  } else {
    const Json map = parse_object(files, "special_tokens_map.json", where);
    for (const auto& [key, value] : map.items()) named[key] = value;
    read_added(parse_object(files, "added_tokens.json", where), where, config);
  }
  read_special(named, where, config);

  const Json model = parse_object(files, "config.json", where);
  const Json generation = parse_object(files, "generation_config.json", where);
  const Json& source = generation.contains("eos_token_id") ? generation : model;
  config.eos_ids = ids_of(source, "eos_token_id", where);
  const std::vector<std::int32_t> bos = ids_of(model, "bos_token_id", where);
  if (!bos.empty()) config.bos_id = bos.front();
  return config;
}

}  // namespace weft::text
