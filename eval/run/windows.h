#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace weft::eval {

/// A part of a text that is scored by one pass of the model. Token -1 is the prefix (BOS, or EOS
/// where there is none), token 0 the first of the text.
///
/// The model reads tokens [begin - context, end - 1) and predicts [begin, end).
struct Window {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t context = 1;

  friend bool operator==(const Window&, const Window&) = default;
};

/// Windows whose predictions cover [0, tokens) once each, no pass longer than max_tokens: lm-eval's
/// get_rolling_token_windows, made disjoint. The first predicts max_tokens tokens, the others
/// `stride` each (its max_seq_len - context_len + 1; what Hugging Face's guide on perplexity calls
/// stride), filled with context to max_tokens; so does the last, which predicts what is left.
/// Without a stride it is max_tokens: predictions have one token of context before them.
/// Throws ConfigError unless max_tokens >= 1 and 1 <= stride <= max_tokens.
[[nodiscard]] std::vector<Window> rolling_windows(std::int64_t tokens, std::int64_t max_tokens,
                                                  std::optional<std::int64_t> stride = {});

/// The chunks of llama.cpp's tools/perplexity: of every whole `chunk` tokens the model reads all
/// but the last and predicts those from chunk/2 + 1 on; what is left of the text is not scored.
/// Throws ConfigError unless chunk >= 4.
[[nodiscard]] std::vector<Window> llama_windows(std::int64_t tokens, std::int64_t chunk);

}  // namespace weft::eval
