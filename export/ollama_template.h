#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat_template.h"

namespace weft::exporting {

/// A chat format in Ollama's words.
struct OllamaTemplate {
  std::string_view name;                ///< "chatml", "llama3", ...
  std::string_view go;                  ///< TEMPLATE, in the syntax of Go's text/template.
  std::vector<std::string_view> stops;  ///< PARAMETER stop
  std::string system;  ///< What the model's template says when nobody says a system
                       ///< message (SYSTEM); empty: nothing.
};

/// The known format in which the model's own template renders conversations: it is rendered with
/// and without a system message and compared, text for text, with what each known format gives, so
/// that a template is known by what it does, not by how it is written. Nothing when none agrees.
[[nodiscard]] std::optional<OllamaTemplate> find_ollama_template(
    const text::ChatTemplate& chat_template, std::string_view bos);

/// "chatml, llama3, ..." for messages.
[[nodiscard]] std::string known_ollama_templates();

}  // namespace weft::exporting
