#pragma once

#include <optional>
#include <string>

#include "eval/metrics/result.h"
#include "eval/run/suites.h"

namespace weft::eval {

/// Names what a suite scores, to the token: SHA-256 over the tokens that are read and predicted and
/// how they are cut. It changes with data, limits, tokenizer and chat template, and with nothing
/// else: two results of equal digests were measured on the same items.
[[nodiscard]] std::string suite_digest(const SuiteInput& suite);

/// Names what a suite asks: SHA-256 over the questions with their reference answers and over how
/// they are answered. Empty for a suite that asks nothing.
[[nodiscard]] std::string asked_digest(const SuiteInput& suite,
                                       const std::optional<Decoding>& decoding);

}  // namespace weft::eval
