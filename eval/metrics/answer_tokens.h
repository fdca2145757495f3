#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// How answers are cut into words before they are compared: the tokenizers of sacrebleu 2.6 that
// need no data of their own, and pieces of a SentencePiece model. Texts are UTF-8; invalid bytes
// count as U+FFFD. White space is what Python takes for it (text/white_space.h).

namespace weft::text {
class PieceModel;
}

namespace weft::eval {

using Words = std::vector<std::u32string>;

/// sacrebleu's `tokenize` of BLEU.
enum class BleuTokens : std::uint8_t {
  k13a,   ///< WMT's mteval-v13a: ASCII punctuation split off.
  kNone,  ///< As it stands.
  kChar,  ///< Every character a word.
  kIntl,  ///< mteval-v14 "international": punctuation and symbols by Unicode category.
  kZh,    ///< Chinese characters on their own, the rest as 13a.
};

[[nodiscard]] Words bleu_words(std::string_view text, BleuTokens tokens, bool lowercase);

/// The pieces of a SentencePiece model, as sacrebleu's flores200 cuts texts.
[[nodiscard]] Words piece_words(std::string_view text, const text::PieceModel& model,
                                bool lowercase);

/// sacrebleu's options of TER.
struct TerOptions {
  bool normalized = false;      ///< Punctuation split off, XML escapes resolved.
  bool no_punct = false;        ///< .,?:;!"() removed.
  bool asian = false;           ///< With the two above: CJK characters and punctuation as well.
  bool case_sensitive = false;  ///< Otherwise lower case.
};

[[nodiscard]] Words ter_words(std::string_view text, const TerOptions& options);

/// The words of an answer by SQuAD's rule: lower case, without ASCII punctuation and without the
/// English articles a, an, the.
[[nodiscard]] Words squad_words(std::string_view text);

}  // namespace weft::eval
