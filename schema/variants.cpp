#include <fmt/format.h>

#include <algorithm>

#include "schema/tree.h"

namespace weft::schema {
namespace {

class Splitter {
 public:
  Splitter(const SectionInfo& info, Problems& problems, const Teller& teller)
      : info_(info), key_(info.variants->key), problems_(problems), teller_(teller) {}

  /// The items of the list, named, with canonical keys.
  void take(const ConfigNode& list, const Place& key_place) {
    if (list.kind != ConfigNode::Kind::kList || list.items.empty()) {
      problems_.emplace_back(key_place,
                             fmt::format("{}: expected a list of sections (each begins with "
                                         "'- name:'), found {}",
                                         key_, list.items.empty() ? "nothing" : list.what()));
      return;
    }
    for (const ConfigNode& item : list.items) take_item(item);
  }

  /// Whether the override is for one of the items; it is applied then.
  bool apply(const std::string& text) {
    const std::string prefix = key_ + ".";
    if (!text.starts_with(prefix)) return false;
    const std::size_t equals = std::min(text.find('='), text.size());
    for (std::size_t i = 0; i < items_.size(); ++i) {
      for (const std::string& word : {items_[i].name, std::to_string(i)}) {
        const std::string start = prefix + word + ".";
        if (start.size() >= equals || !text.starts_with(start)) continue;
        apply_override(info_, text.substr(start.size()), items_[i].tree, problems_, teller_);
        return true;
      }
    }
    std::string names;
    for (const VariantTree& item : items_) names += (names.empty() ? "" : ", ") + item.name;
    problems_.emplace_back(
        Place{0, 0, text},
        fmt::format("{}: expected a name or an index there, and a key of it: {}.0.seed=1 (there "
                    "are: {})",
                    key_, key_, names));
    return true;
  }

  std::vector<VariantTree> finish(const ConfigNode& common) {
    std::vector<VariantTree> result;
    for (const VariantTree& item : items_) {
      check_shared(item);
      VariantTree whole{item.name, common};
      whole.tree.place = item.tree.place;
      lay_over(info_, whole.tree, item.tree);
      result.push_back(std::move(whole));
    }
    return result;
  }

 private:
  void take_item(ConfigNode item) {
    const std::string path = join_path(key_, std::to_string(items_.size()));
    if (item.kind != ConfigNode::Kind::kMap) {
      problems_.emplace_back(item.place, fmt::format("{}: expected a section (keys with values), "
                                                     "found {}",
                                                     path, item.what()));
      return;
    }
    const ConfigNode* name = item.find("name");
    const bool named =
        name != nullptr && name->kind == ConfigNode::Kind::kScalar && !name->text.empty();
    if (!named) {
      problems_.emplace_back(item.place, fmt::format("{}.name: required key is missing (what this "
                                                     "one is called)",
                                                     path));
      return;
    }
    const bool twice = std::any_of(items_.begin(), items_.end(),
                                   [&](const VariantTree& one) { return one.name == name->text; });
    if (twice) {
      problems_.emplace_back(
          name->place, fmt::format("{}.name: '{}' is the name of another one", path, name->text));
      return;
    }
    VariantTree taken{name->text, std::move(item)};
    std::erase_if(taken.tree.entries, [](const ConfigEntry& entry) { return entry.key == "name"; });
    canonicalise(info_, path, taken.tree, problems_, teller_);
    items_.push_back(std::move(taken));
  }

  void check_shared(const VariantTree& item) {
    for (const ConfigEntry& entry : item.tree.entries) {
      const std::vector<std::string>& shared = info_.variants->shared;
      if (std::find(shared.begin(), shared.end(), entry.key) == shared.end()) continue;
      const Place& place =
          entry.value.place.override_text.empty() ? entry.place : entry.value.place;
      problems_.emplace_back(place, fmt::format("{}: {}: one for all {}; write it outside of the "
                                                "list",
                                                item.name, entry.key, key_));
    }
  }

  const SectionInfo& info_;
  const std::string& key_;
  Problems& problems_;
  const Teller& teller_;
  std::vector<VariantTree> items_;
};

}  // namespace

void lay_over(const SectionInfo& info, ConfigNode& into, const ConfigNode& from) {
  for (const ConfigEntry& entry : from.entries) {
    ConfigEntry* there = nullptr;
    for (ConfigEntry& one : into.entries) {
      if (one.key == entry.key) there = &one;
    }
    if (there == nullptr) {
      into.entries.push_back(entry);
      continue;
    }
    const FieldInfo* field = find_field(info, entry.key);
    const bool sections = field != nullptr && field->shape == FieldInfo::Shape::kSection &&
                          there->value.kind == ConfigNode::Kind::kMap &&
                          entry.value.kind == ConfigNode::Kind::kMap;
    if (sections)
      lay_over(*field->section, there->value, entry.value);
    else
      *there = entry;
  }
}

std::vector<VariantTree> split_variants(const SectionInfo& info, ConfigNode tree,
                                        const std::vector<std::string>& overrides,
                                        Problems& problems, const Teller& teller) {
  const auto list = std::find_if(
      tree.entries.begin(), tree.entries.end(),
      [&](const ConfigEntry& entry) { return info.variants && entry.key == info.variants->key; });
  if (list == tree.entries.end()) {
    canonicalise(info, "", tree, problems, teller);
    for (const std::string& text : overrides) apply_override(info, text, tree, problems, teller);
    return {VariantTree{"", std::move(tree)}};
  }
  const ConfigEntry taken = std::move(*list);
  tree.entries.erase(list);
  Splitter splitter(info, problems, teller);
  splitter.take(taken.value, taken.place);
  canonicalise(info, "", tree, problems, teller);
  for (const std::string& text : overrides) {
    if (!splitter.apply(text)) apply_override(info, text, tree, problems, teller);
  }
  return splitter.finish(tree);
}

}  // namespace weft::schema
