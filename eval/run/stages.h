#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "core/communicator.h"
#include "core/log.h"
#include "eval/ledger/content_digest.h"
#include "eval/metrics/result.h"
#include "eval/report/progress.h"
#include "eval/run/config.h"
#include "eval/run/parts.h"

namespace weft::eval {

/// What evaluate() tells its caller, and asks. Empty functions are not called.
struct Hooks {
  core::Log log{};
  ProgressFunction progress{};
  const std::atomic<bool>* stop = nullptr;  ///< Polled between rows and tokens.
  /// That measure the same together; null: one process alone. They share rows and answers, but for
  /// suites that are compared token by token. A stop in one of them ends the measuring in all.
  core::Communicator* ranks = nullptr;
  /// Before a model is read: its name, bytes of its weights and of computing one row. May throw.
  std::function<void(const std::string& what, std::uint64_t weights, std::uint64_t work)>
      before_load{};
  /// Names the models' and adapters' files by their contents; without it results carry no digests.
  FileDigest file_digest{};
  /// What was finished before, and is finished now; needs file_digest.
  Parts parts{};
  /// The evaluation whose stages gates may name as STAGE@against, or null.
  const Evaluation* earlier = nullptr;
};

/// Measures every stage of the configuration (stage_plans()) on every suite, one after another.
/// Stages in a row that share a model share its weights in memory; one model is held at a time.
///
/// The suites are those of suite_plans(). Items are made once, by the base's tokenizer and chat
/// template, so that every stage is measured on the same ones; for a stage with another tokenizer
/// the plain texts are cut again, and bits per byte is all that is measured. The reference stage
/// is measured first, whatever its place.
/// Throws InputError for files and models that are not what they should be (an adapter trained on
/// other weights, a model with another template, or with another tokenizer and no plain text),
/// NumericError for losses that are not finite, and Interrupted.
[[nodiscard]] Evaluation evaluate(const EvalConfig& config, const Hooks& hooks);

}  // namespace weft::eval
