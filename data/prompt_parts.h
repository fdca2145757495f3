#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "data/prompt.h"

/// What the parts of PromptBuilder share. Internal to data/.
namespace weft::data {

[[nodiscard]] inline bool is_chat(DatasetType type) {
  return type == DatasetType::kInstruction || type == DatasetType::kChat;
}

/// Text with the ranges of bytes that are answers.
struct PromptBuilder::Marked {
  std::string text;
  std::vector<std::pair<std::size_t, std::size_t>> spans;
  std::vector<std::pair<std::size_t, std::size_t>>
      excluded;  ///< Turns marked as not to be learned.
  std::int64_t answer_bytes = 0;
  bool with_template = false;
};

/// Tokens of a Marked, each with its bytes of the text.
struct PromptBuilder::Encoded {
  std::vector<std::int32_t> ids;
  std::vector<std::pair<std::size_t, std::size_t>> offsets;
  std::vector<std::uint8_t> supervised;

  void append(const text::Tokenizer::Encoding& part, std::size_t shift) {
    ids.insert(ids.end(), part.ids.begin(), part.ids.end());
    for (const auto& [begin, end] : part.offsets) offsets.emplace_back(begin + shift, end + shift);
  }
};

}  // namespace weft::data
