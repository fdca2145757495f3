#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "text/tokenizer_config.h"
#include "text/vocabulary.h"

namespace weft::text {

/// A tokenizer.model, by SentencePiece, with the added tokens and the BOS/EOS rule of
/// tokenizer_config.json.
///
/// Text is first cut at added tokens: the control and user-defined pieces of the model and those of
/// the configuration; SentencePiece sees only what is between them. The space that SentencePiece
/// puts before a text ("dummy prefix") goes before the beginning of the text, and after each added
/// token where the configuration says "legacy": true. With the tokenizer classes Llama... of
/// transformers it is put whatever the model says ("add_prefix_space": false switches it off), and
/// not where a space stands already; with other classes as the model says.
class SentencePieceVocabulary final : public Vocabulary {
 public:
  /// `model`: the file's bytes. `where` begins every error. InputError when SentencePiece refuses
  /// the model. `config.special_tokens` is completed with the model's own bos, eos and unk.
  SentencePieceVocabulary(std::string_view model, TokenizerConfig& config, std::string where);
  ~SentencePieceVocabulary() override;

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
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace weft::text
