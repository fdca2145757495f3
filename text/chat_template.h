#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace weft::text {

/// A rendered conversation; spans are byte ranges of `text` inside {% generation %} blocks.
struct Rendered {
  std::string text;
  std::vector<std::pair<std::size_t, std::size_t>> generation;
};

/// A model's Jinja chat template, rendered as transformers renders it.
class ChatTemplate {
 public:
  /// The model's template (chat_template.jinja, tokenizer_config.json, GGUF metadata), or nothing.
  /// A list of named templates gives "default".
  [[nodiscard]] static std::optional<ChatTemplate> load(const checkpoint::Checkpoint& model);
  /// From source. `special_tokens`: bos_token, eos_token ... visible to the template.
  /// InputError with the line of a syntax error.
  ChatTemplate(std::string source, nlohmann::json special_tokens);
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  /// `messages`: [{"role": ..., "content": ...}, ...]. `extra`: further variables (tools, ...).
  /// InputError with the template's own message when it calls raise_exception.
  [[nodiscard]] Rendered render(const nlohmann::json& messages, bool add_generation_prompt,
                                const nlohmann::json& extra = nlohmann::json::object()) const;
  [[nodiscard]] const std::string& source() const;
  [[nodiscard]] const std::string& digest() const;  ///< SHA-256 of the source.
  [[nodiscard]] bool marks_generation() const;      ///< Has {% generation %} blocks.

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace weft::text
