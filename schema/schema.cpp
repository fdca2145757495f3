#include "schema/schema.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "core/suggest.h"
#include "core/utf8.h"
#include "schema/tree.h"

namespace weft::schema {
namespace {

constexpr std::size_t kMaxListed = 50;

/// Walks the canonical tree and fills the object.
class Reader {
 public:
  Reader(const SectionInfo& root, const ConfigSource& source, Problems& problems, Origins* origins)
      : root_(root), source_(source), problems_(problems), origins_(origins) {}

  void read_section(const SectionInfo& info, const ConfigNode& node, const std::string& path,
                    void* object) {
    const std::size_t problems_before = problems_.size();
    for (const ConfigEntry& entry : node.entries) {
      const FieldInfo* field = find_field(info, entry.key);
      const std::string below = join_path(path, entry.key);
      if (field == nullptr) {
        problems_.emplace_back(entry.place,
                               below + ": unknown key" + suggestion(root_, info, entry.key));
        continue;
      }
      note(entry, below);
      read_field(*field, entry, below, object);
    }
    for (const FieldInfo& field : info.fields) {
      if (field.shape == FieldInfo::Shape::kValue) field.resolve(object, source_.directory);
      const ConfigNode* given = node.find(field.name);
      if (field.is_required && given == nullptr) {
        problems_.emplace_back(node.place, fmt::format("{}: required key is missing ({})",
                                                       join_path(path, field.name), field.doc));
      }
      // The rules and paths of a section that is not mentioned hold for its defaults as well.
      if (given == nullptr && field.section) {
        ConfigNode absent = ConfigNode::map();
        absent.place = node.place;
        if (field.shape == FieldInfo::Shape::kSection && !field.is_optional_section) {
          read_section(*field.section, absent, join_path(path, field.name), field.open(object));
        }
      }
    }
    if (problems_.size() == problems_before) run_checks(info, node, path, object);
  }

 private:
  class Report : public CheckReport {
   public:
    Report(Problems& problems, const ConfigNode& node, std::string path)
        : problems_(problems), node_(node), path_(std::move(path)) {}
    void problem(std::string_view key, std::string text) override {
      problems_.emplace_back(place_below(node_, key),
                             fmt::format("{}: {}", join_path(path_, key), text));
    }

   private:
    Problems& problems_;
    const ConfigNode& node_;
    std::string path_;
  };

  void run_checks(const SectionInfo& info, const ConfigNode& node, const std::string& path,
                  const void* object) {
    Report report(problems_, node, path);
    for (const auto& rule : info.checks) rule(object, report);
  }

  void note(const ConfigEntry& entry, const std::string& path) {
    if (origins_ == nullptr) return;
    const Place& place = entry.value.place.override_text.empty() ? entry.place : entry.value.place;
    origins_->insert_or_assign(path, place.text(source_.name));
  }

  void read_field(const FieldInfo& field, const ConfigEntry& entry, const std::string& path,
                  void* object) {
    const ConfigNode& node = entry.value;
    const ValueReader reader(path, field.bounds, source_.directory, problems_);
    if (node.kind == ConfigNode::Kind::kNull && field.shape == FieldInfo::Shape::kValue &&
        !field.type.optional) {
      const Place& place = node.place.override_text.empty() ? entry.place : node.place;
      reader.problem(
          place, fmt::format("the key has no value; expected {}, or remove it", field.type.name()));
      return;
    }
    switch (field.shape) {
      case FieldInfo::Shape::kValue: field.read(node, reader, object); return;
      case FieldInfo::Shape::kSection:
        if (node.kind == ConfigNode::Kind::kMap) {
          read_section(*field.section, node, path, field.open(object));
        } else if (node.kind == ConfigNode::Kind::kNull && field.is_optional_section) {
          field.clear(object);
        } else {
          reader.mismatch(node, "a section (keys with values below it)");
        }
        return;
      case FieldInfo::Shape::kSectionList: read_list(field, node, reader, path, object); return;
    }
  }

  void read_list(const FieldInfo& field, const ConfigNode& node, const ValueReader& reader,
                 const std::string& path, void* object) {
    if (node.kind != ConfigNode::Kind::kList) {
      reader.mismatch(node, "a list of sections (each begins with '- ')");
      return;
    }
    if (node.items.empty() && (field.is_required || field.bounds.non_empty)) {
      reader.problem(node.place, "the list is empty");
    }
    field.clear(object);
    for (std::size_t i = 0; i < node.items.size(); ++i) {
      const std::string below = join_path(path, std::to_string(i));
      const ConfigNode& item = node.items[i];
      void* target = field.open(object);
      if (item.kind == ConfigNode::Kind::kMap) {
        read_section(*field.section, item, below, target);
      } else {
        reader.at(std::to_string(i)).mismatch(item, "a section (keys with values)");
      }
    }
  }

  const SectionInfo& root_;
  const ConfigSource& source_;
  Problems& problems_;
  Origins* origins_;
};

/// One line for each problem, in the order of the file, then those of --set.
[[noreturn]] void fail(Problems problems, const std::string& file) {
  std::stable_sort(problems.begin(), problems.end(), [](const auto& a, const auto& b) {
    const Place& x = a.first;
    const Place& y = b.first;
    if (x.override_text.empty() != y.override_text.empty()) return x.override_text.empty();
    return std::pair(x.line, x.column) < std::pair(y.line, y.column);
  });
  std::vector<std::string> lines;
  for (const auto& [place, text] : problems) {
    std::string line = fmt::format("{}: {}", place.text(file), text);
    // What several configurations of a file have in common is wrong once.
    if (std::find(lines.begin(), lines.end(), line) != lines.end()) continue;
    if (lines.size() == kMaxListed) {
      lines.push_back(fmt::format("{}: {} more problems", file, problems.size() - kMaxListed));
      break;
    }
    lines.push_back(std::move(line));
  }
  throw ConfigError("{}", fmt::join(lines, "\n"));
}

/// YAML text is UTF-8 without control characters but for tab and line ends (YAML 1.2, 5.1).
/// yaml-cpp takes more, and ends the text at some of them.
void check_bytes(std::string_view yaml, Problems& problems) {
  const std::size_t good = core::well_formed_prefix(yaml);
  const auto is_control = [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return (byte < 0x20 && c != '\t' && c != '\n' && c != '\r') || byte == 0x7F;
  };
  const auto control =
      std::find_if(yaml.begin(), yaml.begin() + static_cast<std::ptrdiff_t>(good), is_control);
  const auto at = static_cast<std::size_t>(control - yaml.begin());
  if (at == yaml.size()) return;
  const std::string_view before = yaml.substr(0, at);
  const auto line = static_cast<int>(std::count(before.begin(), before.end(), '\n')) + 1;
  const auto column =
      static_cast<int>(core::count_characters(before.substr(before.rfind('\n') + 1))) + 1;
  problems.emplace_back(
      Place{line, column, {}},
      at == good ? "the file is not UTF-8 text; save it as UTF-8"
                 : fmt::format(
                       "a control character (byte 0x{:02x}); remove it, or write \"\\x{:02x}\" "
                       "in quotes",
                       static_cast<unsigned char>(yaml[at]), static_cast<unsigned char>(yaml[at])));
}

/// The text as a tree of keys and values. Throws where that is all that can be said about it.
ConfigNode read_tree(std::string_view yaml, const ConfigSource& source, Problems& problems) {
  check_bytes(yaml, problems);
  if (!problems.empty()) fail(std::move(problems), source.name);
  ConfigNode tree = parse_yaml(yaml, problems);
  // A file that YAML cannot read says nothing certain about the keys in it.
  if (tree.entries.empty() && !problems.empty()) fail(std::move(problems), source.name);
  if (tree.kind != ConfigNode::Kind::kMap) {
    problems.emplace_back(tree.place, "expected keys with values, found " + tree.what());
    fail(std::move(problems), source.name);
  }
  if (tree.place.line == 0) tree.place = Place{1, 1, {}};
  return tree;
}

/// Tells each thing once, however many configurations of a file have it in common, and keys without
/// a value together at the end.
class Telling {
 public:
  Telling(const ConfigSource& source, const core::Log& log) : source_(source), log_(log) {}

  [[nodiscard]] Teller teller() {
    return {.renamed =
                [this](const Place& place, std::string_view from, std::string_view to) {
                  say(fmt::format("{}: '{}' is read as '{}'", place.text(source_.name), from, to));
                },
            .left_out =
                [this](const Place& place, std::string_view word, std::string_view why) {
                  say(fmt::format("{}: '{}' is left out: {}", place.text(source_.name), word, why));
                },
            .empty = [this](const Place&, std::string_view key) { empty_.emplace_back(key); }};
  }

  void finish() {
    if (empty_.empty()) return;
    say(fmt::format("{}: keys without a value count as not given: {}", source_.name,
                    fmt::join(empty_, ", ")));
  }

 private:
  void say(std::string line) {
    if (!said_.insert(line).second) return;
    core::tell(log_, core::Level::kInfo, line);
  }

  const ConfigSource& source_;
  const core::Log& log_;
  std::set<std::string> said_;
  std::vector<std::string> empty_;
};

}  // namespace

void read_config(const SectionInfo& info, std::string_view yaml, const ConfigSource& source,
                 const std::vector<std::string>& overrides, const core::Log& log, Origins* origins,
                 void* object) {
  Problems problems;
  ConfigNode tree = read_tree(yaml, source, problems);
  Telling telling(source, log);
  const Teller teller = telling.teller();
  canonicalise(info, "", tree, problems, teller);
  for (const std::string& text : overrides) apply_override(info, text, tree, problems, teller);
  telling.finish();
  Reader(info, source, problems, origins).read_section(info, tree, "", object);
  if (!problems.empty()) fail(std::move(problems), source.name);
}

std::vector<Variant<std::shared_ptr<void>>> read_variants(const SectionInfo& info,
                                                          std::string_view yaml,
                                                          const ConfigSource& source,
                                                          const std::vector<std::string>& overrides,
                                                          const core::Log& log) {
  Problems problems;
  ConfigNode tree = read_tree(yaml, source, problems);
  Telling telling(source, log);
  const Teller teller = telling.teller();
  std::vector<Variant<std::shared_ptr<void>>> result;
  for (const VariantTree& one :
       split_variants(info, std::move(tree), overrides, problems, teller)) {
    auto& variant = result.emplace_back(
        Variant<std::shared_ptr<void>>{.name = one.name, .config = info.make()});
    Reader(info, source, problems, &variant.origins)
        .read_section(info, one.tree, "", variant.config.get());
  }
  telling.finish();
  if (!problems.empty()) fail(std::move(problems), source.name);
  return result;
}

ConfigLayer parse_tree(std::string_view yaml, const ConfigSource& source) {
  Problems problems;
  ConfigNode tree = read_tree(yaml, source, problems);
  if (!problems.empty()) fail(std::move(problems), source.name);
  auto shared = std::make_shared<const ConfigSource>(source);
  mark_source(tree, shared);
  return {std::move(tree), std::move(shared)};
}

std::shared_ptr<void> read_layers(const SectionInfo& info, std::vector<ConfigLayer> layers,
                                  const core::Log& log) {
  Problems problems;
  const ConfigSource source = layers.empty() ? ConfigSource{} : *layers.back().source;
  Telling telling(source, log);
  const Teller teller = telling.teller();
  ConfigNode whole = ConfigNode::map();
  for (ConfigLayer& layer : layers) {
    canonicalise(info, "", layer.tree, problems, teller);
    lay_over(info, whole, layer.tree);
    whole.place = layer.tree.place;
  }
  telling.finish();
  std::shared_ptr<void> object = info.make();
  Reader(info, source, problems, nullptr).read_section(info, whole, "", object.get());
  if (!problems.empty()) fail(std::move(problems), source.name);
  return object;
}

std::pair<std::string, ConfigSource> read_config_file(const std::filesystem::path& file) {
  std::string text = core::read_text(file, std::uint64_t{16} << 20);
  return {std::move(text), ConfigSource{file.string(), file.parent_path()}};
}

}  // namespace weft::schema
