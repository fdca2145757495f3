#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/metrics/result.h"
#include "eval/statistics/bootstrap.h"

namespace weft::eval {

/// FACTOR * FIGURE.SUITE.STAGE, or a number where `figure` is empty.
struct GateTerm {
  double factor = 1;
  std::string figure{};  ///< As measure() names it.
  std::string suite{};   ///< Empty: the only suite.
  std::string stage{};
};

/// What has to hold: the sum of `terms` (left minus right side) is at most, or at least, zero.
struct Gate {
  std::string text{};  ///< As it was written.
  std::vector<GateTerm> terms{};
  bool at_most = true;  ///< <=, or >=
};

/// Reads "bits_per_byte.merged - bits_per_byte.adapter <= 0.001": two sums of terms around <= or
/// >=. A term is a number, a figure, or NUMBER * figure; a figure is NAME.STAGE or NAME.SUITE.STAGE
/// with NAME one of figure_kinds(). "adapter" is short for
/// base+adapter; a name with other signs than letters, digits, _ and @ stands in double quotes.
/// Throws ConfigError with the gate and the place in it.
[[nodiscard]] Gate parse_gate(std::string_view text);

/// Reads one figure, "bits_per_byte.nahuatl.merged" or "bits_per_byte.merged". Errors as above.
[[nodiscard]] GateTerm parse_figure(std::string_view text);

/// What can be named in a gate.
struct GateNames {
  std::vector<std::string> stages;
  std::vector<std::string> suites;
};

/// Throws ConfigError for a stage or suite that there is none of, listing those there are.
void require_names(const Gate& gate, const GateNames& names);

/// Whether a gate's `name` means the stage: "adapter" is short for base+adapter.
[[nodiscard]] bool is_stage(std::string_view name, std::string_view stage);

/// With a confidence, a figure of fewer independent units than this decides no gate: the one-sided
/// bound of 5 units holds in 92 of 100 cases where it says 95.
inline constexpr std::int64_t kFewestUnitsForGates = 10;

/// What came of a gate.
struct GateResult {
  std::string text{};
  bool passed = false;
  double left = 0;   ///< Sum of the terms with figures.
  double limit = 0;  ///< What it is compared with: the numbers, on the other side.
  /// With a confidence: the bound of `left` that has to keep within the limit, which it does in
  /// that share of resamples.
  std::optional<double> bound{};
};

/// Checks every gate. Without `confidence` the figures themselves have to satisfy a gate; with it,
/// e.g. 0.95, so has the one-sided bound of paired resamples (eval/statistics/bootstrap.h): what a
/// gate says is then shown, not just not refuted. Suites are resampled independently of each other.
/// Throws ConfigError for a figure that was not measured, or with a confidence for a suite of fewer
/// than kFewestUnitsForGates units.
[[nodiscard]] std::vector<GateResult> check_gates(const Evaluation& evaluation,
                                                  std::span<const Gate> gates,
                                                  std::optional<double> confidence,
                                                  const BootstrapOptions& options = {});

/// One line per gate: what was measured, the limit, by how much it was kept or missed.
[[nodiscard]] std::string gates_table(std::span<const GateResult> results);

/// [{"gate", "passed", "left", "limit", "bound"}]; numbers that do not exist are null.
[[nodiscard]] nlohmann::ordered_json to_json(std::span<const GateResult> results);
/// The way back. Throws nlohmann::json::exception for what to_json() did not make.
[[nodiscard]] std::vector<GateResult> gates_from_json(const nlohmann::json& json);

}  // namespace weft::eval
