#pragma once

#include <filesystem>
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
  /// The same without a model: a folder that holds tokenizer files, or a GGUF file.
  [[nodiscard]] static std::optional<ChatTemplate> open(const std::filesystem::path& path);
  /// From source. `special_tokens`: bos_token, eos_token ... visible to the template. `file`: where
  /// it was read, for messages. InputError with the line of a syntax error.
  ChatTemplate(std::string source, nlohmann::json special_tokens, const std::string& file = "");
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  /// `messages`: [{"role": ..., "content": ...}, ...]. `extra`: further variables (tools, ...).
  /// InputError with the template's own message when it calls raise_exception.
  /// Keys keep their order, which templates show where they print tools as JSON.
  [[nodiscard]] Rendered render(
      const nlohmann::ordered_json& messages, bool add_generation_prompt,
      const nlohmann::ordered_json& extra = nlohmann::ordered_json::object()) const;
  /// "the chat template FILE", for messages.
  [[nodiscard]] const std::string& name() const;
  [[nodiscard]] const std::string& source() const;
  [[nodiscard]] const std::string& digest() const;  ///< SHA-256 of the source.
  [[nodiscard]] bool marks_generation() const;      ///< Has {% generation %} blocks.

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace weft::text
