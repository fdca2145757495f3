#pragma once

#include <string>

#include "eval/result.h"

namespace weft::eval {

/// A generated answer with all that its scores are made of.
[[nodiscard]] Generation compare_answer(std::string prompt, std::string reference,
                                        std::string output);

}  // namespace weft::eval
