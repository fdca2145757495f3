#include "eval/report/compare.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/terminal.h"
#include "eval/report/sentences.h"
#include "eval/report/tables.h"

namespace weft::eval {
namespace {

template <typename Number>
bool same_bits(Number a, Number b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

const StageResult* stage_named(const Evaluation& evaluation, std::string_view name) {
  const auto found = std::ranges::find(evaluation.stages, name, &StageResult::name);
  return found == evaluation.stages.end() ? nullptr : &*found;
}

/// Contents that were not recorded cannot be the same.
bool same_digest(const std::string& a, const std::string& b) { return !a.empty() && a == b; }

bool same_adapters(const StageResult& a, const StageResult& b) {
  if (a.adapters.empty() && b.adapters.empty()) return true;
  return a.adapter_digests.size() == a.adapters.size() && a.adapter_digests == b.adapter_digests &&
         std::ranges::none_of(a.adapter_digests, &std::string::empty);
}

std::vector<std::string> changed_inputs(const StageResult& a, const StageResult& b) {
  std::vector<std::string> changed;
  if (!same_digest(a.model_digest, b.model_digest)) changed.emplace_back("model");
  if (!same_adapters(a, b)) changed.emplace_back("adapter");
  if (a.quantise != b.quantise) changed.emplace_back("quantise");
  return changed;
}

/// Inputs of a suite in a stage that differ.
std::vector<std::string> changed_inputs(const Evaluation& earlier, const Evaluation& later,
                                        const StageResult& a, const StageResult& b,
                                        const SuiteResult& from, const SuiteResult& to) {
  std::vector<std::string> changed = changed_inputs(a, b);
  if (!same_digest(from.digest, to.digest)) changed.emplace_back("items");
  if (earlier.dtype != later.dtype) changed.emplace_back("dtype");
  // Distances and flips depend on the reference stage, too.
  const bool compared = !from.distances.empty() || !to.distances.empty() || !to.choices.empty();
  const StageResult* r = stage_named(earlier, earlier.reference);
  const StageResult* s = stage_named(later, later.reference);
  if (compared && (r == nullptr || s == nullptr || !changed_inputs(*r, *s).empty()))
    changed.emplace_back("reference");
  return changed;
}

std::vector<std::string> changed_circumstances(const Circumstances& then,
                                               const Circumstances& now) {
  std::vector<std::string> changed;
  if (then.program != now.program)
    changed.push_back(fmt::format("{}, was {}", now.program, then.program));
  if (then.machine != now.machine)
    changed.push_back(fmt::format("{}, was {}", now.machine, then.machine));
  if (then.threads != now.threads)
    changed.push_back(fmt::format("{} threads, were {}", now.threads, then.threads));
  if (!then.kernels.empty() && !now.kernels.empty() && then.kernels != now.kernels)
    changed.push_back(fmt::format("kernels {}, were {}", now.kernels, then.kernels));
  return changed;
}

std::optional<FirstDifference> different_choice(const SuiteResult& a, const SuiteResult& b) {
  const auto different = [](const char* what, std::size_t item, const std::vector<double>& from,
                            const std::vector<double>& to) -> std::optional<FirstDifference> {
    const auto [x, y] = std::ranges::mismatch(from, to, same_bits<double>);
    if (x == from.end() && y == to.end()) return std::nullopt;
    if (x == from.end() || y == to.end())
      return FirstDifference{"number of choices", item, std::to_string(from.size()),
                             std::to_string(to.size())};
    return FirstDifference{what, item, fmt::format("{}", *x), fmt::format("{}", *y)};
  };
  const auto word = [](const std::optional<bool>& flipped) {
    return !flipped ? "not compared" : *flipped ? "yes" : "no";
  };
  for (std::size_t i = 0; i < a.choices.size(); ++i) {
    const ChoiceResult& from = a.choices[i];
    const ChoiceResult& to = b.choices[i];
    if (auto found = different("log_p", i, from.log_p, to.log_p)) return found;
    if (auto found = different("log_p_alone", i, from.log_p_alone, to.log_p_alone)) return found;
    if (from.flipped != to.flipped)
      return FirstDifference{"flip", i, word(from.flipped), word(to.flipped)};
  }
  return std::nullopt;
}

std::optional<FirstDifference> different_distance(const SuiteResult& a, const SuiteResult& b) {
  if (a.distances.size() != b.distances.size())
    return FirstDifference{"number of distances", 0, std::to_string(a.distances.size()),
                           std::to_string(b.distances.size())};
  for (std::size_t i = 0; i < a.distances.size(); ++i) {
    const TokenDistance& x = a.distances[i];
    const TokenDistance& y = b.distances[i];
    if (same_bits(x.kl, y.kl) && same_bits(x.loss, y.loss) &&
        same_bits(x.reference_loss, y.reference_loss) && x.same_top == y.same_top)
      continue;
    return FirstDifference{"distance", x.item, fmt::format("{}", x.kl), fmt::format("{}", y.kl)};
  }
  return std::nullopt;
}

std::string short_text(std::string_view text) {
  constexpr std::size_t kLongest = 60;
  std::string line(text.substr(0, kLongest));
  // Not in the middle of a character.
  while (line.size() < text.size() && !line.empty() &&
         (static_cast<unsigned char>(text[line.size()]) & 0xC0) == 0x80) {
    line.pop_back();
  }
  return core::one_line(line) + (line.size() < text.size() ? "..." : "");
}

/// Both stages as an evaluation of two, whose first is the earlier one.
Evaluation pair_of(const Evaluation& later, const StageResult& a, const StageResult& b) {
  Evaluation pair{.sequence_len = later.sequence_len, .dtype = later.dtype};
  pair.stages = {a, b};
  if (a.name == b.name) pair.stages.front().name = against_name(a.name);
  return pair;
}

std::string_view word(Verdict verdict) {
  switch (verdict) {
    case Verdict::kSame: return "same";
    case Verdict::kRounding: return "rounding";
    case Verdict::kDrift: return "drift";
    case Verdict::kChanged: return "changed";
  }
  return "";
}

/// `only_stages`: each has one, and these are compared whatever they are called.
Changes compare(const Recorded& earlier, const Recorded& later, bool only_stages);

/// The figure that the suite is judged by, among `figures`.
const Measured* main_of(const std::vector<Measured>& figures) {
  const Measured* found = figure_named(figures, "acc");
  return found != nullptr ? found : figure_named(figures, "bits_per_byte");
}

}  // namespace

std::optional<FirstDifference> first_difference(const SuiteResult& a, const SuiteResult& b,
                                                bool answers) {
  if (a.items.size() != b.items.size() || a.choices.size() != b.choices.size() ||
      (answers && a.generations.size() != b.generations.size())) {
    return FirstDifference{"number of items", 0, std::to_string(a.items.size()),
                           std::to_string(b.items.size())};
  }
  for (std::size_t i = 0; i < a.items.size(); ++i) {
    const Item& x = a.items[i];
    const Item& y = b.items[i];
    if (x.tokens != y.tokens)
      return FirstDifference{"tokens", i, std::to_string(x.tokens), std::to_string(y.tokens)};
    if (!same_bits(x.loss, y.loss))
      return FirstDifference{"loss", i, fmt::format("{}", x.loss), fmt::format("{}", y.loss)};
  }
  if (auto found = different_choice(a, b)) return found;
  for (std::size_t i = 0; answers && i < a.generations.size(); ++i) {
    const Generation& x = a.generations[i];
    const Generation& y = b.generations[i];
    if (x.output != y.output)
      return FirstDifference{"answer", i, short_text(x.output), short_text(y.output)};
  }
  return different_distance(a, b);
}

Changes compare(const Recorded& earlier, const Recorded& later) {
  const auto update = [](const Recorded& recorded) {
    const auto& stages = recorded.evaluation.stages;
    return stages.size() == 1 ? update_of(stages.front().name) : std::nullopt;
  };
  const bool one_run =
      earlier.circumstances.run == later.circumstances.run && !later.circumstances.run.empty();
  const bool pairs =
      one_run && update(earlier) && update(later) && update(earlier) != update(later);
  return compare(earlier, later, pairs);
}

Changes compare_ends(const Recorded& recorded) {
  if (recorded.evaluation.stages.size() < 2)
    throw ConfigError("the evaluation has a single stage; name another to compare it with");
  Recorded first = recorded, last = recorded;
  first.evaluation.stages.erase(first.evaluation.stages.begin() + 1, first.evaluation.stages.end());
  last.evaluation.stages.erase(last.evaluation.stages.begin(), last.evaluation.stages.end() - 1);
  return compare(first, last, /*only_stages=*/true);
}

namespace {

Changes compare(const Recorded& earlier, const Recorded& later, bool only_stages) {
  Changes changes;
  changes.circumstances = changed_circumstances(earlier.circumstances, later.circumstances);
  for (const StageResult& stage : later.evaluation.stages) {
    const StageResult* before = only_stages ? &earlier.evaluation.stages.front()
                                            : stage_named(earlier.evaluation, stage.name);
    if (before == nullptr) {
      changes.only_later.push_back(stage.name);
      continue;
    }
    const Evaluation pair = pair_of(later.evaluation, *before, stage);
    const Analysis analysis = analyse(pair, later.bootstrap);
    for (std::size_t i = 0; i < stage.suites.size(); ++i) {
      const SuiteResult& suite = stage.suites[i];
      const SuiteResult* from = suite_named(*before, suite.name);
      if (from == nullptr) {
        changes.only_later.push_back(fmt::format("{}, {}", stage.name, suite.name));
        continue;
      }
      SuiteChange& change = changes.suites.emplace_back(SuiteChange{
          .stage = only_stages ? fmt::format("{} since {}", stage.name, before->name) : stage.name,
          .suite = suite.name});
      change.inputs =
          changed_inputs(earlier.evaluation, later.evaluation, *before, stage, *from, suite);
      change.asked_otherwise = from->asked_digest != suite.asked_digest;
      change.first = first_difference(*from, suite, !change.asked_otherwise);
      change.later = analysis.figures[1][i];
      change.earlier = analysis.figures[0][static_cast<std::size_t>(from - before->suites.data())];
      for (const Comparison& comparison : analysis.comparisons) {
        if (comparison.suite == suite.name && comparison.measured.name == main_figure(suite))
          change.sentence = sentence(pair, comparison, later.bootstrap);
      }
    }
  }
  for (const StageResult& stage : earlier.evaluation.stages) {
    const StageResult* after =
        only_stages ? &later.evaluation.stages.front() : stage_named(later.evaluation, stage.name);
    if (after == nullptr) changes.only_earlier.push_back(stage.name);
    for (const SuiteResult& suite : stage.suites) {
      if (after != nullptr && suite_named(*after, suite.name) == nullptr)
        changes.only_earlier.push_back(fmt::format("{}, {}", stage.name, suite.name));
    }
  }
  return changes;
}

}  // namespace

Verdict verdict(const Changes& changes, const SuiteChange& change) {
  if (!change.inputs.empty()) return Verdict::kChanged;
  if (!change.first) return Verdict::kSame;
  if (changes.circumstances.empty()) return Verdict::kDrift;
  const Measured* measured = figure_named(change.later, "bits_per_byte");
  const bool is_small = measured != nullptr && measured->relative &&
                        std::abs(measured->relative->value) <= kRoundingTolerance;
  return is_small ? Verdict::kRounding : Verdict::kDrift;
}

bool has_drifted(const Changes& changes) {
  return std::ranges::any_of(changes.suites, [&](const SuiteChange& change) {
    return verdict(changes, change) == Verdict::kDrift;
  });
}

std::string to_text(const Changes& changes, std::string_view earlier) {
  core::Table table({"stage", "suite", "figure", std::string(earlier), "now", "difference",
                     "interval", "verdict"});
  std::string notes;
  for (const SuiteChange& change : changes.suites) {
    const Verdict verdict = eval::verdict(changes, change);
    const Measured* measured = main_of(change.later);
    const Measured* before = main_of(change.earlier);
    if (measured == nullptr || before == nullptr || !measured->difference) continue;
    const FigureKind* kind = figure_kind(measured->name);
    const int digits = kind == nullptr ? 4 : kind->digits;
    const Estimate& difference = *measured->difference;
    table.add({change.stage, change.suite, std::string(measured->name),
               fmt::format("{:.{}f}", before->figure.value, digits),
               fmt::format("{:.{}f}", measured->figure.value, digits),
               fmt::format("{:+.{}f}", difference.value, digits + 1),
               difference.interval ? fmt::format("{:+.{}f} .. {:+.{}f}", difference.interval->low,
                                                 digits, difference.interval->high, digits)
                                   : "-",
               verdict == Verdict::kChanged
                   ? fmt::format("changed: {}", fmt::join(change.inputs, ", "))
               : verdict == Verdict::kDrift ? "DRIFT"
                                            : std::string(word(verdict))});
    if (verdict == Verdict::kDrift || verdict == Verdict::kRounding) {
      notes += fmt::format(
          "  {}, {}: the same inputs gave other numbers, first {} of item {}: {} "
          "was {}\n",
          change.stage, change.suite, change.first->what, change.first->item, change.first->later,
          change.first->earlier);
    } else if (verdict == Verdict::kChanged && !change.sentence.empty()) {
      notes += fmt::format("  {}\n", change.sentence);
    }
    if (change.asked_otherwise) {
      notes += fmt::format(
          "  {}, {}: other questions were asked, or they were answered otherwise (generate), so "
          "that the answers are not compared\n",
          change.stage, change.suite);
    }
  }
  std::string text = table.text() + notes;
  if (!changes.circumstances.empty())
    text += fmt::format("  other circumstances: {}\n", fmt::join(changes.circumstances, "; "));
  if (!changes.only_later.empty())
    text += fmt::format("  new: {}\n", fmt::join(changes.only_later, "; "));
  if (!changes.only_earlier.empty())
    text += fmt::format("  no longer measured: {}\n", fmt::join(changes.only_earlier, "; "));
  return text;
}

nlohmann::ordered_json to_json(const Changes& changes) {
  using Json = nlohmann::ordered_json;
  Json results = Json::array();
  for (const SuiteChange& change : changes.suites) {
    Json figures = Json::object();
    for (const Measured& measured : change.later) {
      const Measured* before = figure_named(change.earlier, measured.name);
      if (!measured.difference || before == nullptr) continue;
      figures[std::string(measured.name)] = {
          {"earlier", json_number(before->figure.value)},
          {"later", json_number(measured.figure.value)},
          {"difference", json_number(measured.difference->value)},
          {"interval", json_bounds(measured.difference->interval)},
          {"p", measured.p ? Json(*measured.p) : Json(nullptr)}};
    }
    Json entry{{"stage", change.stage},
               {"suite", change.suite},
               {"verdict", word(verdict(changes, change))},
               {"changed_inputs", change.inputs},
               {"asked_otherwise", change.asked_otherwise},
               {"first_difference", nullptr},
               {"figures", figures}};
    if (change.first) {
      entry["first_difference"] = {{"what", change.first->what},
                                   {"item", change.first->item},
                                   {"earlier", change.first->earlier},
                                   {"later", change.first->later}};
    }
    results.push_back(std::move(entry));
  }
  return {{"circumstances", changes.circumstances},
          {"drift", has_drifted(changes)},
          {"results", results},
          {"only_earlier", changes.only_earlier},
          {"only_later", changes.only_later}};
}

Evaluation with_earlier(const Evaluation& later, const Evaluation& earlier) {
  Evaluation both = later;
  for (const StageResult& stage : earlier.stages) {
    StageResult kept = stage;
    kept.name = against_name(stage.name);
    kept.suites.clear();
    // At the places of the first stage's suites, whose resamples are theirs.
    if (later.stages.empty()) continue;
    for (const SuiteResult& suite : later.stages.front().suites) {
      const SuiteResult* found = suite_named(stage, suite.name);
      const bool same = found != nullptr && same_digest(found->digest, suite.digest);
      if (!same) continue;
      SuiteResult& of_suite = kept.suites.emplace_back(*found);
      // Answers to other questions, or given otherwise, say nothing about these.
      if (found->asked_digest != suite.asked_digest) of_suite.generations.clear();
    }
    both.stages.push_back(std::move(kept));
  }
  return both;
}

std::string against_name(std::string_view stage) { return fmt::format("{}@against", stage); }

}  // namespace weft::eval
