#include "eval/windows.h"

#include <algorithm>

#include "core/error.h"

namespace weft::eval {

std::vector<Window> rolling_windows(std::int64_t tokens, std::int64_t max_tokens) {
  if (max_tokens < 1) {
    throw ConfigError("a window needs room for at least 1 token, found sequence_len {}",
                      max_tokens);
  }
  std::vector<Window> windows;
  for (std::int64_t begin = 0; begin < tokens;) {
    const std::int64_t predicted = std::min(tokens - begin, max_tokens);
    // The first window never has more than the prefix before it; later ones take what fits.
    const std::int64_t context = begin == 0 ? 1 : max_tokens - predicted + 1;
    windows.push_back({begin, begin + predicted, context});
    begin += predicted;
  }
  return windows;
}

}  // namespace weft::eval
