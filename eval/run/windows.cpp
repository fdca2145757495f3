#include "eval/run/windows.h"

#include <algorithm>

#include "core/error.h"

namespace weft::eval {

std::vector<Window> rolling_windows(std::int64_t tokens, std::int64_t max_tokens,
                                    std::optional<std::int64_t> stride) {
  if (max_tokens < 1) {
    throw ConfigError("a window needs room for at least 1 token, found sequence_len {}",
                      max_tokens);
  }
  const std::int64_t step = stride.value_or(max_tokens);
  if (step < 1 || step > max_tokens) {
    throw ConfigError("stride is {}, expected 1 to the {} tokens of a window", step, max_tokens);
  }
  std::vector<Window> windows;
  for (std::int64_t begin = 0; begin < tokens;) {
    const std::int64_t predicted = std::min(tokens - begin, begin == 0 ? max_tokens : step);
    // The first window never has more than the prefix before it; later ones take what fits.
    const std::int64_t context = begin == 0 ? 1 : max_tokens - predicted + 1;
    windows.push_back({begin, begin + predicted, context});
    begin += predicted;
  }
  return windows;
}

std::vector<Window> llama_windows(std::int64_t tokens, std::int64_t chunk) {
  if (chunk < 4)
    throw ConfigError("a chunk needs at least 4 tokens, found window_tokens {}", chunk);
  std::vector<Window> windows;
  for (std::int64_t begin = 0; begin + chunk <= tokens; begin += chunk) {
    const std::int64_t first = chunk / 2 + 1;  // Predicted from chunk / 2 tokens and itself.
    windows.push_back({begin + first, begin + chunk, first});
  }
  return windows;
}

}  // namespace weft::eval
