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

  /// `messages`: [{"role": ..., "content": ...}, ...]; keys that are null are left out, as
  /// transformers does, because templates know a missing key and print "None" for one. `extra`:
  /// further variables (tools, ...). InputError with the template's own message when it calls
  /// raise_exception. Keys keep their order, which templates show where they print tools as JSON.
  [[nodiscard]] Rendered render(
      const nlohmann::ordered_json& messages, bool add_generation_prompt,
      const nlohmann::ordered_json& extra = nlohmann::ordered_json::object()) const;
  /// The day that strftime_now prints ("2026-11-29"; default_date() unless it is set). A run sets
  /// the one it was begun with. InputError for what is no day.
  void set_date(std::string date);
  [[nodiscard]] const std::string& date() const;
  /// Whether the date can appear in what is rendered: it is then part of what tokens depend on.
  [[nodiscard]] bool prints_date() const;
  /// Whether the source names `word` (an attribute of messages, a variable, a role) anywhere. What
  /// it does not name has no effect, unless messages are printed whole.
  [[nodiscard]] bool names(std::string_view word) const;

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
