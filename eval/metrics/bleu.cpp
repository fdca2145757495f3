#include "eval/metrics/bleu.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"

namespace weft::eval {
namespace {

/// How often each n-gram of 1..kBleuOrder words occurs; words as numbers.
using Counts = std::map<std::vector<std::uint32_t>, std::int64_t>;
using Numbers = std::map<std::u32string, std::uint32_t>;

Counts ngrams(const Words& words, Numbers& numbers) {
  std::vector<std::uint32_t> ids;
  for (const std::u32string& word : words) {
    const auto next = static_cast<std::uint32_t>(numbers.size());
    ids.push_back(numbers.try_emplace(word, next).first->second);
  }
  Counts counts;
  for (std::size_t begin = 0; begin < ids.size(); ++begin) {
    std::vector<std::uint32_t> ngram;
    for (std::size_t n = 0; n < kBleuOrder && begin + n < ids.size(); ++n) {
      ngram.push_back(ids[begin + n]);
      ++counts[ngram];
    }
  }
  return counts;
}

Words words_of(std::string_view text, const BleuOptions& options) {
  return options.pieces != nullptr ? piece_words(text, *options.pieces, options.lowercase)
                                   : bleu_words(text, options.tokens, options.lowercase);
}

}  // namespace

std::vector<double> bleu_statistics(std::string_view hypothesis,
                                    std::span<const std::string> references,
                                    const BleuOptions& options) {
  if (references.empty()) throw InputError("BLEU: a hypothesis has no reference to compare with");
  const Words words = words_of(hypothesis, options);
  Numbers numbers;
  const Counts ours = ngrams(words, numbers);
  Counts theirs;
  std::size_t closest = 0, least = SIZE_MAX;
  for (const std::string& reference : references) {
    const Words other = words_of(reference, options);
    for (const auto& [ngram, count] : ngrams(other, numbers))
      theirs[ngram] = std::max(theirs[ngram], count);
    const std::size_t length = other.size();
    const std::size_t apart = std::max(length, words.size()) - std::min(length, words.size());
    if (apart < least || (apart == least && length < closest)) {
      closest = length;
      least = apart;
    }
  }
  std::vector<double> sums(kBleuWidth, 0.0);
  sums[0] = static_cast<double>(words.size());
  sums[1] = static_cast<double>(closest);
  for (const auto& [ngram, count] : ours) {
    const std::size_t n = ngram.size() - 1;
    const auto found = theirs.find(ngram);
    if (found != theirs.end()) sums[2 + n] += static_cast<double>(std::min(count, found->second));
    sums[2 + kBleuOrder + n] += static_cast<double>(count);
  }
  return sums;
}

double bleu_score(std::span<const double> sums) {
  const auto matches = sums.subspan(2, kBleuOrder);
  const auto totals = sums.subspan(2 + kBleuOrder, kBleuOrder);
  if (std::ranges::all_of(matches, [](double count) { return count == 0; })) return 0;
  double smoothing = 1, log_sum = 0;
  for (std::size_t n = 0; n < kBleuOrder; ++n) {
    if (totals[n] == 0) {
      // No n-grams of this order or above: sacrebleu takes ln 0 for -9999999999, and e^that is 0.
      return 0;
    }
    double precision = 100 * matches[n] / totals[n];
    if (matches[n] == 0) {
      smoothing *= 2;
      precision = 100 / (smoothing * totals[n]);
    }
    log_sum += std::log(precision);
  }
  const double brevity = sums[0] < sums[1] ? std::exp(1 - sums[1] / sums[0]) : 1;
  return brevity * std::exp(log_sum / kBleuOrder);
}

}  // namespace weft::eval
