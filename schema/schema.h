#pragma once

#include <deque>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/log.h"
#include "schema/foreign.h"
#include "schema/value.h"

/// Typed YAML configuration: one description of a struct gives parsing, error texts, dumps, the
/// reference page and a JSON Schema.
///
///   struct AdapterSection { std::int64_t r = 8; double lora_alpha = 8; };
///   struct TrainConfig { std::filesystem::path base_model; AdapterSection adapter; ... };
///
///   void describe(schema::Schema<AdapterSection>& s) {
///     s.field("r", &AdapterSection::r, "rank of the adapter").range(1, 4096).alias("rank");
///   }
///   void describe(schema::Schema<TrainConfig>& s) {
///     s.field("base_model", &TrainConfig::base_model, "directory or GGUF file").required();
///     s.section("adapter", &TrainConfig::adapter, "what is trained");
///     s.alias("lora_r", "adapter.r");
///   }
///   const auto config = schema::load_config<TrainConfig>(path, {"adapter.r=16"}, log);
///
/// `describe` is found by argument-dependent lookup, in the namespace of the struct. Defaults are
/// the struct's member initialisers.
///
/// Member types: std::string, std::int64_t, double, bool, std::filesystem::path, Duration, Share,
/// Bytes, FolderSwitch; std::optional, std::vector and std::map<std::string, ...> of those;
/// enumerations by choice(); sections (structs), std::optional<section> and std::vector<section>.
///
/// Text stays text (`no` is a language code where a string is wanted); numbers are decimal (`010`
/// is 10, `1e-4` a number); true/false, yes/no and on/off are booleans where one is wanted. Quoted
/// numbers are text. Paths are relative to the YAML file, in --set to the current folder, and are
/// absolute after loading.
namespace weft::schema {

struct SectionInfo;

/// One key of a section. The setters return the field so that they chain.
struct FieldInfo {
  enum class Shape : std::uint8_t { kValue, kSection, kSectionList };

  std::string name;
  std::string doc;
  Shape shape = Shape::kValue;
  bool is_required = false;
  bool is_optional_section = false;
  Bounds bounds;
  std::vector<std::string> aliases;

  TypeInfo type;  ///< Of kValue.
  std::function<bool(const ConfigNode&, const ValueReader&, void* object)> read;
  std::function<ConfigNode(const void* object)> write;
  std::function<void(void* object, const std::filesystem::path& directory)> resolve;

  std::shared_ptr<const SectionInfo> section;  ///< Of kSection and kSectionList.
  std::function<void(void* object)> clear;     ///< Removes an optional section, or all items.
  std::function<void*(void* object)> open;     ///< The section, made if absent; or a new item.
  std::function<std::vector<void*>(void* object)> present;  ///< The section or items there are.

  /// The key must be given.
  FieldInfo& required() {
    is_required = true;
    return *this;
  }
  FieldInfo& at_least(double low) {
    bounds.low = low;
    return *this;
  }
  FieldInfo& at_most(double high) {
    bounds.high = high;
    return *this;
  }
  FieldInfo& range(double low, double high) { return at_least(low).at_most(high); }
  FieldInfo& more_than(double low) {
    bounds.low_open = true;
    return at_least(low);
  }
  FieldInfo& less_than(double high) {
    bounds.high_open = true;
    return at_most(high);
  }
  FieldInfo& positive() { return more_than(0); }
  /// Text or list that must hold something when it is given.
  FieldInfo& non_empty() {
    bounds.non_empty = true;
    return *this;
  }
  /// Another name for the key in the same section; accepted, reported, dumped canonically.
  FieldInfo& alias(std::string other) {
    aliases.push_back(std::move(other));
    return *this;
  }
};

/// What a check() of a section reports through: the key's place is found by the reader.
class CheckReport {
 public:
  virtual ~CheckReport() = default;
  /// `key`: of this section, or dotted below it. The text says what is wrong and what to do.
  virtual void problem(std::string_view key, std::string text) = 0;
};

/// A key under which one file describes several configurations: see Schema::variants().
struct VariantsInfo {
  std::string key;
  std::string doc;
  std::vector<std::string> shared;  ///< Keys that no variant may give: one value for all.
};

struct SectionInfo {
  std::deque<FieldInfo> fields;
  std::vector<std::pair<std::string, std::string>> aliases;  ///< Key here -> dotted path from here.
  std::vector<ForeignWord> foreign;                          ///< Words of other programs.
  std::vector<std::function<void(const void* object, CheckReport&)>> checks;
  std::optional<VariantsInfo> variants;
  std::function<std::shared_ptr<void>()> make;  ///< An object with the defaults.
};

template <typename T>
class Schema;

/// The description of T, by its describe().
template <typename T>
[[nodiscard]] std::shared_ptr<const SectionInfo> section_info();

template <typename T>
class Schema {
 public:
  /// A value: `member` of one of the types above.
  template <typename M>
  FieldInfo& field(std::string name, M T::*member, std::string doc) {
    FieldInfo& added = add(std::move(name), std::move(doc), FieldInfo::Shape::kValue);
    added.type = Codec<M>::type();
    added.read = [member](const ConfigNode& node, const ValueReader& reader, void* object) {
      return Codec<M>::read(node, reader, static_cast<T*>(object)->*member);
    };
    added.write = [member](const void* object) {
      return Codec<M>::write(static_cast<const T*>(object)->*member);
    };
    added.resolve = [member](void* object, const std::filesystem::path& directory) {
      Codec<M>::resolve(static_cast<T*>(object)->*member, directory);
    };
    return added;
  }

  /// An enumeration (or an optional one), written as one of the names.
  template <typename E>
  FieldInfo& choice(std::string name, E T::*member,
                    std::initializer_list<std::pair<const char*, std::type_identity_t<E>>> choices,
                    std::string doc) {
    const std::vector<std::pair<std::string, E>> table(choices.begin(), choices.end());
    FieldInfo& added = add(std::move(name), std::move(doc), FieldInfo::Shape::kValue);
    added.type.kind = TypeInfo::Kind::kChoice;
    for (const auto& [text, value] : table) added.type.choices.push_back(text);
    constexpr bool kOptional = requires(E e) { e.has_value(); };
    added.type.optional = kOptional;
    added.read = [member, table, type = added.type](const ConfigNode& node,
                                                    const ValueReader& reader, void* object) {
      if constexpr (kOptional) {
        if (node.kind == ConfigNode::Kind::kNull) {
          (static_cast<T*>(object)->*member).reset();
          return true;
        }
      }
      const std::optional<std::size_t> index = read_choice(node, reader, type);
      if (index) static_cast<T*>(object)->*member = table[*index].second;
      return index.has_value();
    };
    added.resolve = [](void*, const std::filesystem::path&) {};
    added.write = [member, table](const void* object) {
      const E value = static_cast<const T*>(object)->*member;
      for (const auto& [text, candidate] : table) {
        if (candidate == value) return ConfigNode::string(text);
      }
      return ConfigNode{};
    };
    return added;
  }

  /// A nested section.
  template <typename S>
  FieldInfo& section(std::string name, S T::*member, std::string doc) {
    FieldInfo& added = add(std::move(name), std::move(doc), FieldInfo::Shape::kSection);
    added.section = section_info<S>();
    added.clear = [](void*) {};  // Always there: what the file does not say keeps its default.
    added.open = [member](void* object) -> void* { return &(static_cast<T*>(object)->*member); };
    added.present = [member](void* object) {
      return std::vector<void*>{&(static_cast<T*>(object)->*member)};
    };
    return added;
  }

  /// A section that may be absent.
  template <typename S>
  FieldInfo& section(std::string name, std::optional<S> T::*member, std::string doc) {
    FieldInfo& added = add(std::move(name), std::move(doc), FieldInfo::Shape::kSection);
    added.is_optional_section = true;
    added.section = section_info<S>();
    added.clear = [member](void* object) { (static_cast<T*>(object)->*member).reset(); };
    added.open = [member](void* object) -> void* {
      std::optional<S>& place = static_cast<T*>(object)->*member;
      if (!place) place.emplace();
      return &*place;
    };
    added.present = [member](void* object) {
      std::optional<S>& place = static_cast<T*>(object)->*member;
      return place ? std::vector<void*>{&*place} : std::vector<void*>{};
    };
    return added;
  }

  /// A list of sections.
  template <typename S>
  FieldInfo& list(std::string name, std::vector<S> T::*member, std::string doc) {
    FieldInfo& added = add(std::move(name), std::move(doc), FieldInfo::Shape::kSectionList);
    added.section = section_info<S>();
    added.clear = [member](void* object) { (static_cast<T*>(object)->*member).clear(); };
    added.open = [member](void* object) -> void* {
      return &(static_cast<T*>(object)->*member).emplace_back();
    };
    added.present = [member](void* object) {
      std::vector<void*> items;
      for (S& item : static_cast<T*>(object)->*member) items.push_back(&item);
      return items;
    };
    return added;
  }

  /// Accepts `other` as a key of this section and reads it as `path` ("adapter.r").
  void alias(std::string other, std::string path) {
    info_->aliases.emplace_back(std::move(other), std::move(path));
  }

  /// Words of other programs, each with what it means here: it is read as a key of ours, told as
  /// left out with the reason, or refused with what to write instead. A word beside a key of ours
  /// for the same thing is a problem; one without a value counts as not given.
  void foreign(std::vector<ForeignWord> words) {
    for (ForeignWord& word : words) info_->foreign.push_back(std::move(word));
  }

  /// Lets a file describe several configurations: a list under `key`, of sections with a `name` and
  /// what is different from the keys around the list. Read by load_variants().
  void variants(std::string key, std::vector<std::string> shared, std::string doc) {
    info_->variants = VariantsInfo{std::move(key), std::move(doc), std::move(shared)};
  }

  /// Rules between keys; called when every key of the section was read without a problem.
  void check(std::function<void(const T&, CheckReport&)> rule) {
    info_->checks.push_back([rule = std::move(rule)](const void* object, CheckReport& report) {
      rule(*static_cast<const T*>(object), report);
    });
  }

 private:
  template <typename S>
  friend std::shared_ptr<const SectionInfo> section_info();

  FieldInfo& add(std::string name, std::string doc, FieldInfo::Shape shape) {
    FieldInfo& added = info_->fields.emplace_back();
    added.name = std::move(name);
    added.doc = std::move(doc);
    added.shape = shape;
    return added;
  }

  std::shared_ptr<SectionInfo> info_ = std::make_shared<SectionInfo>();
};

template <typename T>
std::shared_ptr<const SectionInfo> section_info() {
  Schema<T> schema;
  describe(schema);
  schema.info_->make = [] { return std::static_pointer_cast<void>(std::make_shared<T>()); };
  return schema.info_;
}

/// Canonical path of every key that was given -> "file:line:column" or "--set text", for messages
/// about a value that only later proves wrong.
using Origins = std::map<std::string, std::string>;

/// The type-erased reader behind parse_config: fills `object`, throws ConfigError with one line for
/// every problem, tells `log` of each alias that was used.
void read_config(const SectionInfo& info, std::string_view yaml, const ConfigSource& source,
                 const std::vector<std::string>& overrides, const core::Log& log, Origins* origins,
                 void* object);

/// Reads YAML text. `overrides` are "path=value" with dotted paths, list items by index
/// ("datasets.0.path=x.csv", the index after the last appends); values are YAML ("[a, b]").
/// Throws ConfigError naming every problem, one a line:
///   file:line:column: path: problem; did you mean 'x'?
template <typename T>
[[nodiscard]] T parse_config(std::string_view yaml, const ConfigSource& source = {},
                             const std::vector<std::string>& overrides = {},
                             const core::Log& log = {}, Origins* origins = nullptr) {
  T config{};
  read_config(*section_info<T>(), yaml, source, overrides, log, origins, &config);
  return config;
}

/// One configuration of a file.
template <typename T>
struct Variant {
  std::string name;  ///< Empty where the file describes one configuration only.
  T config{};
  Origins origins{};
};

/// The type-erased reader behind load_variants.
[[nodiscard]] std::vector<Variant<std::shared_ptr<void>>> read_variants(
    const SectionInfo& info, std::string_view yaml, const ConfigSource& source,
    const std::vector<std::string>& overrides, const core::Log& log);

/// The file's text and its ConfigSource. InputError when it cannot be read or exceeds 16 MiB.
[[nodiscard]] std::pair<std::string, ConfigSource> read_config_file(
    const std::filesystem::path& file);

/// A part of a configuration that is put together of several texts.
struct ConfigLayer {
  ConfigNode tree;  ///< As parse_tree() gives it, or a map of parts of such.
  std::shared_ptr<const ConfigSource> source;
};

/// The keys of a YAML text, not yet read by any schema. Throws as read_config for what is no YAML.
[[nodiscard]] ConfigLayer parse_tree(std::string_view yaml, const ConfigSource& source);

/// Reads a configuration of several layers, each laid over those before it: sections key by key,
/// values and lists as a whole. Places in messages, and the folder of relative paths, are those of
/// the layer that gave the value. A key that is missing is told at the place of the last layer.
/// Throws as read_config.
[[nodiscard]] std::shared_ptr<void> read_layers(const SectionInfo& info,
                                                std::vector<ConfigLayer> layers,
                                                const core::Log& log = {});

/// parse_config of a file.
template <typename T>
[[nodiscard]] T load_config(const std::filesystem::path& file,
                            const std::vector<std::string>& overrides = {},
                            const core::Log& log = {}, Origins* origins = nullptr) {
  const auto [text, source] = read_config_file(file);
  return parse_config<T>(text, source, overrides, log, origins);
}

/// Every configuration of a file: its variants (Schema::variants), or the one it describes. A
/// variant's sections are laid over the common ones key by key; values and lists replace them.
/// `overrides` may name a variant by its index or its name: "adapters.0.seed=1". Throws as
/// parse_config, and for names that are missing or given twice.
template <typename T>
[[nodiscard]] std::vector<Variant<T>> parse_variants(std::string_view yaml,
                                                     const ConfigSource& source = {},
                                                     const std::vector<std::string>& overrides = {},
                                                     const core::Log& log = {}) {
  std::vector<Variant<T>> result;
  for (auto& one : read_variants(*section_info<T>(), yaml, source, overrides, log)) {
    result.push_back({std::move(one.name), std::move(*static_cast<T*>(one.config.get())),
                      std::move(one.origins)});
  }
  return result;
}

/// parse_variants of a file.
template <typename T>
[[nodiscard]] std::vector<Variant<T>> load_variants(const std::filesystem::path& file,
                                                    const std::vector<std::string>& overrides = {},
                                                    const core::Log& log = {}) {
  const auto [text, source] = read_config_file(file);
  return parse_variants<T>(text, source, overrides, log);
}

enum class Dump : std::uint8_t {
  kMinimal,  ///< What differs from the defaults.
  kFull      ///< Every key, with its documentation as comments.
};

[[nodiscard]] std::string dump_config(const SectionInfo& info, const void* object, Dump dump);

/// YAML that parse_config reads back to an equal configuration. Paths are absolute, as after
/// loading, so that the text means the same in any folder.
template <typename T>
[[nodiscard]] std::string dump_config(const T& config, Dump dump) {
  return dump_config(*section_info<T>(), &config, dump);
}

[[nodiscard]] nlohmann::json json_schema(const SectionInfo& info, std::string_view title);

/// JSON Schema (draft 2020-12) for editors; callers include <nlohmann/json.hpp>.
template <typename T>
[[nodiscard]] auto json_schema(std::string_view title = "weft configuration") {
  return json_schema(*section_info<T>(), title);
}

[[nodiscard]] std::string config_reference(const SectionInfo& info);

/// Markdown tables of every key: type, default, range, aliases, documentation; one table a section.
template <typename T>
[[nodiscard]] std::string config_reference() {
  return config_reference(*section_info<T>());
}

}  // namespace weft::schema
