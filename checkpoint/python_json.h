#pragma once

#include <string>
#include <string_view>

// Python's json module writes numbers that are not finite as the words Infinity, -Infinity and NaN,
// which are no JSON. Configurations hold them ("time_step_limit": [0.0, Infinity]).

namespace weft::checkpoint {

/// The text with these words, where they stand as values, as strings of their own.
[[nodiscard]] std::string quote_constants(std::string_view text);

/// The words again: what quote_constants() made of them, in a text that was parsed and dumped
/// since.
[[nodiscard]] std::string unquote_constants(std::string text);

}  // namespace weft::checkpoint
