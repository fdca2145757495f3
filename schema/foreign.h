#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "schema/node.h"

namespace weft::schema {

/// What a key of another program means here, with the value that it has in a file.
struct ForeignReading {
  enum class Kind : std::uint8_t {
    kOwn,      ///< It is a key of ours, with a value of ours: nothing to translate.
    kMeans,    ///< The same as `keys`.
    kLeftOut,  ///< It says nothing that bears on a run of weft; `text` says why.
    kRefused   ///< It asks for what weft does not do; `text` says what to write or do instead.
  };
  Kind kind = Kind::kOwn;
  /// Dotted paths from the section where the word stands, and their values. `*` in a path stands
  /// for every item of a list.
  std::vector<std::pair<std::string, ConfigNode>> keys;
  std::string text;

  [[nodiscard]] static ForeignReading own() { return {}; }
  [[nodiscard]] static ForeignReading means(std::string path, ConfigNode value);
  [[nodiscard]] static ForeignReading left_out(std::string why);
  [[nodiscard]] static ForeignReading refused(std::string what_to_do);
};

/// A key of another program, which its files have where ours have other keys. A key of ours may be
/// one as well: `adapter` is a section here and `adapter: qlora` a word there.
struct ForeignWord {
  std::string key;
  std::string from;     ///< The programs that have it, for the reference.
  std::string meaning;  ///< What becomes of it, for the reference: a key of ours, or a reason.
  /// `section` holds the keys beside it as they were written. Null values never come here unless
  /// `reads_null`: such a key counts as not given.
  std::function<ForeignReading(const ConfigNode& value, const ConfigNode& section)> read{};
  bool reads_null = false;
};

using ReadForeign = decltype(ForeignWord::read);

/// A word that `read` says the meaning of.
[[nodiscard]] ForeignWord read_word(std::string key, std::string from, std::string meaning,
                                    ReadForeign read);

/// A word that is the key of ours at the dotted path `ours`, under another name.
[[nodiscard]] ForeignWord same_word(std::string key, std::string from, std::string ours);

/// A word that has no meaning here, whatever its value.
[[nodiscard]] ForeignWord left_out_word(std::string key, std::string from, std::string why);

/// A word whose value may be off (is_off), or one of `fine` or a list of such: it asks for what is
/// done anyway, as `why` says. Any other is refused with `otherwise`.
[[nodiscard]] ForeignWord only_word(std::string key, std::string from,
                                    std::vector<std::string> fine, std::string why,
                                    std::string otherwise);

/// A word that is refused with `otherwise` unless it is off.
[[nodiscard]] ForeignWord refused_word(std::string key, std::string from, std::string otherwise);

/// A value as YAML's booleans are read: true, yes, on; false, no, off. Nothing for others.
[[nodiscard]] std::optional<bool> as_boolean(const ConfigNode& value);
/// A plain number; nothing for others.
[[nodiscard]] std::optional<double> as_number(const ConfigNode& value);
/// Whether a value switches nothing on: false, 0, an empty text, list or section, null.
[[nodiscard]] bool is_off(const ConfigNode& value);

/// "load_in_4bit: true": a key with its value, shortened where that is long.
[[nodiscard]] std::string shown_entry(const std::string& key, const ConfigNode& value);

}  // namespace weft::schema
