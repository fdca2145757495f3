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

}  // namespace weft::batch
