#pragma once

#include <string>

#include "eval/statistics/analysis.h"

namespace weft::eval {

/// What a difference says.
enum class Finding : std::uint8_t {
  kBetter,
  kWorse,
  kNone,       ///< No measurable difference.
  kUncertain,  ///< Its interval says yes, its corrected p says no.
  kUnknown     ///< There is no interval.
};
[[nodiscard]] Finding finding_of(const Comparison& comparison, const BootstrapOptions& options);

/// One plain sentence on a difference, e.g. "merged: no measurable difference from base+adapter on
/// nahuatl, +0.0003 bits per byte (95 % interval -0.0002 .. +0.0008, p = 0.31)." A difference is
/// measurable when its interval does not hold zero and its corrected p is below 1 - confidence.
/// One whose interval says yes and whose corrected p says no is told as not certain.
/// A suite that must be kept is told as what was kept or forgotten.
[[nodiscard]] std::string sentence(const Evaluation& evaluation, const Comparison& comparison,
                                   const BootstrapOptions& options = {});

}  // namespace weft::eval
