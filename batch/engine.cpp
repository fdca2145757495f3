#include "batch/engine.h"

#include <algorithm>
#include <array>

namespace weft::batch {
namespace {

using schema::ConfigNode;
using schema::FieldInfo;
using schema::TypeInfo;

/// What a run writes.
constexpr std::array kOutputs{"output_dir", "output", "report", "ledger"};

bool holds_paths(const TypeInfo& type) {
  if (type.element) return holds_paths(*type.element);
  return type.kind == TypeInfo::Kind::kPath;
}

/// Keys that change how a run computes, and not what it learns.
constexpr std::array kIdle{"output_dir", "threads",     "memory_limit", "gradient_checkpointing",
                           "log_every",  "token_cache", "ledger",       "output"};

void flatten(const ConfigNode& node, const std::string& key, const std::vector<std::string>& inputs,
             std::vector<std::string>& lines) {
  if (std::ranges::find(kIdle, key.substr(key.rfind('.') + 1)) != kIdle.end()) return;
  const std::string before = key.empty() ? "" : key + ".";
  std::size_t index = 0;
  for (const ConfigNode& item : node.items) {
    flatten(item, before + std::to_string(index++), inputs, lines);
  }
  for (const schema::ConfigEntry& entry : node.entries) {
    flatten(entry.value, before + entry.key, inputs, lines);
  }
  if (!node.items.empty() || !node.entries.empty()) return;
  std::string line = key + ": " + (node.quoted ? "text " : "") + without_place(node.text, inputs);
  std::ranges::replace(line, '\n', ' ');
  lines.push_back(line);
}

void add_texts(const ConfigNode& node, std::vector<std::string>& all) {
  if (node.kind == ConfigNode::Kind::kScalar && !node.text.empty()) all.push_back(node.text);
  for (const ConfigNode& item : node.items) add_texts(item, all);
  for (const schema::ConfigEntry& entry : node.entries) add_texts(entry.value, all);
}

void add_inputs(const schema::SectionInfo& info, void* object, std::vector<std::string>& all) {
  for (const FieldInfo& field : info.fields) {
    if (field.shape != FieldInfo::Shape::kValue) {
      for (void* part : field.present(object)) add_inputs(*field.section, part, all);
    } else if (holds_paths(field.type) &&
               std::ranges::find(kOutputs, field.name) == kOutputs.end()) {
      add_texts(field.write(object), all);
    }
  }
}

}  // namespace

std::string value_of(const schema::SectionInfo& info, void* object, std::string_view key) {
  const std::size_t dot = std::min(key.find('.'), key.size());
  for (const FieldInfo& field : info.fields) {
    if (field.name != key.substr(0, dot)) continue;
    if (field.shape == FieldInfo::Shape::kValue) return field.write(object).text;
    const std::vector<void*> parts = field.present(object);
    if (parts.empty() || dot == key.size()) return "";
    return value_of(*field.section, parts.front(), key.substr(dot + 1));
  }
  return "";
}

std::vector<std::string> inputs_of(const schema::SectionInfo& info, void* object) {
  std::vector<std::string> all;
  add_inputs(info, object, all);
  return all;
}

std::vector<std::string> essence_of(const std::string& dump,
                                    const std::vector<std::string>& inputs) {
  std::vector<std::string> lines;
  flatten(schema::parse_tree(dump, {.name = "config.yaml", .directory = {}}).tree, "", inputs,
          lines);
  return lines;
}

std::string without_place(const std::string& text, const std::vector<std::string>& inputs) {
  if (std::ranges::find(inputs, text) == inputs.end()) return text;
  return std::filesystem::path(text).filename().string();
}

}  // namespace weft::batch
