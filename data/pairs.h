#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace weft::data {

/// A sentence and its translation.
struct Pair {
  std::string source;
  std::string target;
  std::string document;   ///< The book or collection it comes from; "" when unknown.
  std::int64_t line = 0;  ///< Where it was read.
};

/// How a corpus of pairs is cleaned and split.
struct SplitOptions {
  std::uint64_t seed = 42;
  std::int64_t test_pairs = 400;  ///< At most so many pairs for the test.
  std::int64_t validation_pairs = 200;
  double near_duplicate =
      0.8;  ///< Jaccard similarity of letter 5-grams from which two pairs are one.
  double longest_ratio = 4.0;  ///< Pairs whose sides differ more in length are misaligned.
  std::int64_t shortest = 2;   ///< Fewest letters of a side.
  std::int64_t longest = 600;  ///< Most letters of a side.
};

/// What became of the pairs; the counts add up to `read`.
struct SplitStatistics {
  std::int64_t read = 0;
  std::int64_t empty = 0;  ///< A side with fewer than `shortest` letters.
  std::int64_t too_long = 0;
  std::int64_t misaligned = 0;       ///< Beyond longest_ratio, or both sides the same.
  std::int64_t near_duplicates = 0;  ///< Repeats an earlier pair, punctuation and case aside.
  std::int64_t unused = 0;  ///< From a test or validation document, beyond what was wanted.
  std::int64_t leaks = 0;   ///< Left out of training: a side occurs in test or validation.
  std::int64_t train = 0;
  std::int64_t validation = 0;
  std::int64_t test = 0;
  std::vector<std::string> test_documents;
  std::vector<std::string> validation_documents;
};

struct Split {
  std::vector<Pair> train;
  std::vector<Pair> validation;
  std::vector<Pair> test;
  SplitStatistics statistics;
};

/// Letters and digits of `text` in lower case, words separated by single spaces: what makes two
/// sentences the same whatever their punctuation. Works on every script that Unicode classifies.
[[nodiscard]] std::string comparison_form(std::string_view text);

/// Jaccard similarity of the sets of letter 5-grams of two comparison forms, in [0, 1].
[[nodiscard]] double similarity(std::string_view a, std::string_view b);

/// Cleans the pairs, then splits them so that no document is on both sides: documents are drawn by
/// the seed until test and validation are filled, never more than half of the pairs. A training
/// pair one of whose sides equals (in comparison form) a side in test or validation is left out.
/// Deterministic; training keeps the order of reading. InputError when the pairs come from fewer
/// than three documents, since then nothing can be held out by document.
[[nodiscard]] Split clean_and_split(const std::vector<Pair>& pairs, const SplitOptions& options);

}  // namespace weft::data
