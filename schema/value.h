#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "schema/node.h"
#include "schema/types.h"

/// How the values of a schema are read from and written to YAML. Users of schemas need schema.h
/// only.
namespace weft::schema {

/// What a value looks like, for error texts, the reference and the JSON Schema.
struct TypeInfo {
  enum class Kind : std::uint8_t {
    kString,
    kPath,
    kInteger,
    kNumber,
    kBoolean,
    kDuration,
    kShare,
    kBytes,
    kFolderSwitch,
    kChoice,
    kList,
    kMap,
    kFree
  };
  Kind kind = Kind::kString;
  bool optional = false;
  std::vector<std::string> choices;
  std::shared_ptr<const TypeInfo> element;  ///< Of kList and kMap.

  /// "integer", "list of paths", "one of linear, cosine".
  [[nodiscard]] std::string name() const;
};

/// Bounds of a number, and of the numbers in a list.
struct Bounds {
  std::optional<double> low, high;
  bool low_open = false;  ///< The bound itself is outside.
  bool high_open = false;
  bool non_empty = false;  ///< Text and lists must hold something.

  /// "at least 1 and at most 4096"; empty without bounds.
  [[nodiscard]] std::string text() const;
};

/// Carries the place and the rules of the value being read.
class ValueReader {
 public:
  ValueReader(std::string path, const Bounds& bounds, std::filesystem::path directory,
              Problems& problems)
      : path_(std::move(path)),
        bounds_(&bounds),
        directory_(std::move(directory)),
        problems_(&problems) {}

  [[nodiscard]] ValueReader at(std::string_view key) const;
  /// Records "path: text" at `place`; returns false.
  bool problem(const Place& place, std::string_view text) const;
  /// Records "expected WANTED, found ..."; returns false.
  bool mismatch(const ConfigNode& node, std::string_view wanted) const;
  [[nodiscard]] bool in_bounds(const ConfigNode& node, double value) const;
  [[nodiscard]] const Bounds& bounds() const { return *bounds_; }
  [[nodiscard]] const std::filesystem::path& directory() const { return directory_; }

 private:
  std::string path_;
  const Bounds* bounds_;
  std::filesystem::path directory_;
  Problems* problems_;
};

bool read_value(const ConfigNode& node, const ValueReader& reader, std::string& value);
bool read_value(const ConfigNode& node, const ValueReader& reader, std::filesystem::path& value);
bool read_value(const ConfigNode& node, const ValueReader& reader, std::int64_t& value);
bool read_value(const ConfigNode& node, const ValueReader& reader, double& value);
bool read_value(const ConfigNode& node, const ValueReader& reader, bool& value);
bool read_value(const ConfigNode& node, const ValueReader& reader, Duration& value);
bool read_value(const ConfigNode& node, const ValueReader& reader, Share& value);
bool read_value(const ConfigNode& node, const ValueReader& reader, Bytes& value);
bool read_value(const ConfigNode& node, const ValueReader& reader, FolderSwitch& value);
/// Whatever is written there, with its places: for parts that another schema reads.
bool read_value(const ConfigNode& node, const ValueReader& reader, ConfigNode& value);

[[nodiscard]] ConfigNode write_value(const std::string& value);
[[nodiscard]] ConfigNode write_value(const std::filesystem::path& value);
[[nodiscard]] ConfigNode write_value(std::int64_t value);
[[nodiscard]] ConfigNode write_value(double value);
[[nodiscard]] ConfigNode write_value(bool value);
[[nodiscard]] ConfigNode write_value(const Duration& value);
[[nodiscard]] ConfigNode write_value(const Share& value);
[[nodiscard]] ConfigNode write_value(const Bytes& value);
[[nodiscard]] ConfigNode write_value(const FolderSwitch& value);
[[nodiscard]] ConfigNode write_value(const ConfigNode& value);

/// The argument only chooses the overload.
[[nodiscard]] TypeInfo type_of(const std::string*);
[[nodiscard]] TypeInfo type_of(const std::filesystem::path*);
[[nodiscard]] TypeInfo type_of(const std::int64_t*);
[[nodiscard]] TypeInfo type_of(const double*);
[[nodiscard]] TypeInfo type_of(const bool*);
[[nodiscard]] TypeInfo type_of(const Duration*);
[[nodiscard]] TypeInfo type_of(const Share*);
[[nodiscard]] TypeInfo type_of(const Bytes*);
[[nodiscard]] TypeInfo type_of(const FolderSwitch*);
[[nodiscard]] TypeInfo type_of(const ConfigNode*);

/// The index among type.choices of the name that `node` holds; nothing after recording a problem.
[[nodiscard]] std::optional<std::size_t> read_choice(const ConfigNode& node,
                                                     const ValueReader& reader,
                                                     const TypeInfo& type);

/// Makes a relative path absolute, from `directory`; "~/" is the home folder; empty stays empty.
[[nodiscard]] std::filesystem::path resolve_path(const std::filesystem::path& path,
                                                 const std::filesystem::path& directory);

/// Reading, writing and describing a member of type M.
template <typename M>
struct Codec {
  static bool read(const ConfigNode& node, const ValueReader& reader, M& value) {
    return read_value(node, reader, value);
  }
  static ConfigNode write(const M& value) { return write_value(value); }
  static TypeInfo type() { return type_of(static_cast<const M*>(nullptr)); }
  /// Makes paths that the file does not name absolute as well.
  static void resolve(M& value, const std::filesystem::path& directory) {
    if constexpr (std::is_same_v<M, std::filesystem::path>) value = resolve_path(value, directory);
  }
};

/// null, ~ or nothing is "not set".
template <typename M>
struct Codec<std::optional<M>> {
  static bool read(const ConfigNode& node, const ValueReader& reader, std::optional<M>& value) {
    if (node.kind == ConfigNode::Kind::kNull) {
      value.reset();
      return true;
    }
    M inner{};
    if (!Codec<M>::read(node, reader, inner)) return false;
    value = std::move(inner);
    return true;
  }
  static ConfigNode write(const std::optional<M>& value) {
    return value ? Codec<M>::write(*value) : ConfigNode{};
  }
  static TypeInfo type() {
    TypeInfo info = Codec<M>::type();
    info.optional = true;
    return info;
  }
  static void resolve(std::optional<M>& value, const std::filesystem::path& directory) {
    if (value) Codec<M>::resolve(*value, directory);
  }
};

/// A list; a single value stands for a list of one.
template <typename M>
struct Codec<std::vector<M>> {
  static bool read(const ConfigNode& node, const ValueReader& reader, std::vector<M>& value) {
    std::vector<M> read;
    bool good = true;
    if (node.kind == ConfigNode::Kind::kList) {
      for (std::size_t i = 0; i < node.items.size(); ++i) {
        M item{};
        good = Codec<M>::read(node.items[i], reader.at(std::to_string(i)), item) && good;
        read.push_back(std::move(item));
      }
    } else {
      M item{};
      good = Codec<M>::read(node, reader, item);
      read.push_back(std::move(item));
    }
    if (good && reader.bounds().non_empty && read.empty()) {
      good = reader.problem(node.place, "the list is empty");
    }
    if (good) value = std::move(read);
    return good;
  }
  static ConfigNode write(const std::vector<M>& value) {
    ConfigNode node = ConfigNode::list({});
    for (const M& item : value) node.items.push_back(Codec<M>::write(item));
    return node;
  }
  static TypeInfo type() {
    return {.kind = TypeInfo::Kind::kList,
            .optional = false,
            .choices = {},
            .element = std::make_shared<const TypeInfo>(Codec<M>::type())};
  }
  static void resolve(std::vector<M>& value, const std::filesystem::path& directory) {
    for (M& item : value) Codec<M>::resolve(item, directory);
  }
};

/// Free keys, each with a value of one type.
template <typename M>
struct Codec<std::map<std::string, M>> {
  static bool read(const ConfigNode& node, const ValueReader& reader,
                   std::map<std::string, M>& value) {
    if (node.kind != ConfigNode::Kind::kMap) return reader.mismatch(node, type().name());
    std::map<std::string, M> read;
    bool good = true;
    for (const ConfigEntry& entry : node.entries) {
      good = Codec<M>::read(entry.value, reader.at(entry.key), read[entry.key]) && good;
    }
    if (good) value = std::move(read);
    return good;
  }
  static ConfigNode write(const std::map<std::string, M>& value) {
    ConfigNode node = ConfigNode::map();
    for (const auto& [key, item] : value) node.add(key, Codec<M>::write(item));
    return node;
  }
  static TypeInfo type() {
    return {.kind = TypeInfo::Kind::kMap,
            .optional = false,
            .choices = {},
            .element = std::make_shared<const TypeInfo>(Codec<M>::type())};
  }
  static void resolve(std::map<std::string, M>& value, const std::filesystem::path& directory) {
    for (auto& [key, item] : value) Codec<M>::resolve(item, directory);
  }
};

}  // namespace weft::schema
