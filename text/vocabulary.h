#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace weft::text {

/// Ids and the bytes of the text that each stands for.
struct Tokens {
  std::vector<std::int32_t> ids;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> offsets;  ///< Empty unless asked for.
};

/// One way from text to ids and back; what Tokenizer stands on. Text is valid UTF-8. Thread-safe.
class Vocabulary {
 public:
  virtual ~Vocabulary() = default;
  [[nodiscard]] virtual Tokens encode(std::string_view text, bool add_special,
                                      bool with_offsets) const = 0;
  /// Unknown ids are skipped.
  [[nodiscard]] virtual std::string decode(std::span<const std::int32_t> ids,
                                           bool skip_special) const = 0;
  [[nodiscard]] virtual std::int32_t size() const = 0;  ///< Largest id + 1.
  [[nodiscard]] virtual std::optional<std::int32_t> token_to_id(std::string_view token) const = 0;
  [[nodiscard]] virtual std::optional<std::string> id_to_token(std::int32_t id) const = 0;
  /// Whether decode(skip_special) leaves this id out.
  [[nodiscard]] virtual bool is_special(std::int32_t id) const = 0;
  /// Everything that decides ids, but what add_special puts around a text: the same text for the
  /// same rules.
  [[nodiscard]] virtual std::string identity() const = 0;
};

}  // namespace weft::text
