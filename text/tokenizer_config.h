#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace weft::text {

/// The small files beside a tokenizer, by name: "tokenizer_config.json" -> its text.
using FileTexts = std::map<std::string, std::string>;

/// A token that text is searched for before anything else, as the `tokenizers` crate describes it.
struct AddedToken {
  std::string content;
  bool special = false;
  bool normalized = true;
  bool lstrip = false;
  bool rstrip = false;
  bool single_word = false;
  /// The id that tokenizer_config.json gives it ("added_tokens_decoder").
  std::optional<std::int32_t> id;
};

/// What tokenizer_config.json, special_tokens_map.json, added_tokens.json, generation_config.json
/// and config.json say about a tokenizer, with the precedence of transformers 5.
struct TokenizerConfig {
  /// bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token: those that are
  /// set, as strings.
  nlohmann::json special_tokens = nlohmann::json::object();
  /// "added_tokens_decoder" in order of id, then special tokens it lacks.
  std::vector<AddedToken> added_tokens;
  std::string tokenizer_class;
  std::optional<bool> add_bos_token;
  std::optional<bool> add_eos_token;
  std::optional<bool> add_prefix_space;
  std::optional<bool> legacy;
  /// Of generation_config.json, else of config.json.
  std::vector<std::int32_t> eos_ids;
  std::optional<std::int32_t> bos_id;

  /// `where` begins every error: the model's path. Throws InputError (file, key, what is wrong).
  [[nodiscard]] static TokenizerConfig parse(const FileTexts& files, const std::string& where);
};

/// The file's JSON, or an empty object when it is absent. InputError when it is no JSON object.
[[nodiscard]] nlohmann::ordered_json parse_object(const FileTexts& files, const std::string& name,
                                                  const std::string& where);

}  // namespace weft::text
