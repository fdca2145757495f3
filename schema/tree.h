#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "schema/schema.h"

/// What happens to a configuration's tree before its values are read. Internal to schema/.
namespace weft::schema {

/// Who hears of what was written otherwise than it is read.
struct Teller {
  /// An alias or a word of another program: where, the name as written, the canonical path.
  std::function<void(const Place&, std::string_view, std::string_view)> renamed;
  /// A word of another program that has no meaning here, and why.
  std::function<void(const Place&, std::string_view, std::string_view)> left_out;
  /// A key of another program without a value.
  std::function<void(const Place&, std::string_view)> empty;
};

/// What the words of other programs in a section mean, not yet put into it.
struct Meaning {
  std::string word;    ///< As written: "load_in_4bit: true"
  std::string target;  ///< Dotted path from the section; `*` is every item of a list.
  ConfigNode value;
  Place place;  ///< Of the word
};
using Translation = std::vector<Meaning>;

[[nodiscard]] const ForeignWord* find_foreign(const SectionInfo& info, std::string_view key);

/// Tells what a word of another program is read as.
void tell_meaning(const ForeignReading& reading, const Place& place, const std::string& path,
                  const std::string& word, const Teller& teller);

/// Takes the words of other programs out of `tree`, a section as written, and tells of each.
[[nodiscard]] Translation take_foreign(const SectionInfo& info, const std::string& path,
                                       ConfigNode& tree, Problems& problems, const Teller& teller);

/// "a.b"; either part may be empty.
[[nodiscard]] std::string join_path(std::string_view path, std::string_view key);

[[nodiscard]] const FieldInfo* find_field(const SectionInfo& info, std::string_view name);

/// "; did you mean 'x'?" or "": the nearest key of `info`, else the same key elsewhere below
/// `root`.
[[nodiscard]] std::string suggestion(const SectionInfo& root, const SectionInfo& info,
                                     std::string_view key);

/// Moves every alias in `tree` (a map) to its canonical place, in sections below as well, and puts
/// what words of other programs mean there. Either beside its canonical key is a problem.
void canonicalise(const SectionInfo& info, const std::string& path, ConfigNode& tree,
                  Problems& problems, const Teller& teller);

/// Puts one "path=value" into the canonical tree.
void apply_override(const SectionInfo& info, const std::string& text, ConfigNode& tree,
                    Problems& problems, const Teller& teller);

/// The keys of `from` over those of `into`, both canonical: sections key by key, anything else as a
/// whole.
void lay_over(const SectionInfo& info, ConfigNode& into, const ConfigNode& from);

/// One configuration of a file as a tree, aliases and overrides resolved.
struct VariantTree {
  std::string name;  ///< Empty where the file has no variants.
  ConfigNode tree;
};

/// Takes the list under the key of info.variants out of `tree` (as parsed) and lays each of its
/// items over what is left. Without the list: `tree` alone.
[[nodiscard]] std::vector<VariantTree> split_variants(const SectionInfo& info, ConfigNode tree,
                                                      const std::vector<std::string>& overrides,
                                                      Problems& problems, const Teller& teller);

/// Where the dotted `key` below `node` was written; the nearest enclosing place if it was not.
[[nodiscard]] Place place_below(const ConfigNode& node, std::string_view key);

}  // namespace weft::schema
