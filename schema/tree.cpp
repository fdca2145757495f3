#include "schema/tree.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <map>

#include "core/suggest.h"
#include "core/utf8.h"

namespace weft::schema {
namespace {

constexpr std::size_t kLongestWord = 64;  // Longer keys get no suggestion: it would take long.

std::deque<std::string> split(std::string_view path) {
  std::deque<std::string> parts;
  std::size_t begin = 0;
  for (std::size_t dot = path.find('.'); dot != std::string_view::npos;
       dot = path.find('.', begin)) {
    parts.emplace_back(path.substr(begin, dot - begin));
    begin = dot + 1;
  }
  parts.emplace_back(path.substr(begin));
  return parts;
}

/// The canonical path of `key` in this section: its own name for a field, the target of an alias,
/// nothing for an unknown key.
std::optional<std::string> canonical(const SectionInfo& info, std::string_view key) {
  for (const FieldInfo& field : info.fields) {
    if (field.name == key) return field.name;
  }
  for (const FieldInfo& field : info.fields) {
    if (std::find(field.aliases.begin(), field.aliases.end(), key) != field.aliases.end()) {
      return field.name;
    }
  }
  for (const auto& [alias, target] : info.aliases) {
    if (alias == key) return target;
  }
  return std::nullopt;
}

/// Dotted path of a key called `name` in the sections below `info`.
std::optional<std::string> find_below(const SectionInfo& info, std::string_view name) {
  for (const FieldInfo& field : info.fields) {
    if (field.name == name) return field.name;
  }
  for (const FieldInfo& field : info.fields) {
    if (field.shape != FieldInfo::Shape::kSection) continue;
    if (const auto inner = find_below(*field.section, name)) return join_path(field.name, *inner);
  }
  return std::nullopt;
}

/// The place for `target` (dotted) below `node`, with the sections on the way made; null when
/// something there is no section.
ConfigNode* make_parent(ConfigNode& node, const std::deque<std::string>& target) {
  ConfigNode* at = &node;
  for (std::size_t i = 0; i + 1 < target.size(); ++i) {
    ConfigNode* below = at->find(target[i]);
    if (below == nullptr) {
      ConfigNode section = ConfigNode::map();
      section.place = at->place;
      below = &at->add(target[i], std::move(section), at->place);
    }
    if (below->kind == ConfigNode::Kind::kNull) below->kind = ConfigNode::Kind::kMap;
    if (below->kind != ConfigNode::Kind::kMap) return nullptr;
    at = below;
  }
  return at;
}

/// Where a dotted path with `*` for every item of a list ends: the sections there, and the key.
std::vector<std::pair<ConfigNode*, std::string>> places_of(ConfigNode& node,
                                                           const std::string& target) {
  const std::deque<std::string> parts = split(target);
  const auto star = std::ranges::find(parts, "*");
  if (star == parts.end()) {
    ConfigNode* parent = make_parent(node, parts);
    if (parent == nullptr) return {};
    return {{parent, parts.back()}};
  }
  std::vector<std::pair<ConfigNode*, std::string>> places;
  ConfigNode* at = &node;
  for (auto part = parts.begin(); part != star && at != nullptr; ++part) at = at->find(*part);
  if (at == nullptr) return {};
  std::string rest;
  for (auto part = star + 1; part != parts.end(); ++part) rest += (rest.empty() ? "" : ".") + *part;
  for (ConfigNode& item : at->items) {
    if (item.kind != ConfigNode::Kind::kMap) continue;
    for (auto& place : places_of(item, rest)) places.push_back(std::move(place));
  }
  return places;
}

void mark_override(ConfigNode& node, const std::string& text) {
  node.place.override_text = text;
  for (ConfigNode& item : node.items) mark_override(item, text);
  for (ConfigEntry& entry : node.entries) {
    entry.place.override_text = text;
    mark_override(entry.value, text);
  }
}

const TypeInfo* element_of(const TypeInfo* type) {
  return type != nullptr && type->element ? type->element.get() : type;
}

/// The value of a --set. Where text is wanted it is taken as it stands, braces and colons included;
/// elsewhere lists, sections and quotes are read as YAML.
ConfigNode override_value(const std::string& value, const TypeInfo* type, Problems& problems) {
  const bool text_wanted = type != nullptr && (type->kind == TypeInfo::Kind::kString ||
                                               type->kind == TypeInfo::Kind::kPath);
  const bool quoted = !value.empty() && (value.front() == '"' || value.front() == '\'');
  const bool flow = !value.empty() && (value.front() == '[' || value.front() == '{');
  if (quoted || (flow && !text_wanted)) {
    // A key in front makes any value, a quoted text too, a document of its own.
    Problems inner;
    ConfigNode document = parse_yaml("value: " + value, inner);
    ConfigNode* node = document.find("value");
    if (inner.empty() && node != nullptr && document.entries.size() == 1) return std::move(*node);
    if (!text_wanted) {
      problems.emplace_back(Place{}, inner.empty() ? "not one YAML value" : inner.front().second);
    }
  }
  if (text_wanted && !(type->optional && (value == "null" || value == "~"))) {
    return ConfigNode::string(value);
  }
  if (value.empty() || value == "null" || value == "~") return ConfigNode{};
  return ConfigNode::scalar(value);
}

/// Walks one --set down the schema and the tree.
class Override {
 public:
  Override(const SectionInfo& root, const std::string& text, Problems& problems,
           const Teller& teller)
      : root_(root), text_(text), problems_(problems), teller_(teller) {}

  void apply(ConfigNode& tree) {
    const std::size_t equals = text_.find('=');
    if (equals == std::string::npos || equals == 0) {
      problem("expected path=value, as in learning_rate=1e-4");
      return;
    }
    written_ = text_.substr(0, equals);
    value_ = text_.substr(equals + 1);
    in_section(root_, split(written_), "", tree);
  }

 private:
  void problem(std::string text) { problems_.emplace_back(Place{0, 0, text_}, std::move(text)); }

  ConfigNode& child(ConfigNode& node, const std::string& key) {
    if (node.kind != ConfigNode::Kind::kMap) {
      const Place place = node.place;
      node = ConfigNode::map();
      node.place = place;
    }
    if (ConfigNode* found = node.find(key)) return *found;
    ConfigNode nothing;
    nothing.place = Place{0, 0, text_};
    return node.add(key, std::move(nothing), Place{0, 0, text_});
  }

  void in_section(const SectionInfo& info, std::deque<std::string> rest, const std::string& path,
                  ConfigNode& node) {
    if (foreign(info, rest, path, node)) return;
    const std::optional<std::string> target = canonical(info, rest.front());
    if (!target) {
      problem(fmt::format("{}: unknown key{}", join_path(path, rest.front()),
                          suggestion(root_, info, rest.front())));
      return;
    }
    std::deque<std::string> parts = split(*target);
    if (*target != rest.front()) teller_.renamed(Place{0, 0, text_}, rest.front(), *target);
    rest.pop_front();
    rest.insert(rest.begin(), parts.begin(), parts.end());
    const FieldInfo* field = find_field(info, rest.front());
    if (field == nullptr) return;  // A dotted alias names fields that exist.
    const std::string below = join_path(path, rest.front());
    ConfigNode& value = child(node, rest.front());
    rest.pop_front();
    if (rest.empty()) {
      set(value, field->shape == FieldInfo::Shape::kValue ? &field->type : nullptr);
    } else if (field->shape == FieldInfo::Shape::kSection) {
      in_section(*field->section, std::move(rest), below, value);
    } else if (field->shape == FieldInfo::Shape::kSectionList) {
      in_list(*field, std::move(rest), below, value);
    } else {
      in_value(*field, std::move(rest), below, value);
    }
  }

  /// Whether the key is a word of another program, which is done with then.
  bool foreign(const SectionInfo& info, const std::deque<std::string>& rest,
               const std::string& path, ConfigNode& node) {
    const ForeignWord* word = find_foreign(info, rest.front());
    // What is below a key of ours is no word of others.
    if (word == nullptr || (rest.size() > 1 && canonical(info, rest.front()))) return false;
    Problems found;
    ConfigNode value = override_value(value_, nullptr, found);
    if (!found.empty()) return false;
    for (std::size_t i = rest.size(); i-- > 1;) {
      ConfigNode around = ConfigNode::map();
      around.add(rest[i], std::move(value));
      value = std::move(around);
    }
    mark_override(value, text_);
    const Place place{0, 0, text_};
    if (value.kind == ConfigNode::Kind::kNull && !word->reads_null) {
      if (canonical(info, rest.front())) return false;
      teller_.empty(place, join_path(path, rest.front()));
      return true;
    }
    ForeignReading reading = word->read(value, node);
    const std::string shown = shown_entry(rest.front(), value);
    switch (reading.kind) {
      case ForeignReading::Kind::kOwn: return false;
      case ForeignReading::Kind::kLeftOut:
        teller_.left_out(place, join_path(path, shown), reading.text);
        return true;
      case ForeignReading::Kind::kRefused:
        problem(fmt::format("{}: {}", join_path(path, shown), reading.text));
        return true;
      case ForeignReading::Kind::kMeans: break;
    }
    tell_meaning(reading, place, path, shown, teller_);
    for (auto& [target, meant] : reading.keys) {
      mark_override(meant, text_);
      for (const auto& [parent, key] : places_of(node, target)) {
        if (ConfigNode* there = parent->find(key))
          *there = meant;
        else
          parent->add(key, meant, place);
      }
    }
    return true;
  }

  /// The item that `index` names; the one after the last is made.
  ConfigNode* item(const std::string& index, const std::string& path, ConfigNode& node) {
    if (node.kind != ConfigNode::Kind::kList) {
      const Place place = node.place;
      node = ConfigNode::list({});
      node.place = place;
    }
    const auto number = parse_integer(index);
    if (!number || *number < 0 || static_cast<std::size_t>(*number) > node.items.size()) {
      problem(fmt::format("{}: expected the index of an item, 0 to {}, found '{}'", path,
                          node.items.size(), index));
      return nullptr;
    }
    const auto position = static_cast<std::size_t>(*number);
    if (position == node.items.size()) {
      node.items.emplace_back();
      node.items.back().place = Place{0, 0, text_};
    }
    return &node.items[position];
  }

  void in_list(const FieldInfo& field, std::deque<std::string> rest, const std::string& path,
               ConfigNode& node) {
    ConfigNode* found = item(rest.front(), path, node);
    if (found == nullptr) return;
    const std::string below = join_path(path, rest.front());
    rest.pop_front();
    if (rest.empty())
      set(*found, nullptr);
    else
      in_section(*field.section, std::move(rest), below, *found);
  }

  void in_value(const FieldInfo& field, std::deque<std::string> rest, const std::string& path,
                ConfigNode& node) {
    const TypeInfo* element = element_of(&field.type);
    if (field.type.kind == TypeInfo::Kind::kMap) {
      // Keys of a map are free and may hold dots.
      std::string key = rest.front();
      for (std::size_t i = 1; i < rest.size(); ++i) key += "." + rest[i];
      set(child(node, key), element);
    } else if (field.type.kind == TypeInfo::Kind::kList && rest.size() == 1) {
      if (node.kind == ConfigNode::Kind::kScalar) node = ConfigNode::list({node});
      if (ConfigNode* found = item(rest.front(), path, node)) set(*found, element);
    } else {
      problem(fmt::format("{}: this key holds a {}; nothing is below it", path, field.type.name()));
    }
  }

  void set(ConfigNode& node, const TypeInfo* type) {
    // A list of texts takes one text as it stands, but "[a, b]" as a list.
    const bool list = type != nullptr && type->kind == TypeInfo::Kind::kList;
    const bool flow = !value_.empty() && (value_.front() == '[' || value_.front() == '{');
    Problems found;
    node = override_value(value_, list && !flow ? type->element.get() : type, found);
    for (const auto& [place, text] : found) problem(fmt::format("{}: {}", written_, text));
    mark_override(node, text_);
  }

  const SectionInfo& root_;
  const std::string& text_;
  std::string written_;
  std::string value_;
  Problems& problems_;
  const Teller& teller_;
};

/// Puts what words of other programs mean into the canonical tree. What is there already was
/// written in words of ours; two words may mean the same.
void put_meanings(const std::string& path, ConfigNode& tree, const Translation& meanings,
                  Problems& problems) {
  std::map<std::string, const Meaning*> done;  // by path
  for (const Meaning& meaning : meanings) {
    const std::string full = join_path(path, meaning.target);
    const auto known = done.find(full);
    if (known != done.end()) {
      if (emit_flow(known->second->value) == emit_flow(meaning.value)) continue;
      problems.emplace_back(
          meaning.place, fmt::format("'{}' means '{}', and '{}' means '{}'; keep one", meaning.word,
                                     shown_entry(full, meaning.value), known->second->word,
                                     shown_entry(full, known->second->value)));
      continue;
    }
    for (const auto& [parent, key] : places_of(tree, meaning.target)) {
      if (parent->find(key) != nullptr) {
        problems.emplace_back(
            meaning.place,
            fmt::format("'{}' means '{}', and {} is given too; keep one",
                        join_path(path, meaning.word), shown_entry(full, meaning.value), full));
        continue;
      }
      parent->add(key, meaning.value, meaning.place);
    }
    done.emplace(full, &meaning);
  }
}

}  // namespace

std::string join_path(std::string_view path, std::string_view key) {
  if (path.empty() || key.empty()) return std::string(path) + std::string(key);
  return fmt::format("{}.{}", path, key);
}

const FieldInfo* find_field(const SectionInfo& info, std::string_view name) {
  for (const FieldInfo& field : info.fields) {
    if (field.name == name) return &field;
  }
  return nullptr;
}

std::string suggestion(const SectionInfo& root, const SectionInfo& info, std::string_view key) {
  if (key.size() > kLongestWord) return "";
  std::vector<std::string> names;
  for (const FieldInfo& field : info.fields) {
    names.push_back(field.name);
    names.insert(names.end(), field.aliases.begin(), field.aliases.end());
  }
  for (const auto& [alias, target] : info.aliases) names.push_back(alias);
  std::string near = core::nearest(key, names);
  // A known alias is as good as the key, but people should learn the key.
  if (const auto real = near.empty() ? std::nullopt : canonical(info, near)) near = *real;
  if (near.empty() || core::edit_distance(near, key) > 2) {
    if (const auto elsewhere = find_below(root, key)) near = *elsewhere;
  }
  return near.empty() ? "" : fmt::format("; did you mean '{}'?", near);
}

void canonicalise(const SectionInfo& info, const std::string& path, ConfigNode& tree,
                  Problems& problems, const Teller& teller) {
  Translation meanings = take_foreign(info, path, tree, problems, teller);
  std::vector<ConfigEntry> written = std::move(tree.entries);
  tree.entries.clear();
  std::vector<std::pair<ConfigEntry, std::string>> moved;
  for (ConfigEntry& entry : written) {
    const std::optional<std::string> target = canonical(info, entry.key);
    if (target && *target != entry.key)
      moved.emplace_back(std::move(entry), *target);
    else
      tree.entries.push_back(std::move(entry));
  }
  // Aliases go in after the canonical keys, so that a clash is seen whatever the order. Names below
  // (adapter.rank) become canonical first, for the same reason.
  const auto below = [&](const FieldInfo& field, ConfigNode& value, const std::string& where) {
    if (value.kind == ConfigNode::Kind::kMap) {
      canonicalise(*field.section, where, value, problems, teller);
    }
    for (std::size_t i = 0; i < value.items.size(); ++i) {
      if (value.items[i].kind != ConfigNode::Kind::kMap) continue;
      canonicalise(*field.section, join_path(where, std::to_string(i)), value.items[i], problems,
                   teller);
    }
  };
  for (ConfigEntry& entry : tree.entries) {
    const FieldInfo* field = find_field(info, entry.key);
    if (field != nullptr && field->section) below(*field, entry.value, join_path(path, entry.key));
  }
  for (auto& [entry, target] : moved) {
    const std::string full = join_path(path, target);
    const std::deque<std::string> parts = split(target);
    ConfigNode* parent = make_parent(tree, parts);
    if (parent == nullptr) {
      problems.emplace_back(entry.place, fmt::format("{}: stands for {}, which is below something "
                                                     "that is no section",
                                                     entry.key, full));
      continue;
    }
    if (parent->find(parts.back()) != nullptr) {
      problems.emplace_back(entry.place,
                            fmt::format("{}: means the same as '{}', which is given too; keep one",
                                        join_path(path, entry.key), full));
      continue;
    }
    teller.renamed(entry.place, join_path(path, entry.key), full);
    const FieldInfo* field = parts.size() == 1 ? find_field(info, target) : nullptr;
    if (field != nullptr && field->section) below(*field, entry.value, full);
    parent->add(parts.back(), std::move(entry.value), entry.place);
  }
  for (Meaning& meaning : meanings) {
    const FieldInfo* field = find_field(info, meaning.target);
    if (field != nullptr && field->section) {
      below(*field, meaning.value, join_path(path, meaning.target));
    }
  }
  put_meanings(path, tree, meanings, problems);
}

void apply_override(const SectionInfo& info, const std::string& text, ConfigNode& tree,
                    Problems& problems, const Teller& teller) {
  const std::size_t before = problems.size();
  if (!core::is_utf8(text)) {
    problems.emplace_back(Place{0, 0, text.substr(0, core::well_formed_prefix(text)) + "..."},
                          "the override is not UTF-8 text");
    return;
  }
  ConfigNode changed = tree;
  Override(info, text, problems, teller).apply(changed);
  // A --set that cannot be applied leaves nothing half-made behind to complain about.
  if (problems.size() == before) tree = std::move(changed);
}

Place place_below(const ConfigNode& node, std::string_view key) {
  const ConfigNode* at = &node;
  Place place = node.place;
  for (const std::string& part : split(key)) {
    const ConfigNode* next = nullptr;
    if (at->kind == ConfigNode::Kind::kList) {
      const auto index = parse_integer(part);
      if (index && *index >= 0 && static_cast<std::size_t>(*index) < at->items.size()) {
        next = &at->items[static_cast<std::size_t>(*index)];
        place = next->place;
      }
    }
    for (const ConfigEntry& entry : at->entries) {
      if (entry.key != part) continue;
      next = &entry.value;
      place = next->place.override_text.empty() ? entry.place : next->place;
    }
    if (next == nullptr) break;
    at = next;
  }
  return place;
}

}  // namespace weft::schema
