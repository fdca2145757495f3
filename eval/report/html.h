#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/metrics/result.h"
#include "eval/statistics/analysis.h"
#include "eval/statistics/gates.h"

namespace weft::eval {

struct PageOptions {
  std::string title = "Evaluation";
  std::int64_t examples = 12;  ///< Generated answers shown per suite, spread evenly.
  BootstrapOptions bootstrap{};
};

/// The evaluation as one HTML page for people: gates, each language's figures, and of each suite
/// what every stage cost or gained in sentences, its ladder with intervals (inline SVG), all
/// figures, its source documents, and generated answers side by side. No scripts, nothing from
/// elsewhere; light and dark, readable on a phone, in print and by screen readers. All text from
/// outside is escaped; its direction is told from itself.
/// `analysis`: of the evaluation, with the same options.
[[nodiscard]] std::string to_html(const Evaluation& evaluation, const Analysis& analysis,
                                  std::span<const GateResult> gates,
                                  const PageOptions& options = {});

/// The same without the page around it: sections of HTML (eval/report/page.h).
[[nodiscard]] std::string to_sections(const Evaluation& evaluation, const Analysis& analysis,
                                      std::span<const GateResult> gates,
                                      const PageOptions& options = {});

/// A part of a text, and whether the other text has it too.
struct DiffPart {
  std::string text;
  bool common = false;
};
/// `text` cut into runs that `reference` has in common with it (longest common subsequence) and
/// runs that it has not. Never cuts between a letter and its combining marks, nor inside a word of
/// a script whose letters join or reorder (Arabic, the scripts of India and South-East Asia), which
/// would be drawn wrongly. Beyond 4000 units in either text, all of it is one common part.
[[nodiscard]] std::vector<DiffPart> character_diff(std::string_view text,
                                                   std::string_view reference);

/// The same by words (with the white space behind them).
[[nodiscard]] std::vector<DiffPart> word_diff(std::string_view text, std::string_view reference);
/// By characters where at least two thirds of the text are common, else by words: between unlike
/// texts single letters agree by chance, and marks around them say nothing.
[[nodiscard]] std::vector<DiffPart> answer_diff(std::string_view text, std::string_view reference);

}  // namespace weft::eval
