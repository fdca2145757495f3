#include "schema/node.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <utility>

#include "core/utf8.h"

namespace weft::schema {
namespace {

constexpr std::size_t kMaxText = std::size_t{16} << 20;
constexpr std::size_t kMaxExpandedText = std::size_t{64} << 20;
constexpr std::size_t kMaxNodes = 200'000;
constexpr std::size_t kMaxDepth = 64;

/// Ends the parse after a problem that leaves nothing sensible to go on with.
struct Stop {};

Place place_of(const YAML::Mark& mark) {
  return {.line = std::max(mark.line, 0) + 1,
          .column = std::max(mark.column, 0) + 1,
          .override_text = {}};
}

/// `text` with the characters that yaml-cpp makes one byte of, \N (U+0085) and \_ (U+00A0), as
/// UTF-8. The file is UTF-8 and every other escape too, so a byte that begins no character is one
/// of them.
std::string with_whole_characters(const std::string& text) {
  std::string_view rest = text;
  std::string out;
  while (!rest.empty()) {
    const std::size_t good = core::well_formed_prefix(rest);
    out += rest.substr(0, good);
    rest.remove_prefix(good);
    if (rest.empty()) break;
    out += '\xC2';
    out += rest.front();
    rest.remove_prefix(1);
  }
  return out;
}

/// What a node costs when it is copied: guards against aliases of aliases of aliases.
struct Size {
  std::size_t nodes = 1;
  std::size_t text = 0;
  std::size_t depth = 1;
};

/// Builds a ConfigNode from yaml-cpp's events. Events, not YAML::Node, because a Node accepts
/// duplicate keys, shares sub-trees and can contain itself.
class Builder : public YAML::EventHandler {
 public:
  explicit Builder(Problems& problems) : problems_(problems) {}

  [[nodiscard]] ConfigNode take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    ConfigNode node;
    node.place = place_of(mark);
    leaf(std::move(node), anchor);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    check_tag(mark, tag, "str");
    ConfigNode node = ConfigNode::scalar(with_whole_characters(value));
    node.quoted = tag != "?";
    node.place = place_of(mark);
    leaf(std::move(node), anchor);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto known = anchors_.find(anchor);
    if (known == anchors_.end()) stop(place_of(mark), "this alias refers to what contains it");
    charge(place_of(mark), known->second.second);
    add(known->second.first, known->second.second);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    check_tag(mark, tag, "seq");
    open(mark, ConfigNode::list({}), anchor);
  }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    check_tag(mark, tag, "map");
    open(mark, ConfigNode::map(), anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapEnd() override { close(); }

 private:
  struct Frame {
    ConfigNode node;
    YAML::anchor_t anchor = YAML::NullAnchor;
    Size size;
    bool has_key = false;
    ConfigNode key;
    std::vector<ConfigNode> merged;   ///< Values of `<<`.
    std::map<std::string, int> keys;  ///< With the line where each was given.
    bool has_merge = false;
  };

  [[noreturn]] void stop(Place place, std::string text) {
    problems_.emplace_back(std::move(place), std::move(text));
    throw Stop{};
  }

  void check_tag(const YAML::Mark& mark, const std::string& tag, std::string_view own) {
    if (tag.empty() || tag == "?" || tag == "!" ||
        tag == fmt::format("tag:yaml.org,2002:{}", own)) {
      return;
    }
    stop(place_of(mark), fmt::format("the tag '{}' is not supported; remove it", tag));
  }

  void charge(const Place& place, const Size& size) {
    nodes_ += size.nodes;
    text_ += size.text;
    if (nodes_ > kMaxNodes || text_ > kMaxExpandedText) {
      stop(place, fmt::format("too much configuration: more than {} values or {} MiB of text when "
                              "aliases are expanded",
                              kMaxNodes, kMaxExpandedText >> 20));
    }
    if (frames_.size() + size.depth > kMaxDepth) {
      stop(place, fmt::format("nested more than {} levels deep", kMaxDepth));
    }
  }

  void leaf(ConfigNode node, YAML::anchor_t anchor) {
    const Size size{.nodes = 1, .text = node.text.size(), .depth = 1};
    charge(node.place, size);
    remember(node, anchor, size);
    add(std::move(node), size);
  }

  void remember(const ConfigNode& node, YAML::anchor_t anchor, const Size& size) {
    if (anchor == YAML::NullAnchor) return;
    charge(node.place, size);  // The copy kept for later aliases takes memory as well.
    anchors_.insert_or_assign(anchor, std::pair{node, size});
  }

  void open(const YAML::Mark& mark, ConfigNode node, YAML::anchor_t anchor) {
    node.place = place_of(mark);
    charge(node.place, Size{});
    frames_.push_back(Frame{.node = std::move(node),
                            .anchor = anchor,
                            .size = {},
                            .has_key = false,
                            .key = {},
                            .merged = {},
                            .keys = {},
                            .has_merge = false});
  }

  void close() {
    Frame frame = std::move(frames_.back());
    frames_.pop_back();
    // Keys written out win over merged ones, earlier merged sections over later ones.
    for (ConfigNode& merged : frame.merged) {
      for (ConfigEntry& entry : merged.entries) {
        if (frame.keys.emplace(entry.key, entry.place.line).second) {
          frame.node.entries.push_back(std::move(entry));
        }
      }
    }
    remember(frame.node, frame.anchor, frame.size);
    add(std::move(frame.node), frame.size);
  }

  void add(ConfigNode node, const Size& size) {
    if (frames_.empty()) {
      root_ = std::move(node);
      return;
    }
    Frame& frame = frames_.back();
    frame.size.nodes += size.nodes;
    frame.size.text += size.text;
    frame.size.depth = std::max(frame.size.depth, size.depth + 1);
    if (frame.node.kind == ConfigNode::Kind::kList) {
      frame.node.items.push_back(std::move(node));
    } else if (!frame.has_key) {
      if (node.kind != ConfigNode::Kind::kScalar) {
        stop(node.place, fmt::format("a key must be a word, found {}", node.what()));
      }
      frame.key = std::move(node);
      frame.has_key = true;
    } else {
      frame.has_key = false;
      add_entry(frame, std::move(node));
    }
  }

  void add_entry(Frame& frame, ConfigNode value) {
    const Place& place = frame.key.place;
    if (frame.key.text == "<<" && !frame.key.quoted) {
      if (std::exchange(frame.has_merge, true)) {
        problems_.emplace_back(place, "a second '<<' in one section; write <<: [*a, *b]");
        return;
      }
      if (value.kind == ConfigNode::Kind::kMap) {
        frame.merged.push_back(std::move(value));
        return;
      }
      for (ConfigNode& item : value.items) {
        if (item.kind == ConfigNode::Kind::kMap)
          frame.merged.push_back(std::move(item));
        else
          problems_.emplace_back(place, "'<<' merges sections, found " + item.what());
      }
      if (value.kind != ConfigNode::Kind::kList) {
        problems_.emplace_back(
            place, "'<<' merges a section or a list of sections, found " + value.what());
      }
      return;
    }
    const auto [known, fresh] = frame.keys.emplace(frame.key.text, place.line);
    if (!fresh) {
      problems_.emplace_back(place, fmt::format("duplicate key {}, first given in line {}",
                                                frame.key.what(), known->second));
      return;
    }
    frame.node.add(std::move(frame.key.text), std::move(value), place);
  }

  Problems& problems_;
  ConfigNode root_;
  std::vector<Frame> frames_;
  std::map<YAML::anchor_t, std::pair<ConfigNode, Size>> anchors_;
  std::size_t nodes_ = 0;
  std::size_t text_ = 0;
};

}  // namespace

std::string Place::text(const std::string& file) const {
  if (!override_text.empty()) return "--set " + override_text;
  return fmt::format("{}:{}:{}", source ? source->name : file, line, column);
}

void mark_source(ConfigNode& node, const std::shared_ptr<const ConfigSource>& source) {
  node.place.source = source;
  for (ConfigNode& item : node.items) mark_source(item, source);
  for (ConfigEntry& entry : node.entries) {
    entry.place.source = source;
    mark_source(entry.value, source);
  }
}

ConfigNode ConfigNode::scalar(std::string text) {
  ConfigNode node;
  node.kind = Kind::kScalar;
  node.text = std::move(text);
  return node;
}

ConfigNode ConfigNode::string(std::string text) {
  ConfigNode node = scalar(std::move(text));
  node.quoted = true;
  return node;
}

ConfigNode ConfigNode::list(std::vector<ConfigNode> items) {
  ConfigNode node;
  node.kind = Kind::kList;
  node.items = std::move(items);
  return node;
}

ConfigNode ConfigNode::map() {
  ConfigNode node;
  node.kind = Kind::kMap;
  return node;
}

ConfigNode* ConfigNode::find(std::string_view key) {
  for (ConfigEntry& entry : entries) {
    if (entry.key == key) return &entry.value;
  }
  return nullptr;
}

const ConfigNode* ConfigNode::find(std::string_view key) const {
  return const_cast<ConfigNode*>(this)->find(key);
}

ConfigNode& ConfigNode::add(std::string key, ConfigNode value, Place key_place) {
  ConfigEntry& entry = entries.emplace_back();
  entry.key = std::move(key);
  entry.place = std::move(key_place);
  entry.value = std::move(value);
  return entry.value;
}

std::string ConfigNode::what() const {
  switch (kind) {
    case Kind::kNull: return "nothing";
    case Kind::kList: return "a list";
    case Kind::kMap: return "a section";
    case Kind::kScalar: break;
  }
  constexpr std::size_t kShown = 60;
  std::string shown = text.substr(0, kShown);
  if (text.size() > kShown) {
    shown.resize(core::well_formed_prefix(shown));  // no half characters
    shown += "...";
  }
  for (char& c : shown) {
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';  // Messages are one line each.
  }
  return quoted ? fmt::format("the text \"{}\"", shown) : fmt::format("'{}'", shown);
}

ConfigNode parse_yaml(std::string_view text, Problems& problems) {
  if (text.size() > kMaxText) {
    problems.emplace_back(Place{1, 1, {}}, fmt::format("more than {} MiB", kMaxText >> 20));
    return ConfigNode::map();
  }
  Builder builder(problems);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(builder)) return ConfigNode::map();
    Problems ignored;
    Builder probe(ignored);
    if (parser.HandleNextDocument(probe)) {
      problems.emplace_back(Place{1, 1, {}}, "more than one document (---) in a configuration");
    }
  } catch (const Stop&) {
    return ConfigNode::map();
  } catch (const YAML::Exception& error) {
    problems.emplace_back(place_of(error.mark), "not valid YAML: " + error.msg);
    return ConfigNode::map();
  }
  ConfigNode root = builder.take();
  if (root.kind == ConfigNode::Kind::kNull) root = ConfigNode::map();
  return root;
}

}  // namespace weft::schema
