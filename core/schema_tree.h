#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "core/schema.h"

/// What happens to a configuration's tree before its values are read. Internal to core/schema.
namespace weft::core {

/// Called when an alias was used: where, the name as written, the canonical path.
using Renamed = std::function<void(const Place&, std::string_view, std::string_view)>;

/// "a.b"; either part may be empty.
[[nodiscard]] std::string join_path(std::string_view path, std::string_view key);

[[nodiscard]] const FieldInfo* find_field(const SectionInfo& info, std::string_view name);

/// "; did you mean 'x'?" or "": the nearest key of `info`, else the same key elsewhere below
/// `root`.
[[nodiscard]] std::string suggestion(const SectionInfo& root, const SectionInfo& info,
                                     std::string_view key);

/// Moves every alias in `tree` (a map) to its canonical place, in sections below as well. An alias
/// beside its canonical key is a problem.
void canonicalise(const SectionInfo& info, const std::string& path, ConfigNode& tree,
                  Problems& problems, const Renamed& renamed);

/// Puts one "path=value" into the canonical tree.
void apply_override(const SectionInfo& info, const std::string& text, ConfigNode& tree,
                    Problems& problems, const Renamed& renamed);

/// One configuration of a file as a tree, aliases and overrides resolved.
struct VariantTree {
  std::string name;  ///< Empty where the file has no variants.
  ConfigNode tree;
};

/// Takes the list under the key of info.variants out of `tree` (as parsed) and lays each of its
/// items over what is left. Without the list: `tree` alone.
[[nodiscard]] std::vector<VariantTree> split_variants(const SectionInfo& info, ConfigNode tree,
                                                      const std::vector<std::string>& overrides,
                                                      Problems& problems, const Renamed& renamed);

/// Where the dotted `key` below `node` was written; the nearest enclosing place if it was not.
[[nodiscard]] Place place_below(const ConfigNode& node, std::string_view key);

}  // namespace weft::core
