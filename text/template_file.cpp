#include "text/template_file.h"

#include "checkpoint/gguf.h"
#include "core/file.h"
#include "text/gguf_vocabulary.h"

namespace weft::text {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kOwnFile = "chat_template.jinja";
constexpr const char* kKey = "chat_template";

}  // namespace

FileTexts template_files(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path)) return tokenizer_files(checkpoint::Gguf::open(path));
  FileTexts files;
  for (const char* name :
       {kOwnFile, "tokenizer_config.json", "chat_template.json", "special_tokens_map.json"}) {
    if (std::filesystem::is_regular_file(path / name)) files[name] = core::read_text(path / name);
  }
  return files;
}

StoredTemplate stored_template(const FileTexts& files, const std::string& where) {
  if (const auto own = files.find(kOwnFile); own != files.end()) return {own->second, kOwnFile};
  for (const char* name : {"tokenizer_config.json", "chat_template.json"}) {
    Json value = parse_object(files, name, where).value(kKey, Json());
    if (!value.is_null()) return {std::move(value), name};
  }
  return {};
}

std::optional<std::string> default_template(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return std::nullopt;
  std::optional<std::string> only;
  for (const Json& entry : value) {
    if (!entry.is_object() || !entry.contains("template") || !entry["template"].is_string()) {
      continue;
    }
    const bool is_default = entry.contains("name") && entry["name"] == "default";
    if (is_default || value.size() == 1) only = entry["template"].get<std::string>();
  }
  return only;
}

std::optional<std::string> find_template(const std::filesystem::path& path) {
  return default_template(stored_template(template_files(path), path.string()).value);
}

}  // namespace weft::text
