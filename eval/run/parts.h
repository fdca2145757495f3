#pragma once

#include <functional>
#include <optional>
#include <string>

#include "eval/ledger/circumstances.h"
#include "eval/metrics/result.h"

namespace weft::eval {

/// Keeps what each stage gave on each suite until the whole evaluation is recorded, so that one
/// that was killed goes on where it was. Both may be empty: nothing is kept.
struct Parts {
  std::function<std::optional<SuiteResult>(const std::string& key)> find{};
  std::function<void(const std::string& key, const SuiteResult& result)> keep{};
};

/// What a part's numbers depend on, to the bit.
struct PartInputs {
  const Circumstances& circumstances;  ///< Program, machine, threads.
  const std::string& dtype;
  std::int64_t row_tokens = 0;             ///< Longest row that is scored at once.
  const StageResult& stage;                ///< Its files' digests, and quantise.
  const std::string& suite_digest;         ///< Of what is scored (eval/run/suite_digest.h).
  const std::string& asked_digest;         ///< Of what is asked; may be empty.
  const StageResult* reference = nullptr;  ///< That it is compared with token by token.
};

/// Names a part by everything that it depends on (SHA-256); empty where a digest is not known.
[[nodiscard]] std::string part_key(const PartInputs& inputs);

}  // namespace weft::eval
