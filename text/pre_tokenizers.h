#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// How a byte-level BPE splits text before merging. tokenizer.json says it, GGUF files only name it
// (tokenizer.ggml.pre; ggml-org/llama.cpp, src/llama-vocab.cpp).

namespace weft::text {

/// One step of tokenizer.json's pre_tokenizer.
struct SplitStep {
  enum class Kind : std::uint8_t {
    kPattern,      ///< What matches `pattern` stands alone.
    kDigits,       ///< Every digit stands alone.
    kNumbers,      ///< Every run of digits stands alone.
    kPunctuation,  ///< Every run of punctuation stands alone.
    kWords         ///< GPT-2's own expression.
  };
  Kind kind = Kind::kPattern;
  std::string_view pattern = {};
};

struct PreTokenizer {
  std::string_view name;
  std::span<const std::string_view> aliases;  ///< Other names of the same.
  std::span<const SplitStep> steps;
  bool ignore_merges = false;
  bool nfc = false;      ///< The text is normalised first.
  bool add_bos = false;  ///< Where the file does not say.
};

/// All that weft knows. Of several that split alike the first is the one that is written.
[[nodiscard]] std::span<const PreTokenizer> pre_tokenizers() noexcept;

/// By name or alias; null for one that weft does not know.
[[nodiscard]] const PreTokenizer* find_pre_tokenizer(std::string_view name) noexcept;

/// "gpt-2, smollm, ...", for messages.
[[nodiscard]] std::string known_pre_tokenizers();

/// tokenizer.json's part of that name. Offsets keep the leading space, so that they cover the text
/// without gaps; `use_regex`: GPT-2's expression splits the text first.
[[nodiscard]] nlohmann::ordered_json byte_level_step(bool use_regex);

/// As tokenizer.json has it.
[[nodiscard]] nlohmann::ordered_json pre_tokenizer_json(const PreTokenizer& pre);

}  // namespace weft::text
