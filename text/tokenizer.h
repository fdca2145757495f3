#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace weft::text {

/// Whether the tokenizer's own rule adds BOS/EOS around the text.
enum class AddSpecial { kNo, kYes };

/// Text to ids and back, equal to transformers' AutoTokenizer (use_fast) on the same files.
///
/// Special tokens written in the text ("<|im_start|>") are recognised, as transformers does.
/// Const methods are thread-safe. Invalid UTF-8 is read as U+FFFD, as Python's errors="replace".
class Tokenizer {
 public:
  /// The tokenizer of a model: tokenizer.json, else tokenizer.model, else what a GGUF file embeds.
  /// InputError when there is none or its kind is not supported (an unknown `.pre` lists the
  /// known).
  [[nodiscard]] static Tokenizer load(const checkpoint::Checkpoint& model);
  /// The same without a model: a folder that holds tokenizer files, or a GGUF file (its vocabulary
  /// is enough).
  [[nodiscard]] static Tokenizer open(const std::filesystem::path& path);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text,
                                                 AddSpecial special = AddSpecial::kNo) const;
  /// Ids and, for each, the bytes [begin, end) of the text it stands for (offsets as the tokenizers
  /// crate reports them, in UTF-8 bytes).
  struct Encoding {
    std::vector<std::int32_t> ids;
    std::vector<std::pair<std::uint32_t, std::uint32_t>> offsets;
  };
  [[nodiscard]] Encoding encode_with_offsets(std::string_view text,
                                             AddSpecial special = AddSpecial::kNo) const;
  enum class Specials { kKeep, kSkip };
  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids,
                                   Specials specials = Specials::kKeep) const;

  [[nodiscard]] std::int32_t vocabulary_size() const;  ///< Largest id + 1, added tokens included.
  [[nodiscard]] std::optional<std::int32_t> bos() const;
  [[nodiscard]] std::optional<std::int32_t> eos() const;
  /// Every id that ends generation: eos, and those of generation_config.json.
  [[nodiscard]] std::vector<std::int32_t> stop_ids() const;
  [[nodiscard]] std::optional<std::int32_t> token_to_id(std::string_view token) const;
  [[nodiscard]] std::optional<std::string> id_to_token(std::int32_t id) const;
  /// For templates: bos_token, eos_token, pad_token, unk_token ... as strings.
  [[nodiscard]] const nlohmann::json& special_tokens() const;
  /// "tokenizer.json (BPE)", "tokenizer.model (SentencePiece)", "GGUF (gpt2, pre smollm)".
  [[nodiscard]] const std::string& description() const;
  /// Whether decode() leaves this id out with Specials::kSkip.
  [[nodiscard]] bool is_special(std::int32_t id) const;
  /// SHA-256 of everything that decides tokens, from whichever of the files it comes: vocabulary,
  /// merges, rules of normalizing and splitting, added tokens with their flags, what is put around
  /// a text, BOS, EOS and the ids that end generation. Files that say the same in other words have
  /// the same, so a Hugging Face folder and the GGUF file made of it agree. Made when it is first
  /// asked for; thread-safe.
  [[nodiscard]] const std::string& digest() const;
  /// What versions up to 0.1 recorded as the digest: of the bytes of the vocabulary file and the
  /// special tokens. For comparing with such records only.
  [[nodiscard]] const std::string& legacy_digest() const;
  /// Whether a record's digest, old or new, is that of this tokenizer.
  [[nodiscard]] bool matches(std::string_view recorded) const;

 private:
  struct State;
  explicit Tokenizer(std::unique_ptr<State> state);
  /// `files`: text by name. `kind`: the description; empty: by what is found.
  static Tokenizer from_files(const std::map<std::string, std::string>& files,
                              const std::string& where, const std::string& kind);
  std::unique_ptr<State> state_;
};

/// Decodes ids one by one for display: emits text as soon as it cannot change any more, never half
/// a character; finish() gives what is left. The concatenation equals decode() of all ids.
///
/// Bytes that are tokens of their own wait for the end of their run, because one invalid byte
/// spoils the whole run (the ByteFallback decoder).
class StreamDecoder {
 public:
  /// `tokenizer` must outlive this.
  explicit StreamDecoder(const Tokenizer& tokenizer,
                         Tokenizer::Specials specials = Tokenizer::Specials::kSkip);
  [[nodiscard]] std::string push(std::int32_t id);
  [[nodiscard]] std::string finish();

 private:
  [[nodiscard]] std::string decode_from(std::size_t begin, std::size_t end) const;

  const Tokenizer* tokenizer_;
  Tokenizer::Specials specials_;
  std::vector<std::int32_t> ids_;
  std::size_t context_ = 0;  ///< Ids before this no longer change how later ones are decoded.
  std::size_t settled_ = 0;  ///< The text of ids before this has been emitted.
  std::string emitted_;
};

}  // namespace weft::text
