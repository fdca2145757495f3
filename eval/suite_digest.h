#pragma once

#include <optional>
#include <string>

#include "eval/result.h"
#include "eval/suites.h"

namespace weft::eval {

/// Names what a suite scores and asks, to the token: SHA-256 over the tokens that are read and
/// predicted, how they are cut, the questions with their reference answers and how they are
/// answered. It changes with data, limits, tokenizer and chat template, and with nothing else:
/// two results of equal digests were measured on the same items.
[[nodiscard]] std::string suite_digest(const SuiteInput& suite,
                                       const std::optional<Decoding>& decoding);

}  // namespace weft::eval
