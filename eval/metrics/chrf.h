#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace weft::eval {

/// Which chrF: the defaults are sacrebleu's chrF2 (Popović 2015, W15-3049); word_order 2 makes it
/// chrF++ (Popović 2017, W17-4770).
struct ChrfOptions {
  int char_order = 6;          ///< Longest character n-gram, >= 1.
  int word_order = 0;          ///< Longest word n-gram; 0: none.
  double beta = 2;             ///< Recall counts beta times as much as precision, > 0.
  bool whitespace = false;     ///< Keep whitespace inside character n-grams.
  bool eps_smoothing = false;  ///< Mean of the F scores of all orders (chrF++.py, Moses, NLTK)
                               ///< instead of the F score of the mean over orders both sides have.
  /// Not in sacrebleu: texts are composed first (NFC: "é" is one character however it is written),
  /// and all punctuation of Unicode's category P is taken off both ends of a word, each sign a word
  /// of its own, so that a danda, "¿" or "»" is no part of a word. Characters remain code points.
  bool unicode = false;
};

inline constexpr ChrfOptions kChrf{};
inline constexpr ChrfOptions kChrfPlusPlus{.word_order = 2};
inline constexpr ChrfOptions kChrfUnicode{.word_order = 2, .unicode = true};

/// N-grams of one order: in the hypothesis, in the reference, in both (multiset intersection).
/// `hypothesis` is 0 where the reference has none of this order, as in sacrebleu.
struct NgramCounts {
  std::int64_t hypothesis = 0;
  std::int64_t reference = 0;
  std::int64_t matches = 0;

  friend bool operator==(const NgramCounts&, const NgramCounts&) = default;
};

/// One entry per order: characters 1..char_order, then words 1..word_order. The statistics of a
/// corpus are the sums over its segments.
using ChrfStatistics = std::vector<NgramCounts>;

/// Statistics of one segment against the reference that gives the highest score (the first of
/// equals). Strings are UTF-8 and compared by code point, without normalisation unless
/// options.unicode; invalid bytes count as U+FFFD, as Python's errors="replace". Words are split at
/// what Python calls whitespace, and one ASCII punctuation mark is taken off a word's end, else off
/// its beginning. Throws ConfigError for orders or beta out of range, InputError when there is no
/// reference.
[[nodiscard]] ChrfStatistics chrf_statistics(std::string_view hypothesis,
                                             std::span<const std::string> references,
                                             const ChrfOptions& options = kChrf);

/// sum += item; an empty `sum` starts at zero.
void accumulate(ChrfStatistics& sum, const ChrfStatistics& item);

/// F_beta of the statistics in [0, 100]; equals sacrebleu 2.6's CHRF for sums as for one segment.
[[nodiscard]] double chrf_score(const ChrfStatistics& statistics,
                                const ChrfOptions& options = kChrf);

/// Score of one segment.
[[nodiscard]] double sentence_chrf(std::string_view hypothesis,
                                   std::span<const std::string> references,
                                   const ChrfOptions& options = kChrf);

/// Score of a corpus: references[i] are those of hypotheses[i] (as many as there are).
/// Throws InputError when the numbers differ.
[[nodiscard]] double corpus_chrf(std::span<const std::string> hypotheses,
                                 std::span<const std::vector<std::string>> references,
                                 const ChrfOptions& options = kChrf);

}  // namespace weft::eval
