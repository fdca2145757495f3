#include "eval/metrics/answer_metric.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "core/error.h"
#include "core/utf8.h"
#include "core/version.h"
#include "eval/metrics/bleu.h"
#include "eval/metrics/bleu_pieces.h"
#include "eval/metrics/chrf.h"
#include "eval/metrics/ter.h"
#include "text/white_space.h"

namespace weft::eval {
namespace {

constexpr std::string_view kSacrebleu = "2.6.0";  // The version whose figures these are.

using References = std::span<const std::string>;
using Sums = std::span<const double>;

/// The variants of a metric that were asked for, each of which has to be known.
class Variants {
 public:
  Variants(std::string_view spec, std::string_view list) : spec_(spec) {
    while (!list.empty()) {
      const std::size_t comma = std::min(list.find(','), list.size());
      given_.insert(std::string(list.substr(0, comma)));
      list.remove_prefix(std::min(comma + 1, list.size()));
    }
  }

  bool take(const std::string& name) {
    known_.push_back(name);
    return given_.erase(name) > 0;
  }

  /// Whether it was given; it is no variant to be named where another one is not known.
  [[nodiscard]] bool takes(const std::string& name) const { return given_.contains(name); }

  /// The text behind "NAME=".
  std::optional<std::string> take_value(const std::string& name) {
    known_.push_back(name + "=FILE");
    const std::string prefix = name + "=";
    const auto found = given_.lower_bound(prefix);
    if (found == given_.end() || !found->starts_with(prefix)) return std::nullopt;
    std::string value = found->substr(prefix.size());
    given_.erase(found);
    return value;
  }

  void require_none_left() const {
    if (given_.empty()) return;
    if (known_.empty())
      throw ConfigError("metric '{}': it has no variant '{}', nor any other", spec_,
                        *given_.begin());
    throw ConfigError("metric '{}': there is no variant '{}', only {}", spec_, *given_.begin(),
                      fmt::join(known_, ", "));
  }

 private:
  std::string spec_;
  std::set<std::string> given_;
  std::vector<std::string> known_;
};

const char* yes_no(bool value) { return value ? "yes" : "no"; }

AnswerMetric chrf_metric(std::string_view name, const ChrfOptions& options,
                         std::size_t references) {
  AnswerMetric metric{.name = name};
  const char* const own = options.unicode ? "|norm:nfc|punct:unicode" : "";
  metric.signature = fmt::format(
      "nrefs:{}|case:mixed|eff:yes|nc:{}|nw:{}|space:no{}|version:{}", references,
      options.char_order, options.word_order, own,
      options.unicode ? fmt::format("weft-{}", core::kVersion) : std::string(kSacrebleu));
  metric.width = 3 * static_cast<std::size_t>(options.char_order + options.word_order);
  metric.statistics = [options](std::string_view answer, References all) {
    std::vector<double> sums;
    for (const NgramCounts& n : chrf_statistics(answer, all, options)) {
      sums.insert(sums.end(), {static_cast<double>(n.hypothesis), static_cast<double>(n.reference),
                               static_cast<double>(n.matches)});
    }
    return sums;
  };
  metric.of = [options](Sums sums) {
    ChrfStatistics statistics;
    for (std::size_t i = 0; i + 2 < sums.size(); i += 3)
      statistics.push_back(
          {std::llround(sums[i]), std::llround(sums[i + 1]), std::llround(sums[i + 2])});
    return chrf_score(statistics, options);
  };
  return metric;
}

/// The tokenizers of sacrebleu that need a dictionary; each is refused by name.
void refuse_dictionaries(Variants& variants) {
  for (const char* name : {"ja-mecab", "ko-mecab"}) {
    if (!variants.takes(name)) continue;
    throw ConfigError(
        "metric 'bleu': '{}' needs MeCab and its dictionary, which weft has not; cut answers and "
        "references into words before and score them with weft score --metric bleu:none, or count "
        "characters with bleu:char",
        name);
  }
}

/// The pieces that BLEU is to be counted on; null where it is counted on words.
std::shared_ptr<const BleuPieces> pieces_of(Variants& variants, int& chosen) {
  std::shared_ptr<const BleuPieces> pieces;
  for (const char* name : {"flores200", "flores101", "spBLEU-1K", "spm"}) {
    if (!variants.take(name)) continue;
    pieces = sacrebleu_pieces(name);
    ++chosen;
  }
  if (const auto file = variants.take_value("spm")) {
    pieces = pieces_of_file(*file);
    ++chosen;
  }
  return pieces;
}

AnswerMetric bleu_metric(Variants& variants, std::size_t references) {
  constexpr std::pair<const char*, BleuTokens> kTokens[] = {{"13a", BleuTokens::k13a},
                                                            {"none", BleuTokens::kNone},
                                                            {"char", BleuTokens::kChar},
                                                            {"intl", BleuTokens::kIntl},
                                                            {"zh", BleuTokens::kZh}};
  refuse_dictionaries(variants);
  BleuOptions options;
  std::string tokens = "13a";
  int chosen = 0;
  for (const auto& [name, value] : kTokens) {
    if (!variants.take(name)) continue;
    options.tokens = value;
    tokens = name;
    ++chosen;
  }
  const std::shared_ptr<const BleuPieces> pieces = pieces_of(variants, chosen);
  if (pieces) tokens = pieces->signature();
  if (chosen > 1) throw ConfigError("metric 'bleu': give one tokenizer, found {}", chosen);
  options.lowercase = variants.take("lc");
  AnswerMetric metric{.name = "bleu"};
  metric.signature = fmt::format("nrefs:{}|case:{}|eff:no|tok:{}|smooth:exp|version:{}", references,
                                 options.lowercase ? "lc" : "mixed", tokens, kSacrebleu);
  metric.width = kBleuWidth;
  metric.statistics = [options, pieces](std::string_view answer, References all) {
    BleuOptions complete = options;
    if (pieces) complete.pieces = &pieces->model();
    return bleu_statistics(answer, all, complete);
  };
  if (pieces) metric.prepare = [pieces] { static_cast<void>(pieces->model()); };
  metric.of = bleu_score;
  return metric;
}

AnswerMetric ter_metric(Variants& variants, std::size_t references) {
  TerOptions options;
  options.no_punct = variants.take("no_punct");
  options.case_sensitive = variants.take("case_sensitive");
  AnswerMetric metric{.name = "ter"};
  metric.signature =
      fmt::format("nrefs:{}|case:{}|tok:tercom|norm:{}|punct:{}|asian:{}|version:{}", references,
                  options.case_sensitive ? "mixed" : "lc", yes_no(options.normalized),
                  yes_no(!options.no_punct), yes_no(options.asian), kSacrebleu);
  metric.width = kTerWidth;
  metric.statistics = [options](std::string_view answer, References all) {
    return ter_statistics(answer, all, options);
  };
  metric.of = ter_score;
  return metric;
}

std::u32string stripped(std::string_view utf8) {
  std::u32string text = core::decode_utf8(utf8);
  while (!text.empty() && text::is_python_space(text.back())) text.pop_back();
  const auto begin = std::ranges::find_if_not(text, text::is_python_space);
  return {begin, text.end()};
}

/// SQuAD's: harmonic mean of precision and recall over words, as often as both have them.
double word_f1(const Words& ours, const Words& theirs) {
  if (ours.empty() || theirs.empty()) return ours == theirs ? 1 : 0;
  std::map<std::u32string, std::int64_t> left;
  for (const std::u32string& word : theirs) ++left[word];
  double same = 0;
  for (const std::u32string& word : ours) {
    if (left[word]-- > 0) ++same;
  }
  if (same == 0) return 0;
  const double precision = same / static_cast<double>(ours.size());
  const double recall = same / static_cast<double>(theirs.size());
  return 2 * precision * recall / (precision + recall);
}

/// The mean over answers of the best score with any reference.
template <typename Score>
AnswerMetric mean_metric(std::string_view name, std::string signature, Score score) {
  AnswerMetric metric{.name = name, .signature = std::move(signature), .width = 2};
  metric.statistics = [name, score](std::string_view answer, References references) {
    if (references.empty())
      throw InputError("{}: an answer has no reference to compare with", name);
    double best = 0;
    for (const std::string& reference : references) best = std::max(best, score(answer, reference));
    return std::vector<double>{1, best};
  };
  metric.of = [](Sums sums) { return sums[1] / sums[0]; };
  return metric;
}

AnswerMetric exact_match_metric(Variants& variants, std::size_t references) {
  const bool squad = variants.take("squad");
  const auto score = [squad](std::string_view answer, std::string_view reference) {
    const bool same = squad ? squad_words(answer) == squad_words(reference)
                            : stripped(answer) == stripped(reference);
    return same ? 1.0 : 0.0;
  };
  return mean_metric("exact_match",
                     fmt::format("nrefs:{}|rule:{}|version:weft-{}", references,
                                 squad ? "squad" : "strip", core::kVersion),
                     score);
}

AnswerMetric f1_metric(std::size_t references) {
  return mean_metric("f1",
                     fmt::format("nrefs:{}|rule:squad|version:weft-{}", references, core::kVersion),
                     [](std::string_view answer, std::string_view reference) {
                       return word_f1(squad_words(answer), squad_words(reference));
                     });
}

}  // namespace

AnswerMetric answer_metric(std::string_view spec, std::size_t references) {
  const std::size_t colon = std::min(spec.find(':'), spec.size());
  const std::string_view name = spec.substr(0, colon);
  Variants variants(spec, spec.substr(std::min(colon + 1, spec.size())));
  AnswerMetric metric;
  if (name == "chrf") {
    metric = chrf_metric("chrf", kChrf, references);
  } else if (name == "chrf++") {
    metric = chrf_metric("chrf++", kChrfPlusPlus, references);
  } else if (name == "chrf++_unicode") {
    metric = chrf_metric("chrf++_unicode", kChrfUnicode, references);
  } else if (name == "bleu") {
    metric = bleu_metric(variants, references);
  } else if (name == "ter") {
    metric = ter_metric(variants, references);
  } else if (name == "exact_match") {
    metric = exact_match_metric(variants, references);
  } else if (name == "f1") {
    metric = f1_metric(references);
  } else {
    throw ConfigError(
        "there is no metric '{}', only chrf, chrf++, chrf++_unicode, bleu, ter, exact_match and f1",
        name);
  }
  variants.require_none_left();
  metric.spec = spec;
  return metric;
}

const std::vector<std::string>& default_answer_metrics() {
  static const std::vector<std::string> metrics{"chrf", "chrf++"};
  return metrics;
}

std::string recorded_answer_metric(std::string_view spec) {
  constexpr std::string_view kFile = "spm=";
  const std::size_t begin = spec.find(kFile);
  if (!spec.starts_with("bleu:") || begin == spec.npos) return std::string(spec);
  const std::size_t file = begin + kFile.size();
  const std::size_t end = std::min(spec.find(',', file), spec.size());
  return fmt::format("{}{}{}", spec.substr(0, file), with_digest(spec.substr(file, end - file)),
                     spec.substr(end));
}

void require_answer_metrics(std::span<const std::string> specs, std::string_view where) {
  std::set<std::string_view> names;
  for (const std::string& spec : specs) {
    const AnswerMetric metric = answer_metric(spec);
    if (metric.prepare) metric.prepare();
    if (!names.insert(metric.name).second)
      throw ConfigError("{}: '{}' is there twice; give it one variant", where, metric.name);
  }
}

}  // namespace weft::eval
