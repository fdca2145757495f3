#include "model/answer.h"

#include <algorithm>
#include <utility>

namespace weft::model {

StopStrings::StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {
  std::erase(strings_, "");  // would stop everything
}

std::string StopStrings::push(std::string_view piece) {
  if (found_) return {};
  held_ += piece;
  std::size_t first = std::string::npos;
  for (const std::string& stop : strings_) first = std::min(first, held_.find(stop));
  if (first != std::string::npos) {
    found_ = true;
    held_.resize(first);
    return std::exchange(held_, {});
  }
  // The longest end of the text that begins a stop string.
  std::size_t keep = 0;
  for (const std::string& stop : strings_) {
    for (std::size_t length = std::min(stop.size() - 1, held_.size()); length > keep; --length) {
      if (held_.ends_with(std::string_view(stop).substr(0, length))) keep = length;
    }
  }
  std::string certain = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return certain;
}

std::string StopStrings::finish() { return std::exchange(held_, {}); }

Answer answer(Decoder& decoder, const text::Tokenizer& tokenizer,
              std::span<const std::int32_t> prompt, const GenerateOptions& options, KvCache& cache,
              const std::function<bool(std::string_view)>& on_text,
              std::span<const std::int32_t> history) {
  text::StreamDecoder stream(tokenizer);
  StopStrings stops(options.stop_strings);
  Answer result;
  const auto emit = [&](const std::string& certain) {
    result.text += certain;
    return certain.empty() || !on_text || on_text(certain);
  };
  bool wanted = true;
  GeneratedIds ids = generate_ids(
      decoder, prompt, options, cache,
      [&](std::int32_t id) {
        // Also without new text, so that a caller can end an answer that prints nothing.
        const std::string certain = stops.push(stream.push(id));
        wanted = emit(certain) && (!certain.empty() || !on_text || on_text({}));
        return wanted && !stops.found();
      },
      history);
  result.ids = std::move(ids.ids);
  result.finish = ids.finish;
  if (!stops.found()) {
    emit(stops.push(stream.finish()));
    if (!stops.found()) emit(stops.finish());
  }
  if (stops.found()) result.finish = Finish::kStopString;
  return result;
}

}  // namespace weft::model
