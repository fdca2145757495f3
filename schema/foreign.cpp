#include "schema/foreign.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/utf8.h"
#include "schema/tree.h"
#include "schema/types.h"

namespace weft::schema {

ForeignReading ForeignReading::means(std::string path, ConfigNode value) {
  ForeignReading reading{.kind = Kind::kMeans, .keys = {}, .text = {}};
  reading.keys.emplace_back(std::move(path), std::move(value));
  return reading;
}

ForeignReading ForeignReading::left_out(std::string why) {
  return {.kind = Kind::kLeftOut, .keys = {}, .text = std::move(why)};
}

ForeignReading ForeignReading::refused(std::string what_to_do) {
  return {.kind = Kind::kRefused, .keys = {}, .text = std::move(what_to_do)};
}

ForeignWord read_word(std::string key, std::string from, std::string meaning, ReadForeign read) {
  return {.key = std::move(key),
          .from = std::move(from),
          .meaning = std::move(meaning),
          .read = std::move(read)};
}

ForeignWord same_word(std::string key, std::string from, std::string ours) {
  std::string meaning = fmt::format("`{}`", ours);
  return read_word(std::move(key), std::move(from), std::move(meaning),
                   [ours = std::move(ours)](const ConfigNode& value, const ConfigNode&) {
                     return ForeignReading::means(ours, value);
                   });
}

ForeignWord left_out_word(std::string key, std::string from, std::string why) {
  return {.key = std::move(key),
          .from = std::move(from),
          .meaning = "left out: " + why,
          .read = [why](const ConfigNode&, const ConfigNode&) {
            return ForeignReading::left_out(why);
          }};
}

ForeignWord only_word(std::string key, std::string from, std::vector<std::string> fine,
                      std::string why, std::string otherwise) {
  std::string meaning = fmt::format("left out: {}; another value is refused: {}", why, otherwise);
  const auto read = [fine = std::move(fine), why = std::move(why),
                     otherwise = std::move(otherwise)](const ConfigNode& value, const ConfigNode&) {
    const auto is_fine = [&](const ConfigNode& one) {
      return one.kind == ConfigNode::Kind::kScalar &&
             std::ranges::find(fine, one.text) != fine.end();
    };
    const bool good =
        is_off(value) || is_fine(value) ||
        (value.kind == ConfigNode::Kind::kList && std::ranges::all_of(value.items, is_fine));
    return good ? ForeignReading::left_out(why) : ForeignReading::refused(otherwise);
  };
  return {
      .key = std::move(key), .from = std::move(from), .meaning = std::move(meaning), .read = read};
}

ForeignWord refused_word(std::string key, std::string from, std::string otherwise) {
  std::string meaning = "refused unless it is off: " + otherwise;
  const auto read = [otherwise = std::move(otherwise)](const ConfigNode& value, const ConfigNode&) {
    return is_off(value) ? ForeignReading::left_out("it asks for nothing")
                         : ForeignReading::refused(otherwise);
  };
  return {
      .key = std::move(key), .from = std::move(from), .meaning = std::move(meaning), .read = read};
}

std::optional<bool> as_boolean(const ConfigNode& value) {
  if (value.kind != ConfigNode::Kind::kScalar || value.quoted) return std::nullopt;
  std::string lower = value.text;
  std::ranges::transform(lower, lower.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  if (lower == "true" || lower == "yes" || lower == "on") return true;
  if (lower == "false" || lower == "no" || lower == "off") return false;
  return std::nullopt;
}

std::optional<double> as_number(const ConfigNode& value) {
  if (value.kind != ConfigNode::Kind::kScalar || value.quoted) return std::nullopt;
  return parse_number(value.text);
}

bool is_off(const ConfigNode& value) {
  switch (value.kind) {
    case ConfigNode::Kind::kNull: return true;
    case ConfigNode::Kind::kList: return value.items.empty();
    case ConfigNode::Kind::kMap: return value.entries.empty();
    case ConfigNode::Kind::kScalar: break;
  }
  return value.text.empty() || as_boolean(value) == false || as_number(value) == 0.0;
}

std::string shown_entry(const std::string& key, const ConfigNode& value) {
  constexpr std::size_t kShown = 60;
  std::string text = value.kind == ConfigNode::Kind::kNull ? "" : emit_flow(value);
  if (text.size() > kShown) {
    text.resize(kShown);
    text.resize(core::well_formed_prefix(text));
    text += "...";
  }
  std::ranges::replace_if(
      text, [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
  return text.empty() ? key : fmt::format("{}: {}", key, text);
}

const ForeignWord* find_foreign(const SectionInfo& info, std::string_view key) {
  const auto found = std::ranges::find(info.foreign, key, &ForeignWord::key);
  return found == info.foreign.end() ? nullptr : &*found;
}

void tell_meaning(const ForeignReading& reading, const Place& place, const std::string& path,
                  const std::string& word, const Teller& teller) {
  std::string ours;
  for (const auto& [target, value] : reading.keys) {
    ours += fmt::format("{}{}", ours.empty() ? "" : "' and '",
                        shown_entry(join_path(path, target), value));
  }
  teller.renamed(place, join_path(path, word), ours);
}

Translation take_foreign(const SectionInfo& info, const std::string& path, ConfigNode& tree,
                         Problems& problems, const Teller& teller) {
  Translation taken;
  if (info.foreign.empty()) return taken;
  const ConfigNode written = tree;
  std::erase_if(tree.entries, [&](const ConfigEntry& entry) {
    const ForeignWord* word = find_foreign(info, entry.key);
    if (word == nullptr) return false;
    const bool is_null = entry.value.kind == ConfigNode::Kind::kNull;
    if (is_null && !word->reads_null) {
      teller.empty(entry.place, join_path(path, entry.key));
      return true;
    }
    ForeignReading reading = word->read(entry.value, written);
    const std::string shown = shown_entry(entry.key, entry.value);
    switch (reading.kind) {
      case ForeignReading::Kind::kOwn: return false;
      case ForeignReading::Kind::kLeftOut:
        teller.left_out(entry.place, join_path(path, shown), reading.text);
        return true;
      case ForeignReading::Kind::kRefused:
        problems.emplace_back(entry.place,
                              fmt::format("{}: {}", join_path(path, shown), reading.text));
        return true;
      case ForeignReading::Kind::kMeans: break;
    }
    tell_meaning(reading, entry.place, path, shown, teller);
    for (auto& [target, value] : reading.keys) {
      // The value was written where the word stands.
      if (value.place.line == 0 && value.place.override_text.empty()) {
        value.place = entry.value.place;
      }
      taken.push_back({shown, std::move(target), std::move(value), entry.place});
    }
    return true;
  });
  return taken;
}

}  // namespace weft::schema
