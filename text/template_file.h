#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "text/tokenizer_config.h"

namespace weft::text {

/// The chat template of a model's files.
struct StoredTemplate {
  /// A text, or a list of {"name", "template"}; null: there is none.
  nlohmann::ordered_json value;
  std::string file;  ///< The name of the file that it is from.
};

/// What of a folder, or of a GGUF file's metadata, has to do with chat templates.
[[nodiscard]] FileTexts template_files(const std::filesystem::path& path);

/// Where transformers looks: chat_template.jinja, then tokenizer_config.json; where neither has a
/// template, chat_template.json, which processors have. `where` begins messages.
[[nodiscard]] StoredTemplate stored_template(const FileTexts& files, const std::string& where);

/// The text, the one that is named "default" or the only one of a list, or nothing.
[[nodiscard]] std::optional<std::string> default_template(const nlohmann::ordered_json& value);

/// The two together: the template of a folder or a GGUF file.
[[nodiscard]] std::optional<std::string> find_template(const std::filesystem::path& path);

}  // namespace weft::text
