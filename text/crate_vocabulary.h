#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/bridge/weft_bridge.h"
#include "text/tokenizer_config.h"
#include "text/vocabulary.h"

namespace weft::text {

/// A tokenizer.json, by the `tokenizers` crate.
class CrateVocabulary final : public Vocabulary {
 public:
  /// `where` begins every error. Throws InputError when the crate refuses the document.
  CrateVocabulary(std::string_view tokenizer_json, const std::vector<AddedToken>& added_tokens,
                  std::string where);
  /// "BPE", "Unigram", "WordPiece" or "WordLevel".
  [[nodiscard]] std::string model_type() const;

  [[nodiscard]] Tokens encode(std::string_view text, bool add_special,
                              bool with_offsets) const override;
  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids,
                                   bool skip_special) const override;
  [[nodiscard]] std::int32_t size() const override;
  [[nodiscard]] std::optional<std::int32_t> token_to_id(std::string_view token) const override;
  [[nodiscard]] std::optional<std::string> id_to_token(std::int32_t id) const override;
  [[nodiscard]] bool is_special(std::int32_t id) const override;
  [[nodiscard]] std::string identity() const override;

 private:
  struct Free {
    void operator()(WeftTokenizer* tokenizer) const { weft_tokenizer_free(tokenizer); }
  };
  std::unique_ptr<WeftTokenizer, Free> tokenizer_;
  std::string where_;
};

}  // namespace weft::text
