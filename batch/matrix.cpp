#include "batch/matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <set>

#include "batch/order.h"
#include "core/suggest.h"
#include "core/utf8.h"
#include "schema/types.h"

namespace weft::batch {
namespace {

using schema::ConfigEntry;
using schema::ConfigNode;
using schema::Place;
using Kind = ConfigNode::Kind;

/// One of the values of an axis.
struct Choice {
  std::string label;
  std::string value;  ///< As exclude: may write it; empty for a section.
  ConfigNode settings;
  ConfigNode steps;  ///< Null: those of the file.
};

struct Axis {
  std::string key;
  std::vector<Choice> choices;
};

/// A combination in the making: axis key -> the choice.
using Chosen = std::vector<std::pair<const Axis*, const Choice*>>;

ConfigNode section_of(const std::string& key, const Place& place, const ConfigNode& value) {
  ConfigNode section = ConfigNode::map();
  section.place = place;
  section.add(key, value, place);
  return undotted(section);
}

/// Characters that a folder's name may have without trouble in shells and file systems.
std::string as_name(std::string_view text) {
  std::string name;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool is_kept =
        byte >= 0x80 || std::isalnum(byte) != 0 || c == '.' || c == '-' || c == '_' || c == '+';
    name += is_kept ? c : '_';
  }
  const std::size_t first = name.find_first_not_of('.');
  return first == std::string::npos ? "_" : name.substr(first);
}

/// "r8", "learning_rate_2e-4", "smollm2": short, and clear beside the others.
std::string label_of(const std::string& key, const ConfigNode& value) {
  if (value.kind == Kind::kList) {
    std::string all;
    for (const ConfigNode& item : value.items) {
      if (!all.empty()) all += '+';
      all += as_name(item.text);
    }
    return all;
  }
  const std::string last = key.substr(key.rfind('.') + 1);
  const bool is_bare = schema::parse_number(value.text) || value.text == "true" ||
                       value.text == "false" || value.kind == Kind::kNull;
  if (!is_bare) return as_name(std::filesystem::path(value.text).filename().string());
  const std::string text = value.kind == Kind::kNull ? "null" : value.text;
  return as_name(last.size() <= 2 ? last + text : last + "_" + text);
}

bool is_key(const schema::SectionInfo& info, const std::string& dotted) {
  const std::string first = dotted.substr(0, dotted.find('.'));
  const auto is_named = [&](const schema::FieldInfo& field) {
    return field.name == first || std::ranges::find(field.aliases, first) != field.aliases.end();
  };
  return std::ranges::any_of(info.fields, is_named) ||
         std::ranges::any_of(info.aliases, [&](const auto& a) { return a.first == first; }) ||
         std::ranges::any_of(info.foreign, [&](const auto& word) { return word.key == first; });
}

class Describer {
 public:
  Describer(const JobsFile& file, const schema::SectionInfo& train, Problems& problems)
      : file_(file), train_(train), problems_(problems) {}

  std::vector<Described> all() {
    for (const ConfigEntry& entry : map_entries(file_.matrix, "matrix")) add_axis(entry);
    add_pairs();
    if (!axes_.empty()) combine({}, 0);
    for (const ConfigNode& item : exclusions_) {
      if (!used_.contains(&item)) {
        problems_.add(item.place, "exclude: no combination of the matrix is like this");
      }
    }
    for (const ConfigNode& item : list_items(file_.jobs, "jobs")) add_single(item);
    check_names(jobs_, problems_);
    check_order(jobs_, problems_);
    return std::move(jobs_);
  }

 private:
  const std::vector<ConfigEntry>& map_entries(const ConfigNode& node, std::string_view what) {
    static const std::vector<ConfigEntry> kNone;
    if (node.kind == Kind::kMap || node.kind == Kind::kNull) return node.entries;
    problems_.add(node.place, fmt::format("{}: expected a section, found {}", what, node.what()));
    return kNone;
  }

  const std::vector<ConfigNode>& list_items(const ConfigNode& node, std::string_view what) {
    static const std::vector<ConfigNode> kNone;
    bool good = node.kind == Kind::kList || node.kind == Kind::kNull;
    for (const ConfigNode& item : node.items) good = good && item.kind == Kind::kMap;
    if (good) return node.items;
    problems_.add(node.place,
                  fmt::format("{}: expected a list of sections (each begins with '- ')", what));
    return kNone;
  }

  void add_axis(const ConfigEntry& entry) {
    Axis axis{entry.key, {}};
    const std::string path = "matrix." + entry.key;
    if (entry.value.kind == Kind::kList && !is_key(train_, entry.key)) {
      refuse_unknown(entry);
      return;
    }
    if (entry.value.kind == Kind::kList && !entry.value.items.empty()) {
      for (const ConfigNode& value : entry.value.items) {
        if (value.kind == Kind::kMap) {
          problems_.add(value.place,
                        fmt::format("{}: a section needs a label by which its jobs are called; "
                                    "write {}: {{label: {{key: value}}}}",
                                    path, entry.key));
          return;
        }
        axis.choices.push_back({label_of(entry.key, value),
                                value_text(value),
                                section_of(entry.key, entry.place, value),
                                {}});
      }
    } else if (entry.value.kind == Kind::kMap && !entry.value.entries.empty()) {
      for (const ConfigEntry& one : entry.value.entries) add_labelled(axis, entry, one);
    } else {
      problems_.add(entry.place,
                    fmt::format("{}: expected a list of values, or labels with what each "
                                "means, found {}",
                                path, entry.value.what()));
      return;
    }
    axes_.push_back(std::move(axis));
  }

  void refuse_unknown(const ConfigEntry& entry) {
    std::vector<std::string> keys;
    for (const schema::FieldInfo& field : train_.fields) keys.push_back(field.name);
    const std::string meant = core::nearest(entry.key, keys);
    problems_.add(
        entry.place,
        meant.empty()
            ? fmt::format(
                  "matrix.{0}: no configuration of weft train has this key; write what each "
                  "value means: {0}: {{label: {{key: value}}}}",
                  entry.key)
            : fmt::format("matrix.{}: unknown key; did you mean '{}'?", entry.key, meant));
  }

  void add_labelled(Axis& axis, const ConfigEntry& entry, const ConfigEntry& one) {
    Choice choice{as_name(one.key), one.key, {}, {}};
    if (is_key(train_, entry.key)) {
      choice.settings = section_of(entry.key, entry.place, one.value);
    } else if (one.value.kind == Kind::kMap) {
      choice.settings = undotted(one.value);
      if (const ConfigNode* steps = choice.settings.find("steps")) choice.steps = *steps;
      std::erase_if(choice.settings.entries, [](const ConfigEntry& e) { return e.key == "steps"; });
    } else {
      problems_.add(entry.place,
                    fmt::format("matrix.{0}: no configuration of weft train has this key, so that "
                                "each of its labels needs a section of keys ({1}: {{key: value}}), "
                                "found {2}",
                                entry.key, one.key, one.value.what()));
      return;
    }
    axis.choices.push_back(std::move(choice));
  }

  void add_pairs() {
    Axis axis{"pairs", {}};
    for (ConfigNode item : list_items(file_.pairs, "pairs")) {
      Choice choice;
      for (const ConfigEntry& entry : item.entries) {
        if (entry.key == "name") {
          choice.label = as_name(entry.value.text);
          break;
        }
        if (!choice.label.empty()) choice.label += '-';
        choice.label += label_of(entry.key, entry.value);
      }
      std::erase_if(item.entries, [](const ConfigEntry& e) { return e.key == "name"; });
      choice.value = choice.label;
      choice.settings = undotted(item);
      pair_values_[choice.label] = item;
      axis.choices.push_back(std::move(choice));
    }
    if (!axis.choices.empty()) axes_.push_back(std::move(axis));
    for (const ConfigNode& item : list_items(file_.exclude, "exclude")) {
      check_exclusion(item);
      exclusions_.push_back(item);
    }
  }

  void check_exclusion(const ConfigNode& item) {
    std::vector<std::string> known;
    for (const Axis& axis : axes_) known.push_back(axis.key);
    for (const auto& [label, pair] : pair_values_) {
      for (const ConfigEntry& entry : pair.entries) known.push_back(entry.key);
    }
    for (const ConfigEntry& entry : item.entries) {
      if (std::ranges::find(known, entry.key) != known.end()) continue;
      const std::string meant = core::nearest(entry.key, known);
      problems_.add(entry.place,
                    fmt::format("exclude: '{}' is no key of matrix or pairs{}", entry.key,
                                meant.empty() ? "" : fmt::format("; did you mean '{}'?", meant)));
    }
  }

  static std::string value_text(const ConfigNode& value) { return schema::emit_flow(value); }

  bool is_excluded(const Chosen& chosen) {
    bool excluded = false;
    for (const ConfigNode& item : exclusions_) {
      if (!std::ranges::all_of(item.entries,
                               [&](const ConfigEntry& entry) { return fits(chosen, entry); }))
        continue;
      used_.insert(&item);
      excluded = true;
    }
    return excluded;
  }

  bool fits(const Chosen& chosen, const ConfigEntry& wanted) const {
    for (const auto& [axis, choice] : chosen) {
      if (axis->key == wanted.key) {
        return choice->label == wanted.value.text || choice->value == value_text(wanted.value);
      }
      if (axis->key != "pairs") continue;
      const ConfigNode* value = pair_values_.at(choice->label).find(wanted.key);
      if (value != nullptr) return value_text(*value) == value_text(wanted.value);
    }
    return false;
  }

  void combine(const Chosen& chosen, std::size_t depth) {
    if (depth < axes_.size()) {
      for (const Choice& choice : axes_[depth].choices) {
        Chosen more = chosen;
        more.emplace_back(&axes_[depth], &choice);
        combine(more, depth + 1);
      }
      return;
    }
    if (is_excluded(chosen)) return;
    Described job;
    std::string every;
    for (const auto& [axis, choice] : chosen) {
      job.labels.emplace_back(axis->key, choice->label);
      job.settings.push_back(choice->settings);
      if (choice->steps.kind != Kind::kNull) job.steps = choice->steps;
      every += (every.empty() ? "" : "-") + choice->label;
      if (axis->choices.size() < 2) continue;
      job.name += (job.name.empty() ? "" : "-") + choice->label;
    }
    if (job.name.empty()) job.name = every;
    job.place = file_.matrix.kind == Kind::kMap ? file_.matrix.place : file_.pairs.place;
    jobs_.push_back(std::move(job));
  }

  void add_single(const ConfigNode& item) {
    const ConfigNode* name = item.find("name");
    if (name == nullptr || name->kind != Kind::kScalar || name->text.empty()) {
      problems_.add(item.place, "jobs: required key is missing: name (what the job is called)");
      return;
    }
    Described job;
    job.name = name->text;
    job.place = name->place;
    if (as_name(job.name) != job.name || job.name.size() > 200) {
      problems_.add(name->place,
                    fmt::format("jobs: '{}' is to be the name of a folder: letters, digits, '.', "
                                "'_', '-' and '+', no dot at its start",
                                job.name));
      return;
    }
    job.labels = {{"job", job.name}};
    if (const ConfigNode* after = item.find("after")) {
      if (after->kind == Kind::kScalar) job.after.emplace_back(after->text, after->place);
      for (const ConfigNode& one : after->items) job.after.emplace_back(one.text, one.place);
    }
    if (const ConfigNode* steps = item.find("steps")) job.steps = *steps;
    ConfigNode settings = item;
    std::erase_if(settings.entries, [](const ConfigEntry& entry) {
      return entry.key == "name" || entry.key == "after" || entry.key == "steps";
    });
    job.settings.push_back(undotted(settings));
    jobs_.push_back(std::move(job));
  }

  const JobsFile& file_;
  const schema::SectionInfo& train_;
  Problems& problems_;
  std::vector<Axis> axes_;
  std::map<std::string, ConfigNode> pair_values_;  ///< By label.
  std::vector<ConfigNode> exclusions_;
  std::set<const ConfigNode*> used_;
  std::vector<Described> jobs_;
};

}  // namespace

ConfigNode undotted(const ConfigNode& section) {
  ConfigNode whole = ConfigNode::map();
  whole.place = section.place;
  for (const ConfigEntry& entry : section.entries) {
    ConfigNode* at = &whole;
    std::string rest = entry.key;
    for (std::size_t dot = rest.find('.'); dot != std::string::npos; dot = rest.find('.')) {
      const std::string first = rest.substr(0, dot);
      ConfigNode* below = at->find(first);
      if (below == nullptr || below->kind != Kind::kMap) {
        ConfigNode empty = ConfigNode::map();
        empty.place = entry.place;
        below = &at->add(first, empty, entry.place);
      }
      at = below;
      rest = rest.substr(dot + 1);
    }
    at->add(rest, entry.value, entry.place);
  }
  return whole;
}

std::vector<Described> describe_jobs(const JobsFile& file, const schema::SectionInfo& train,
                                     Problems& problems) {
  return Describer(file, train, problems).all();
}

}  // namespace weft::batch
