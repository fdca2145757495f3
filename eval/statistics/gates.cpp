#include "eval/statistics/gates.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>

#include "core/error.h"
#include "core/terminal.h"
#include "eval/statistics/figures.h"

namespace weft::eval {
namespace {

std::vector<std::string_view> figure_names() {
  std::vector<std::string_view> names;
  for (const FigureKind& kind : figure_kinds()) names.push_back(kind.name);
  return names;
}

bool is_name_sign(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return std::isalnum(byte) != 0 || c == '_' || c == '@' || byte >= 0x80;
}

/// Reads a gate from left to right.
class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  Gate gate() {
    Gate gate{.text = std::string(text_)};
    sum(gate.terms, 1);
    if (take("<=")) {
      gate.at_most = true;
    } else if (take(">=")) {
      gate.at_most = false;
    } else {
      fail("expected <= or >=");
    }
    sum(gate.terms, -1);
    skip();
    if (at_ < text_.size()) fail("expected the end");
    if (std::ranges::all_of(gate.terms, [](const GateTerm& t) { return t.figure.empty(); }))
      fail("there is no figure in it");
    return gate;
  }

  GateTerm figure() {
    GateTerm term;
    skip();
    read_figure(term);
    skip();
    if (at_ < text_.size()) fail("expected the end");
    return term;
  }

 private:
  [[noreturn]] void fail(std::string_view what) const {
    throw ConfigError(
        "'{}': {} at character {}; a figure is like bits_per_byte.merged, a gate like "
        "bits_per_byte.merged - bits_per_byte.adapter <= 0.001",
        text_, what, at_ + 1);
  }
  void skip() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t')) ++at_;
  }
  bool take(std::string_view sign) {
    skip();
    if (!text_.substr(at_).starts_with(sign)) return false;
    at_ += sign.size();
    return true;
  }

  void sum(std::vector<GateTerm>& terms, double side) {
    double sign = take("-") ? -side : side;
    for (;;) {
      terms.push_back(term(sign));
      if (take("+")) {
        sign = side;
      } else if (take("-")) {
        sign = -side;
      } else {
        return;
      }
    }
  }

  GateTerm term(double sign) {
    GateTerm term{.factor = sign};
    skip();
    if (read_factor(term)) read_figure(term);
    return term;
  }

  /// Whether a figure follows.
  bool read_factor(GateTerm& term) {
    double number = 0;
    const auto read = std::from_chars(text_.data() + at_, text_.data() + text_.size(), number);
    if (read.ec == std::errc::result_out_of_range) fail("expected a finite number");
    if (read.ec != std::errc()) return true;
    if (!std::isfinite(number)) fail("expected a finite number");
    at_ = static_cast<std::size_t>(read.ptr - text_.data());
    term.factor *= number;
    if (!take("*")) return false;
    skip();
    return true;
  }

  void read_figure(GateTerm& term) {
    std::vector<std::string> parts{name()};
    if (parts[0] == "chrf" && text_.substr(at_).starts_with("++")) {
      parts[0] += "++";
      at_ += 2;
      while (at_ < text_.size() && is_name_sign(text_[at_])) parts[0] += text_[at_++];
    }
    while (at_ < text_.size() && text_[at_] == '.') {
      ++at_;
      parts.push_back(name());
    }
    if (figure_kind(parts[0]) == nullptr)
      fail(fmt::format("'{}' is no figure (they are {})", parts[0],
                       fmt::join(figure_names(), ", ")));
    if (parts.size() < 2 || parts.size() > 3) fail("expected FIGURE.STAGE or FIGURE.SUITE.STAGE");
    term.figure = parts[0];
    if (parts.size() == 3) term.suite = parts[1];
    term.stage = parts.back();
  }

  std::string name() {
    if (at_ < text_.size() && text_[at_] == '"') {
      const std::size_t end = text_.find('"', at_ + 1);
      if (end == std::string_view::npos) fail("the quote is not closed");
      std::string quoted(text_.substr(at_ + 1, end - at_ - 1));
      at_ = end + 1;
      return quoted;
    }
    const std::size_t begin = at_;
    while (at_ < text_.size() && is_name_sign(text_[at_])) ++at_;
    if (at_ == begin) fail("expected a figure or a number");
    return std::string(text_.substr(begin, at_ - begin));
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

/// "adapter" is short for base+adapter where no stage has that name itself.
bool is_short_for(std::string_view name, std::string_view stage) {
  return (name == "adapter" || name == "adapter@against") && stage.starts_with("base+") &&
         stage.substr(5) == name;
}

/// A term's suite in its stage, or null.
const SuiteResult* find(const Evaluation& evaluation, const GateTerm& term) {
  auto stage = std::ranges::find(evaluation.stages, term.stage, &StageResult::name);
  if (stage == evaluation.stages.end()) {
    stage = std::ranges::find_if(evaluation.stages, [&](const StageResult& candidate) {
      return is_short_for(term.stage, candidate.name);
    });
  }
  if (stage == evaluation.stages.end()) return nullptr;
  for (const SuiteResult& suite : stage->suites) {
    if (!term.suite.empty() && suite.name != term.suite) continue;
    return &suite;
  }
  return nullptr;
}

GateResult check(const Evaluation& evaluation, const Gate& gate, std::optional<double> confidence,
                 const BootstrapOptions& options) {
  GateResult result{.text = gate.text};
  std::vector<double> draws;
  std::int64_t units = 0;
  for (const GateTerm& term : gate.terms) {
    if (term.figure.empty()) {
      result.limit -= term.factor;
      continue;
    }
    const SuiteResult* suite = find(evaluation, term);
    const auto sampled = suite == nullptr ? std::nullopt : sampled_figure(*suite, term.figure);
    if (!sampled)
      throw ConfigError("gate '{}': {} was not measured in stage '{}'", gate.text, term.figure,
                        term.stage);
    result.left += term.factor * sampled->figure({});
    if (!confidence) continue;
    if (sampled->items < kFewestUnitsForGates)
      throw ConfigError(
          "gate '{}': with gate_confidence a figure needs at least {} units to be drawn from, and "
          "suite '{}' has {}; leave gate_confidence out, or give more items",
          gate.text, kFewestUnitsForGates, suite->name, sampled->items);
    units = units == 0 ? sampled->items : std::min(units, sampled->items);
    BootstrapOptions of_suite = options;
    of_suite.stream = stream_of(suite->name);  // As its figures' intervals.
    const std::vector<double> values = resample(sampled->items, sampled->figure, of_suite);
    draws.resize(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) draws[i] += term.factor * values[i];
  }
  double decisive = result.left;
  if (confidence) {
    // The two-sided interval of 2c - 1 leaves 1 - c on each side.
    const auto bounds = interval(draws, 2 * *confidence - 1, units);
    decisive = !bounds ? std::nan("") : gate.at_most ? bounds->high : bounds->low;
    result.bound = decisive;
  }
  const auto holds = [&](double value) {
    return gate.at_most ? value <= result.limit : value >= result.limit;
  };
  result.passed = holds(result.left) && holds(decisive);  // NaN holds nothing
  return result;
}

}  // namespace

Gate parse_gate(std::string_view text) { return Reader(text).gate(); }
GateTerm parse_figure(std::string_view text) { return Reader(text).figure(); }

bool is_stage(std::string_view name, std::string_view stage) {
  return name == stage || is_short_for(name, stage);
}

void require_names(const Gate& gate, const GateNames& names) {
  const auto require = [&](const char* what, const std::string& name,
                           const std::vector<std::string>& known) {
    const auto is_meant = [&](const std::string& candidate) {
      return candidate == name || is_short_for(name, candidate);
    };
    if (std::ranges::any_of(known, is_meant)) return;
    throw ConfigError("gate '{}': there is no {} '{}', only {}", gate.text, what, name,
                      fmt::join(known, ", "));
  };
  for (const GateTerm& term : gate.terms) {
    if (term.figure.empty()) continue;
    require("stage", term.stage, names.stages);
    if (!term.suite.empty()) {
      require("suite", term.suite, names.suites);
    } else if (names.suites.size() > 1) {
      throw ConfigError("gate '{}': there are several suites ({}): write {}.SUITE.{}", gate.text,
                        fmt::join(names.suites, ", "), term.figure, term.stage);
    }
  }
}

std::vector<GateResult> check_gates(const Evaluation& evaluation, std::span<const Gate> gates,
                                    std::optional<double> confidence,
                                    const BootstrapOptions& options) {
  std::vector<GateResult> results;
  for (const Gate& gate : gates) results.push_back(check(evaluation, gate, confidence, options));
  return results;
}

nlohmann::ordered_json to_json(std::span<const GateResult> results) {
  using Json = nlohmann::ordered_json;
  const auto number = [](double value) {
    return std::isfinite(value) ? Json(value) : Json(nullptr);
  };
  Json all = Json::array();
  for (const GateResult& result : results) {
    all.push_back({{"gate", result.text},
                   {"passed", result.passed},
                   {"left", number(result.left)},
                   {"limit", number(result.limit)},
                   {"bound", result.bound ? number(*result.bound) : Json(nullptr)}});
  }
  return all;
}

std::vector<GateResult> gates_from_json(const nlohmann::json& json) {
  const auto number = [](const nlohmann::json& value) {
    return value.is_null() ? std::nan("") : value.get<double>();
  };
  std::vector<GateResult> results;
  for (const nlohmann::json& gate : json) {
    GateResult& result = results.emplace_back();
    result.text = gate.at("gate").get<std::string>();
    result.passed = gate.at("passed").get<bool>();
    result.left = number(gate.at("left"));
    result.limit = number(gate.at("limit"));
    if (!gate.at("bound").is_null()) result.bound = gate.at("bound").get<double>();
  }
  return results;
}

std::string gates_table(std::span<const GateResult> results) {
  if (results.empty()) return {};
  core::Table table({"gate", "measured", "bound", "limit", "result"});
  for (const GateResult& result : results) {
    const double decisive = result.bound.value_or(result.left);
    table.add({result.text, fmt::format("{:.6g}", result.left),
               result.bound ? fmt::format("{:.6g}", *result.bound) : "-",
               fmt::format("{:.6g}", result.limit),
               result.passed ? "passed"
                             : fmt::format("FAILED by {:.3g}", std::abs(decisive - result.limit))});
  }
  return table.text();
}

}  // namespace weft::eval
