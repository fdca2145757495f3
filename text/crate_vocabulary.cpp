#include "text/crate_vocabulary.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "text/bridge_text.h"

namespace weft::text {

CrateVocabulary::CrateVocabulary(std::string_view tokenizer_json,
                                 const std::vector<AddedToken>& added_tokens, std::string where)
    : where_(std::move(where)) {
  nlohmann::json added = nlohmann::json::array();
  for (const AddedToken& token : added_tokens) {
    added.push_back({{"content", token.content},
                     {"special", token.special},
                     {"normalized", token.normalized},
                     {"lstrip", token.lstrip},
                     {"rstrip", token.rstrip},
                     {"single_word", token.single_word},
                     {"replaces", token.id.has_value()}});
  }
  const std::string document = added.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  WeftText error{};
  tokenizer_.reset(weft_tokenizer_new(tokenizer_json.data(), tokenizer_json.size(), document.data(),
                                      document.size(), &error));
  if (!tokenizer_) throw InputError("{}: the tokenizer cannot be read: {}", where_, take(error));
}

std::string CrateVocabulary::model_type() const {
  return take(weft_tokenizer_model_type(tokenizer_.get()));
}

Tokens CrateVocabulary::encode(std::string_view text, bool add_special, bool with_offsets) const {
  WeftEncoding encoding{};
  WeftText error{};
  if (!weft_tokenizer_encode(tokenizer_.get(), text.data(), text.size(), add_special, with_offsets,
                             &encoding, &error)) {
    throw InputError("{}: a text of {} bytes cannot be tokenized: {}", where_, text.size(),
                     take(error));
  }
  Tokens tokens;
  tokens.ids.assign(encoding.ids, encoding.ids + encoding.size);
  if (with_offsets) {
    tokens.offsets.reserve(encoding.size);
    for (std::size_t i = 0; i < encoding.size; ++i) {
      tokens.offsets.emplace_back(encoding.offsets[2 * i], encoding.offsets[2 * i + 1]);
    }
  }
  weft_encoding_free(encoding);
  return tokens;
}

std::string CrateVocabulary::decode(std::span<const std::int32_t> ids, bool skip_special) const {
  // Negative ids become large ones, which no vocabulary has: skipped as any unknown id.
  const std::vector<std::uint32_t> unsigned_ids(ids.begin(), ids.end());
  WeftText text{};
  WeftText error{};
  if (!weft_tokenizer_decode(tokenizer_.get(), unsigned_ids.data(), unsigned_ids.size(),
                             skip_special, &text, &error)) {
    throw InputError("{}: {} ids cannot be decoded: {}", where_, ids.size(), take(error));
  }
  return take(text);
}

std::int32_t CrateVocabulary::size() const {
  return static_cast<std::int32_t>(weft_tokenizer_size(tokenizer_.get()));
}

std::optional<std::int32_t> CrateVocabulary::token_to_id(std::string_view token) const {
  std::uint32_t id = 0;
  if (!weft_tokenizer_token_to_id(tokenizer_.get(), token.data(), token.size(), &id)) {
    return std::nullopt;
  }
  return static_cast<std::int32_t>(id);
}

std::optional<std::string> CrateVocabulary::id_to_token(std::int32_t id) const {
  WeftText token{};
  if (!weft_tokenizer_id_to_token(tokenizer_.get(), static_cast<std::uint32_t>(id), &token)) {
    return std::nullopt;
  }
  return take(token);
}

std::string CrateVocabulary::identity() const {
  WeftText text{};
  WeftText error{};
  if (!weft_tokenizer_identity(tokenizer_.get(), &text, &error)) {
    throw InputError("{}: the tokenizer cannot be written out: {}", where_, take(error));
  }
  return take(text);
}

bool CrateVocabulary::is_special(std::int32_t id) const {
  return weft_tokenizer_is_special(tokenizer_.get(), static_cast<std::uint32_t>(id));
}

}  // namespace weft::text
