#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// The scores of generated answers against the data's.

namespace weft::eval {

/// A score of a corpus of answers by sums over them.
struct AnswerMetric {
  std::string_view name;    ///< Of figure_kinds(): "bleu"
  std::string spec{};       ///< As it was asked for: "bleu:intl"
  std::string signature{};  ///< sacrebleu's for one reference; of others what weft computes.
  std::size_t width = 0;    ///< Sums of an answer.
  std::function<std::vector<double>(std::string_view answer,
                                    std::span<const std::string> references)>
      statistics{};
  std::function<double(std::span<const double> sums)> of{};
  /// Reads what statistics() needs from files; empty: nothing. InputError where it is not there.
  std::function<void()> prepare{};
};

/// Reads "NAME" or "NAME:VARIANT,VARIANT". Names and variants:
///   chrf, chrf++      sacrebleu's CHRF() and CHRF(word_order=2)
///   chrf++_unicode    chrF++ with Unicode's punctuation on composed text (eval/metrics/chrf.h)
///   bleu              one of 13a (default), none, char, intl, zh, flores200, flores101, spm,
///                     spBLEU-1K (eval/metrics/bleu_pieces.h) and spm=FILE; and lc: in lower case
///   ter               no_punct, case_sensitive
///   exact_match       equal but for white space at the ends; squad: by SQuAD's words
///   f1                SQuAD's: of the words that both have, mean over answers
/// `references`: how many a signature names. Throws ConfigError for anything else, naming what
/// there is.
[[nodiscard]] AnswerMetric answer_metric(std::string_view spec, std::size_t references = 1);

/// A metric as records keep it: a file that it names is followed by "@" and the beginning of its
/// SHA-256, so that the signature says which it was. Other specs are the same.
[[nodiscard]] std::string recorded_answer_metric(std::string_view spec);

/// What answers are scored by unless a configuration says so: chrf and chrf++.
[[nodiscard]] const std::vector<std::string>& default_answer_metrics();

/// Throws ConfigError when one cannot be read, or a name occurs twice: its figure would be two; and
/// InputError when a file that it needs is not there.
void require_answer_metrics(std::span<const std::string> specs, std::string_view where);

}  // namespace weft::eval
