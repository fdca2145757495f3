#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/generate.h"
#include "text/tokenizer.h"

namespace weft::model {

/// Cuts a stream of text before the first occurrence of any of the stop strings. What could still
/// become one is held back until the text that follows decides.
class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> strings);

  /// Takes the next piece and returns what is certain to be part of the text.
  [[nodiscard]] std::string push(std::string_view piece);
  /// What was held back and has not become a stop string.
  [[nodiscard]] std::string finish();
  [[nodiscard]] bool found() const noexcept { return found_; }

 private:
  std::vector<std::string> strings_;
  std::string held_;
  bool found_ = false;
};

/// What a model answered.
struct Answer {
  std::string text;               ///< Without special tokens and stop strings.
  std::vector<std::int32_t> ids;  ///< Every token chosen, a stop string's included.
  Finish finish = Finish::kLength;
};

/// generate_ids() as text. `on_text` receives each piece as soon as it is certain, never half a
/// character; returning false ends the answer. The pieces joined are `text`.
[[nodiscard]] Answer answer(Decoder& decoder, const text::Tokenizer& tokenizer,
                            std::span<const std::int32_t> prompt, const GenerateOptions& options,
                            KvCache& cache,
                            const std::function<bool(std::string_view)>& on_text = {},
                            std::span<const std::int32_t> history = {});

}  // namespace weft::model
