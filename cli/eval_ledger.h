#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/log.h"
#include "eval/ledger/ledger.h"
#include "eval/report/compare.h"
#include "eval/run/config.h"
#include "eval/run/parts.h"
#include "model/device.h"

// What weft eval has to do with the ledger.

namespace weft::cli {

/// An evaluation's place in the ledger, before and after it runs.
class EvalRecord {
 public:
  /// Opens the ledger and finds what is to be compared with, so that what is wrong with either is
  /// told before the long work. A ledger that nobody named and that cannot be written is told to
  /// `log` and left out.
  EvalRecord(const eval::EvalConfig& config, std::string name, const core::Log& log);

  /// Null where nothing is recorded or compared.
  [[nodiscard]] eval::Ledger* ledger() const { return ledger_.get(); }
  /// What to compare with.
  [[nodiscard]] const std::optional<eval::Recorded>& earlier() const { return earlier_; }

  /// Call when the evaluation begins; `device` computes it.
  void begin(const model::ComputeDevice& device);
  /// Where the evaluation leaves its finished parts, and finds those of one that was killed.
  /// `fresh`: finds nothing. Refers to this object.
  [[nodiscard]] eval::Parts parts(bool fresh, const core::Log& log);
  /// The evaluation with what belongs into its record.
  [[nodiscard]] eval::Recorded recorded(eval::Evaluation evaluation,
                                        std::vector<eval::GateResult> gates) const;
  /// Writes it if it is to be recorded. A failure is told to `log`, and is false: what was measured
  /// must still be shown. Where
  /// its tag was taken meanwhile it is recorded without one, and that is told and false, too.
  [[nodiscard]] bool write(const eval::Recorded& recorded, const eval::Analysis& analysis,
                           const core::Log& log) const;

 private:
  eval::EvalConfig config_;
  std::unique_ptr<eval::Ledger> ledger_;
  std::optional<eval::Recorded> earlier_;
  eval::Circumstances circumstances_;
  double begun_ = 0;  ///< Seconds of a clock that never jumps.
  std::vector<std::string> part_keys_;
  bool cannot_keep_ = false;
};

}  // namespace weft::cli
