#include "eval/html.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "core/version.h"
#include "eval/figures.h"
#include "eval/spread.h"
#include "eval/utf8.h"

namespace weft::eval {
namespace {

constexpr std::string_view kStyle = R"(
:root { color-scheme: light dark; --ink: #1c2024; --soft: #59636e; --line: #c9d1d9; --page: #ffffff;
  --mark: #0b6e4f; --new: #fde9c8; --good: #0b6e4f; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #a5b1bd; --line: #3d464f;
  --page: #14181d; --mark: #5fd0a5; --new: #5a4312; --good: #5fd0a5; --bad: #ff8f85; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; } h3 { font-size: 1rem; }
.soft { color: var(--soft); } .good { color: var(--good); } .bad { color: var(--bad); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: start; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: normal; vertical-align: top; }
td .soft { font-size: .85em; }
td.number, th.number { text-align: end; white-space: nowrap; }
figure { margin: 1rem 0; }
.rung { display: grid; grid-template-columns: 9rem 1fr 5rem; gap: .8rem; align-items: center; }
.rung svg { width: 100%; height: 1.6rem; display: block; }
.rung b { text-align: end; font-variant-numeric: tabular-nums; }
@media (max-width: 34rem) { .rung { grid-template-columns: 1fr 5rem; }
  .rung svg { grid-column: 1 / -1; grid-row: 2; } }
svg line { vector-effect: non-scaling-stroke; }
.track { stroke: var(--line); stroke-width: 1; } .range { stroke: var(--mark); stroke-width: 3; }
.value { stroke: var(--ink); stroke-width: 4; }
dl { display: grid; grid-template-columns: 9rem 1fr; gap: .25rem .8rem; margin: 1rem 0 1.5rem;
  padding-bottom: 1rem; border-bottom: 1px solid var(--line); break-inside: avoid; }
dt { color: var(--soft); } dd { margin: 0; white-space: pre-wrap; }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; } }
mark { background: var(--new); color: inherit; border-bottom: 2px dotted currentColor; }
@media print { body { max-width: none; } h2 { break-after: avoid; } .wide { overflow: visible; } }
)";

/// Valid UTF-8 that shows as itself, whatever the bytes are.
std::string escaped(std::string_view text) {
  std::string result;
  for (const char32_t c : decode_utf8(text)) {
    switch (c) {
      case '&': result += "&amp;"; break;
      case '<': result += "&lt;"; break;
      case '>': result += "&gt;"; break;
      case '"': result += "&quot;"; break;
      case '\n':
      case '\t': result += static_cast<char>(c); break;
      default:
        // HTML has no other control characters.
        append_utf8(result, c < 0x20 || (c >= 0x7F && c < 0xA0) ? char32_t{0xFFFD} : c);
    }
  }
  return result;
}

const Measured* named(const std::vector<Measured>& all, std::string_view name) {
  return figure_named(all, name);
}

std::string range_text(const std::optional<Interval>& range, int digits) {
  return range ? fmt::format("{:.{}f} .. {:.{}f}", range->low, digits, range->high, digits) : "-";
}

/// A stage's figures on one suite.
struct Rung {
  std::string stage;
  std::vector<Measured> figures;
};

std::vector<Rung> rungs_of(const Evaluation& evaluation, const SuiteResult& first,
                           const BootstrapOptions& options) {
  std::vector<Rung> rungs;
  for (const StageResult& stage : evaluation.stages) {
    const SuiteResult* suite = suite_named(stage, first.name);
    if (suite == nullptr) continue;
    rungs.push_back({stage.name, measure(*suite, suite == &first ? nullptr : &first, options)});
  }
  return rungs;
}

/// Bits per byte of each stage as a dash within its interval, on one scale.
std::string ladder(const std::vector<Rung>& rungs, std::string_view suite) {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const Rung& rung : rungs) {
    const Estimate& bits = named(rung.figures, "bits_per_byte")->figure;
    if (!std::isfinite(bits.value)) return {};
    low = std::min(low, bits.interval ? bits.interval->low : bits.value);
    high = std::max(high, bits.interval ? bits.interval->high : bits.value);
  }
  const double room = std::max((high - low) * 0.05, 1e-6);
  low -= room;
  high += room;
  const auto x = [&](double value) { return 100 * (value - low) / (high - low); };
  std::string text = fmt::format(
      "<figure><figcaption class=\"soft\">Bits per byte from {:.3f} to {:.3f}, less is better; the "
      "thick line is the interval.</figcaption>\n",
      low, high);
  for (const Rung& rung : rungs) {
    const Estimate& bits = named(rung.figures, "bits_per_byte")->figure;
    const Interval range = bits.interval.value_or(Interval{bits.value, bits.value});
    text += fmt::format(
        "<div class=\"rung\"><span>{}</span><svg viewBox=\"0 0 100 10\" "
        "preserveAspectRatio=\"none\" "
        "role=\"img\" aria-label=\"{} on {}: {:.4f} bits per byte, interval {}\">"
        "<line class=\"track\" x1=\"0\" x2=\"100\" y1=\"5\" y2=\"5\"/>"
        "<line class=\"range\" x1=\"{:.3f}\" x2=\"{:.3f}\" y1=\"5\" y2=\"5\"/>"
        "<line class=\"value\" x1=\"{:.3f}\" x2=\"{:.3f}\" y1=\"1\" y2=\"9\"/></svg>"
        "<b>{:.4f}</b></div>\n",
        escaped(rung.stage), escaped(rung.stage), escaped(suite), bits.value,
        range_text(bits.interval, 4), x(range.low), x(range.high), x(bits.value), x(bits.value),
        bits.value);
  }
  return text + "</figure>\n";
}

std::string table(const std::vector<Rung>& rungs) {
  std::string text =
      "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"figures\"><table>"
      "<thead><tr><th scope=\"col\">stage</th>";
  for (const Measured& measured : rungs.front().figures)
    text += fmt::format("<th scope=\"col\" class=\"number\">{}</th>", measured.name);
  text += "</tr></thead><tbody>\n";
  for (const Rung& rung : rungs) {
    text += fmt::format("<tr><th scope=\"row\">{}</th>", escaped(rung.stage));
    for (const Measured& measured : rung.figures) {
      const int digits = measured.name == "loss" || measured.name == "bits_per_byte" ? 4 : 2;
      text +=
          fmt::format("<td class=\"number\">{:.{}f}<br><span class=\"soft\">{}</span></td>",
                      measured.figure.value, digits, range_text(measured.figure.interval, digits));
    }
    text += "</tr>\n";
  }
  return text + "</tbody></table></div>\n";
}

/// What each stage changed: against the first, and from the third on against the one before it.
std::string sentences(const Evaluation& evaluation, const SuiteResult& first,
                      const BootstrapOptions& options) {
  std::string text;
  const SuiteResult* before = nullptr;
  std::string before_name;
  for (const StageResult& stage : evaluation.stages) {
    const SuiteResult* suite = suite_named(stage, first.name);
    if (suite == nullptr) continue;
    const auto add = [&](const SuiteResult& other, const std::string& other_name) {
      const std::vector<Measured> figures = measure(*suite, &other, options);
      const Estimate& change = *named(figures, "bits_per_byte")->difference;
      text += fmt::format(
          "<p>{}</p>\n",
          escaped(difference_sentence(stage.name, other_name, change.value, change.interval)));
    };
    if (suite != &first) add(first, evaluation.stages.front().name);
    if (before != nullptr && before != &first) add(*before, before_name);
    before = suite;
    before_name = stage.name;
  }
  return text;
}

std::string marked(std::string_view output, std::string_view reference) {
  std::string text;
  for (const DiffPart& part : character_diff(output, reference)) {
    text += part.common ? escaped(part.text) : "<mark>" + escaped(part.text) + "</mark>";
  }
  return text;
}

std::string examples(const Evaluation& evaluation, const SuiteResult& first, std::int64_t count) {
  if (first.generations.empty() || count < 1) return {};
  std::string text =
      "<h3>Answers</h3>\n<p class=\"soft\">Marked: characters that the reference does not have in "
      "this order.</p>\n";
  const auto line = [&](std::string_view who, std::string_view html) {
    text += fmt::format("<dt>{}</dt><dd dir=\"auto\">{}</dd>\n", escaped(who), html);
  };
  for (const std::size_t index : spread(first.generations.size(), count)) {
    const Generation& sample = first.generations[index];
    text += "<dl>\n";
    line("prompt", escaped(sample.prompt));
    line("reference", escaped(sample.reference));
    for (const StageResult& stage : evaluation.stages) {
      const SuiteResult* suite = suite_named(stage, first.name);
      if (suite == nullptr || index >= suite->generations.size()) continue;
      const Generation& written = suite->generations[index];
      line(fmt::format("{} (chrF {:.0f})", stage.name, chrf_score(written.chrf, kChrf)),
           marked(written.output, sample.reference));
    }
    text += "</dl>\n";
  }
  return text;
}

std::string suite_section(const Evaluation& evaluation, const SuiteResult& first,
                          const PageOptions& options) {
  const std::vector<Rung> rungs = rungs_of(evaluation, first, options.bootstrap);
  std::string text = fmt::format("<section><h2>{}</h2>\n", escaped(first.name));
  text += sentences(evaluation, first, options.bootstrap);
  text += ladder(rungs, first.name) + table(rungs);
  return text + examples(evaluation, first, options.examples) + "</section>\n";
}

std::string gates_section(std::span<const GateResult> gates) {
  if (gates.empty()) return {};
  std::string text =
      "<section><h2>Gates</h2>\n<div class=\"wide\" tabindex=\"0\" role=\"region\" "
      "aria-label=\"gates\"><table><thead><tr><th scope=\"col\">result</th><th "
      "scope=\"col\">gate</th><th scope=\"col\" class=\"number\">measured</th><th scope=\"col\" "
      "class=\"number\">bound</th><th scope=\"col\" class=\"number\">limit</th></tr></thead>"
      "<tbody>\n";
  for (const GateResult& gate : gates) {
    text += fmt::format(
        "<tr><td class=\"{}\">{}</td><td>{}</td><td class=\"number\">{:.6g}</td><td "
        "class=\"number\">{}</td><td class=\"number\">{:.6g}</td></tr>\n",
        gate.passed ? "good" : "bad", gate.passed ? "passed" : "failed", escaped(gate.text),
        gate.left, gate.bound ? fmt::format("{:.6g}", *gate.bound) : "-", gate.limit);
  }
  return text + "</tbody></table></div></section>\n";
}

std::string provenance(const Evaluation& evaluation, const BootstrapOptions& options) {
  std::string text = "<section><h2>How it was measured</h2>\n<dl>\n";
  const auto line = [&](std::string_view what, const std::string& value) {
    text += fmt::format("<dt>{}</dt><dd dir=\"auto\">{}</dd>\n", escaped(what), escaped(value));
  };
  for (const StageResult& stage : evaluation.stages) {
    std::string made_of = stage.model.string();
    for (const auto& adapter : stage.adapters) made_of += "\nwith " + adapter.string();
    line(stage.name, made_of);
  }
  line("precision", evaluation.dtype);
  line("tokens at once", std::to_string(evaluation.sequence_len));
  line("intervals", fmt::format("{:g} %, percentile bootstrap over items, {} resamples, seed {}; "
                                "differences on the same resamples",
                                100 * options.confidence, options.resamples, options.seed));
  if (evaluation.decoding) {
    line("answers",
         fmt::format("greedy, at most {} tokens, repetition penalty {:g}",
                     evaluation.decoding->max_tokens, evaluation.decoding->repetition_penalty));
  }
  line("program", fmt::format("weft {}", core::kVersion));
  return text + "</dl></section>\n";
}

}  // namespace

std::string difference_sentence(std::string_view stage, std::string_view first, double difference,
                                const std::optional<Interval>& interval) {
  if (!std::isfinite(difference)) return fmt::format("{} and {} cannot be compared.", stage, first);
  const std::string size = fmt::format("{:.4f} bits per byte {} than {}", std::abs(difference),
                                       difference < 0 ? "less" : "more", first);
  if (!interval) return fmt::format("{} needs {}; one item shows no interval.", stage, size);
  const std::string range = fmt::format("({:+.4f} .. {:+.4f})", interval->low, interval->high);
  if (interval->low <= 0 && interval->high >= 0) {
    return fmt::format("{}: no measurable difference from {}, {:+.4f} bits per byte {}.", stage,
                       first, difference, range);
  }
  return fmt::format("{} needs {} {}: {}.", stage, size, range,
                     difference < 0 ? "better" : "worse");
}

std::string to_html(const Evaluation& evaluation, std::span<const GateResult> gates,
                    const PageOptions& options) {
  std::string text = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" "
      "content=\"width=device-width, initial-scale=1\">\n<title>{0}</title>\n<style>{1}</style>"
      "</head>\n<body><main>\n<h1>{0}</h1>\n",
      escaped(options.title), kStyle);
  text += gates_section(gates);
  if (!evaluation.stages.empty()) {
    for (const SuiteResult& suite : evaluation.stages.front().suites)
      text += suite_section(evaluation, suite, options);
  }
  return text + provenance(evaluation, options.bootstrap) + "</main></body></html>\n";
}

}  // namespace weft::eval
