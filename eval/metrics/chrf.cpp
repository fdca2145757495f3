#include "eval/metrics/chrf.h"

#include <algorithm>
#include <map>

#include "core/error.h"
#include "core/utf8.h"
#include "text/unicode.h"
#include "text/white_space.h"

namespace weft::eval {
namespace {

std::vector<std::u32string_view> split(std::u32string_view text) {
  std::vector<std::u32string_view> words;
  for (std::size_t begin = 0; begin < text.size();) {
    if (text::is_python_space(text[begin])) {
      ++begin;
      continue;
    }
    std::size_t end = begin;
    while (end < text.size() && !text::is_python_space(text[end])) ++end;
    words.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  return words;
}

// sacrebleu's _remove_punctuation: "(hi)" becomes "(hi" and ")".
std::vector<std::u32string_view> split_punctuation(std::u32string_view text) {
  std::vector<std::u32string_view> words;
  for (const std::u32string_view word : split(text)) {
    if (word.size() == 1) {
      words.push_back(word);
    } else if (text::is_ascii_punctuation(word.back())) {
      words.push_back(word.substr(0, word.size() - 1));
      words.push_back(word.substr(word.size() - 1));
    } else if (text::is_ascii_punctuation(word.front())) {
      words.push_back(word.substr(0, 1));
      words.push_back(word.substr(1));
    } else {
      words.push_back(word);
    }
  }
  return words;
}

/// Every sign of punctuation at the ends of a word is a word of its own.
std::vector<std::u32string_view> split_unicode_punctuation(std::u32string_view text) {
  const auto is_sign = [](char32_t c) { return text::punctuation().has(c); };
  std::vector<std::u32string_view> words;
  for (const std::u32string_view word : split(text)) {
    std::size_t begin = 0, end = word.size();
    while (begin < end && is_sign(word[begin])) words.push_back(word.substr(begin++, 1));
    while (end > begin && is_sign(word[end - 1])) --end;
    if (end > begin) words.push_back(word.substr(begin, end - begin));
    for (; end < word.size(); ++end) words.push_back(word.substr(end, 1));
  }
  return words;
}

/// A text as the two sequences whose n-grams are counted. Words are numbered, so that a word
/// n-gram is a string of numbers and both kinds are counted alike.
struct Sequences {
  std::u32string characters;
  std::u32string words;
};

using WordNumbers = std::map<std::u32string, char32_t>;

Sequences sequences(std::string_view utf8, const ChrfOptions& options, WordNumbers& numbers) {
  const std::u32string text =
      options.unicode ? core::decode_utf8(text::compose(utf8)) : core::decode_utf8(utf8);
  Sequences result;
  if (options.whitespace) {
    result.characters = text;
  } else {
    for (const std::u32string_view word : split(text)) result.characters += word;
  }
  if (options.word_order > 0) {
    const auto words = options.unicode ? split_unicode_punctuation(text) : split_punctuation(text);
    for (const std::u32string_view word : words) {
      const auto next = static_cast<char32_t>(numbers.size());
      result.words += numbers.try_emplace(std::u32string(word), next).first->second;
    }
  }
  return result;
}

std::vector<std::u32string_view> sorted_ngrams(std::u32string_view text, std::size_t order) {
  std::vector<std::u32string_view> ngrams;
  for (std::size_t begin = 0; begin + order <= text.size(); ++begin) {
    ngrams.push_back(text.substr(begin, order));
  }
  std::sort(ngrams.begin(), ngrams.end());
  return ngrams;
}

NgramCounts count(std::u32string_view hypothesis, std::u32string_view reference,
                  std::size_t order) {
  const auto ours = sorted_ngrams(hypothesis, order);
  const auto theirs = sorted_ngrams(reference, order);
  NgramCounts counts;
  if (theirs.empty()) return counts;
  counts.hypothesis = static_cast<std::int64_t>(ours.size());
  counts.reference = static_cast<std::int64_t>(theirs.size());
  for (auto a = ours.begin(), b = theirs.begin(); a != ours.end() && b != theirs.end();) {
    if (*a < *b) {
      ++a;
    } else if (*b < *a) {
      ++b;
    } else {
      ++counts.matches, ++a, ++b;
    }
  }
  return counts;
}

ChrfStatistics compare(const Sequences& hypothesis, const Sequences& reference,
                       const ChrfOptions& options) {
  ChrfStatistics statistics;
  for (int order = 1; order <= options.char_order; ++order) {
    statistics.push_back(
        count(hypothesis.characters, reference.characters, static_cast<std::size_t>(order)));
  }
  for (int order = 1; order <= options.word_order; ++order) {
    statistics.push_back(count(hypothesis.words, reference.words, static_cast<std::size_t>(order)));
  }
  return statistics;
}

void check(const ChrfOptions& options) {
  if (options.char_order < 1 || options.word_order < 0 || !(options.beta > 0)) {
    throw ConfigError(
        "chrF: char_order must be at least 1, word_order at least 0 and beta above 0; found {}, {} "
        "and {}",
        options.char_order, options.word_order, options.beta);
  }
}

}  // namespace

ChrfStatistics chrf_statistics(std::string_view hypothesis, std::span<const std::string> references,
                               const ChrfOptions& options) {
  check(options);
  if (references.empty()) throw InputError("chrF: a hypothesis has no reference to compare with");
  WordNumbers numbers;
  const Sequences ours = sequences(hypothesis, options, numbers);
  ChrfStatistics best;
  double best_score = -1;
  for (const std::string& reference : references) {
    ChrfStatistics statistics = compare(ours, sequences(reference, options, numbers), options);
    const double score = chrf_score(statistics, options);
    if (score > best_score) {
      best_score = score;
      best = std::move(statistics);
    }
  }
  return best;
}

void accumulate(ChrfStatistics& sum, const ChrfStatistics& item) {
  if (sum.empty()) sum.resize(item.size());
  for (std::size_t i = 0; i < sum.size(); ++i) {
    sum[i].hypothesis += item[i].hypothesis;
    sum[i].reference += item[i].reference;
    sum[i].matches += item[i].matches;
  }
}

double chrf_score(const ChrfStatistics& statistics, const ChrfOptions& options) {
  constexpr double kEpsilon = 1e-16;  // sacrebleu's
  const double factor = options.beta * options.beta;
  double smoothed = 0, precision_sum = 0, recall_sum = 0;
  int effective_orders = 0;
  for (const NgramCounts& n : statistics) {
    const auto matches = static_cast<double>(n.matches);
    const double precision =
        n.hypothesis > 0 ? matches / static_cast<double>(n.hypothesis) : kEpsilon;
    const double recall = n.reference > 0 ? matches / static_cast<double>(n.reference) : kEpsilon;
    const double denominator = factor * precision + recall;
    smoothed += denominator > 0 ? (1 + factor) * precision * recall / denominator : kEpsilon;
    if (n.hypothesis > 0 && n.reference > 0) {
      precision_sum += precision;
      recall_sum += recall;
      ++effective_orders;
    }
  }
  if (statistics.empty()) return 0;
  if (options.eps_smoothing) return 100 * smoothed / static_cast<double>(statistics.size());
  if (effective_orders == 0) return 0;
  const double precision = precision_sum / effective_orders;
  const double recall = recall_sum / effective_orders;
  if (precision + recall == 0) return 0;
  return 100 * (1 + factor) * precision * recall / (factor * precision + recall);
}

double sentence_chrf(std::string_view hypothesis, std::span<const std::string> references,
                     const ChrfOptions& options) {
  return chrf_score(chrf_statistics(hypothesis, references, options), options);
}

double corpus_chrf(std::span<const std::string> hypotheses,
                   std::span<const std::vector<std::string>> references,
                   const ChrfOptions& options) {
  if (hypotheses.size() != references.size()) {
    throw InputError("chrF: {} hypotheses need as many lists of references, found {}",
                     hypotheses.size(), references.size());
  }
  ChrfStatistics sum;
  for (std::size_t i = 0; i < hypotheses.size(); ++i) {
    accumulate(sum, chrf_statistics(hypotheses[i], references[i], options));
  }
  return chrf_score(sum, options);
}

}  // namespace weft::eval
