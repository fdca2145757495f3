#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace weft::schema {

/// Where a YAML text comes from.
struct ConfigSource {
  std::string name = "config";      ///< For messages: the path as the user wrote it.
  std::filesystem::path directory;  ///< Relative paths start here; empty: the current folder.
};

/// Where something was written: line and column from 1, or the text of a --set.
struct Place {
  int line = 0;
  int column = 0;
  std::string override_text;  ///< "adapter.r=8" when it came from --set; empty otherwise.
  std::shared_ptr<const ConfigSource> source{};  ///< Null: the file that is being read.

  /// "file:line:column" or "--set text"; `file`: the one that is being read.
  [[nodiscard]] std::string text(const std::string& file) const;
};

struct ConfigEntry;

/// A YAML document as the schema reads it: scalars stay text (their type is the schema's business),
/// aliases are expanded, merge keys (`<<`) are applied, keys are unique.
struct ConfigNode {
  enum class Kind : std::uint8_t { kNull, kScalar, kList, kMap };
  Kind kind = Kind::kNull;
  bool quoted = false;  ///< A scalar in quotes, or a block scalar: never null, number or boolean.
  std::string text;
  std::vector<ConfigNode> items;
  std::vector<ConfigEntry> entries;  ///< In file order.
  Place place;

  [[nodiscard]] static ConfigNode scalar(std::string text);  ///< Plain: number, boolean.
  [[nodiscard]] static ConfigNode string(std::string text);  ///< Text; quoted where needed.
  [[nodiscard]] static ConfigNode list(std::vector<ConfigNode> items);
  [[nodiscard]] static ConfigNode map();

  /// The value of `key`, or null when this is no map or has no such key.
  [[nodiscard]] ConfigNode* find(std::string_view key);
  [[nodiscard]] const ConfigNode* find(std::string_view key) const;
  /// Adds a key to a map; the caller knows that it is new.
  ConfigNode& add(std::string key, ConfigNode value, Place key_place = {});
  /// "'abc'", "a list", "a section", "nothing": for messages.
  [[nodiscard]] std::string what() const;
};

struct ConfigEntry {
  std::string key;
  Place place;  ///< Of the key.
  ConfigNode value;
};

/// Problems found while reading one file, in order of appearance.
using Problems = std::vector<std::pair<Place, std::string>>;

/// Parses one YAML document. Syntax errors, duplicate keys, keys that are no scalars, foreign tags,
/// anchors that contain themselves, a second document, and documents that are too large, deep or
/// many when expanded (16 MiB, 64 levels, 200 000 nodes) go to `problems`; what could be read is
/// returned. Empty text is an empty map.
[[nodiscard]] ConfigNode parse_yaml(std::string_view text, Problems& problems);

/// Says of every place in `node` that it is in `source`.
void mark_source(ConfigNode& node, const std::shared_ptr<const ConfigSource>& source);

/// YAML of `node` in block style, `indent` spaces deep; parse_yaml() of it gives the same values.
/// Short lists of scalars are written on one line.
[[nodiscard]] std::string emit_yaml(const ConfigNode& node, int indent = 0);
/// One scalar, list or map in flow style: "[a, b]", "{k: v}", "'text'".
[[nodiscard]] std::string emit_flow(const ConfigNode& node);

}  // namespace weft::schema
