#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "schema/schema.h"
#include "schema/tree.h"

namespace weft::schema {
namespace {

using Json = nlohmann::json;

Json to_json(const ConfigNode& node, const TypeInfo& type) {
  if (node.kind == ConfigNode::Kind::kNull) return nullptr;
  if (node.kind == ConfigNode::Kind::kList) {
    Json list = Json::array();
    for (const ConfigNode& item : node.items) list.push_back(to_json(item, *type.element));
    return list;
  }
  if (node.kind == ConfigNode::Kind::kMap) {
    Json map = Json::object();
    for (const ConfigEntry& entry : node.entries) {
      map[entry.key] = to_json(entry.value, *type.element);
    }
    return map;
  }
  const bool may_be_path = type.kind == TypeInfo::Kind::kFolderSwitch;
  if (type.kind == TypeInfo::Kind::kBoolean || (may_be_path && !node.quoted)) {
    return node.text == "true";
  }
  if (type.kind == TypeInfo::Kind::kInteger) return parse_integer(node.text).value_or(0);
  if (type.kind == TypeInfo::Kind::kNumber) return parse_number(node.text).value_or(0);
  return node.text;
}

void add_bounds(Json& schema, const Bounds& bounds) {
  if (bounds.low) schema[bounds.low_open ? "exclusiveMinimum" : "minimum"] = *bounds.low;
  if (bounds.high) schema[bounds.high_open ? "exclusiveMaximum" : "maximum"] = *bounds.high;
}

Json type_schema(const TypeInfo& type, const Bounds& bounds) {
  using Kind = TypeInfo::Kind;
  Json schema;
  switch (type.kind) {
    case Kind::kString:
    case Kind::kPath:
      schema["type"] = "string";
      if (bounds.non_empty) schema["minLength"] = 1;
      break;
    case Kind::kInteger:
    case Kind::kNumber:
      schema["type"] = type.kind == Kind::kInteger ? "integer" : "number";
      add_bounds(schema, bounds);
      break;
    case Kind::kBoolean: schema["type"] = "boolean"; break;
    case Kind::kFolderSwitch: schema["type"] = {"boolean", "string"}; break;
    case Kind::kDuration:
      schema = {{"type", "string"}, {"pattern", "^[0-9.]+([eE][+-]?[0-9]+)? ?([kKMG]?[ut]|e)$"}};
      break;
    case Kind::kShare:
      schema["anyOf"] = {{{"type", "string"}, {"pattern", "^[0-9.]+ ?%$"}},
                         {{"type", "integer"}, {"minimum", 0}}};
      break;
    case Kind::kBytes:
      schema["anyOf"] = {{{"type", "string"}, {"pattern", "^[0-9.]+ ?([KMGT]i?B|kB|B)$"}},
                         {{"type", "integer"}, {"minimum", 0}}};
      break;
    case Kind::kChoice: schema["enum"] = type.choices; break;
    case Kind::kList: {
      const Json element = type_schema(*type.element, bounds);
      Json list{{"type", "array"}, {"items", element}};
      if (bounds.non_empty) list["minItems"] = 1;
      schema["anyOf"] = Json::array({list, element});
      break;
    }
    case Kind::kMap:
      schema = {{"type", "object"}, {"additionalProperties", type_schema(*type.element, bounds)}};
      break;
    case Kind::kFree: schema = Json::object(); break;
  }
  if (type.optional) return {{"anyOf", Json::array({schema, Json{{"type", "null"}}})}};
  return schema;
}

Json section_schema(const SectionInfo& info);

Json field_schema(const FieldInfo& field, void* defaults) {
  Json schema;
  switch (field.shape) {
    case FieldInfo::Shape::kValue:
      schema = type_schema(field.type, field.bounds);
      if (!field.is_required) schema["default"] = to_json(field.write(defaults), field.type);
      break;
    case FieldInfo::Shape::kSection:
      schema = section_schema(*field.section);
      if (field.is_optional_section) {
        schema = {{"anyOf", Json::array({schema, Json{{"type", "null"}}})}};
      }
      break;
    case FieldInfo::Shape::kSectionList:
      schema = {{"type", "array"}, {"items", section_schema(*field.section)}};
      if (field.is_required || field.bounds.non_empty) schema["minItems"] = 1;
      break;
  }
  schema["description"] = field.doc;
  return schema;
}

/// The schema of the field at a dotted path below `info`.
Json schema_at(const SectionInfo& info, std::string_view path) {
  const std::size_t dot = path.find('.');
  const FieldInfo* field = find_field(info, path.substr(0, dot));
  if (field == nullptr) return true;
  if (dot != std::string_view::npos) return schema_at(*field->section, path.substr(dot + 1));
  return field_schema(*field, info.make().get());
}

Json section_schema(const SectionInfo& info) {
  Json schema{{"type", "object"}, {"additionalProperties", false}};
  const std::shared_ptr<void> defaults = info.make();
  Json properties = Json::object();
  Json rules = Json::array();
  const auto alias = [&](const std::string& name, const std::string& target) {
    Json entry = schema_at(info, target);
    entry["description"] = fmt::format("alias of {}", target);
    entry["deprecated"] = true;
    properties[name] = std::move(entry);
  };
  for (const FieldInfo& field : info.fields) {
    properties[field.name] = field_schema(field, defaults.get());
    std::vector<std::string> names{field.name};
    names.insert(names.end(), field.aliases.begin(), field.aliases.end());
    for (const std::string& name : field.aliases) alias(name, field.name);
    for (const auto& [name, target] : info.aliases) {
      if (target == field.name) names.push_back(name);
    }
    if (!field.is_required) continue;
    Json any = Json::array();
    for (const std::string& name : names) any.push_back({{"required", Json::array({name})}});
    rules.push_back(any.size() == 1 ? any[0] : Json{{"anyOf", any}});
  }
  for (const auto& [name, target] : info.aliases) alias(name, target);
  schema["properties"] = std::move(properties);
  if (!rules.empty()) schema["allOf"] = std::move(rules);
  return schema;
}

/// The list of variants: the properties of `root` without what all share. A required key may stand
/// in the items instead, so it is one of the root only where there is no list.
void add_variants(Json& root, const VariantsInfo& variants) {
  Json item{{"type", "object"}, {"additionalProperties", false}, {"required", {"name"}}};
  item["properties"] = root["properties"];
  for (const std::string& key : variants.shared) {
    Json& properties = item["properties"];
    properties.erase(key);
    std::erase_if(properties.get_ref<Json::object_t&>(), [&](const auto& property) {
      return property.second.value("description", "") == "alias of " + key;
    });
  }
  item["properties"]["name"] = {{"type", "string"}, {"minLength", 1}};
  Json list{{"type", "array"}, {"items", std::move(item)}, {"minItems", 1}};
  list["description"] = variants.doc;
  root["properties"][variants.key] = std::move(list);
  Json always = Json::array();
  Json alone = Json::array();
  for (const Json& rule : root.value("allOf", Json::array())) {
    const std::string key = (rule.contains("anyOf") ? rule["anyOf"][0] : rule)["required"][0];
    const bool shared = std::ranges::find(variants.shared, key) != variants.shared.end();
    (shared ? always : alone).push_back(rule);
  }
  if (!alone.empty()) {
    always.push_back(
        {{"anyOf", Json::array({Json{{"required", {variants.key}}}, Json{{"allOf", alone}}})}});
  }
  if (!always.empty()) root["allOf"] = std::move(always);
}

/// A table cell: no line breaks, no column separators.
std::string cell(std::string text) {
  std::string out;
  for (const char c : text) {
    if (c == '|')
      out += "\\|";
    else
      out += c == '\n' ? ' ' : c;
  }
  return out;
}

void reference(const SectionInfo& info, const std::string& path, std::string& out) {
  out += path.empty() ? "## Top level\n\n" : fmt::format("## `{}`\n\n", path);
  out += "| key | type | default | meaning |\n| --- | --- | --- | --- |\n";
  const std::shared_ptr<void> defaults = info.make();
  for (const FieldInfo& field : info.fields) {
    std::string type;
    std::string usual;
    switch (field.shape) {
      case FieldInfo::Shape::kValue:
        type = field.type.name();
        usual = fmt::format("`{}`", emit_flow(field.write(defaults.get())));
        if (field.type.kind == TypeInfo::Kind::kString && usual == "`\"\"`") usual = "empty";
        if (field.type.kind == TypeInfo::Kind::kPath && usual == "`\"\"`") usual = "none";
        if (usual == "`null`") usual = "not set";
        break;
      case FieldInfo::Shape::kSection: type = "section"; break;
      case FieldInfo::Shape::kSectionList: type = "list of sections"; break;
    }
    if (field.is_optional_section) usual = "absent";
    if (field.is_required) usual = "required";
    if (const std::string bounds = field.bounds.text(); !bounds.empty()) type += ", " + bounds;
    std::vector<std::string> aliases = field.aliases;
    for (const auto& [name, target] : info.aliases) {
      if (target == field.name) aliases.push_back(name);
    }
    std::string doc = field.doc;
    if (!aliases.empty()) doc += fmt::format(" (also: `{}`)", fmt::join(aliases, "`, `"));
    out += fmt::format("| `{}` | {} | {} | {} |\n", field.name, cell(type), cell(usual), cell(doc));
  }
  std::string dotted;
  for (const auto& [name, target] : info.aliases) {
    if (target.find('.') != std::string::npos) {
      dotted += fmt::format("{}`{}` for `{}`", dotted.empty() ? "" : ", ", name, target);
    }
  }
  if (!dotted.empty()) out += fmt::format("\nAlso accepted here: {}.\n", dotted);
  out += "\n";
  for (const FieldInfo& field : info.fields) {
    if (!field.section) continue;
    const bool list = field.shape == FieldInfo::Shape::kSectionList;
    reference(*field.section, join_path(path, field.name) + (list ? "[]" : ""), out);
  }
}

}  // namespace

nlohmann::json json_schema(const SectionInfo& info, std::string_view title) {
  Json schema = section_schema(info);
  if (info.variants) add_variants(schema, *info.variants);
  schema["$schema"] = "https://json-schema.org/draft/2020-12/schema";
  schema["title"] = std::string(title);
  return schema;
}

std::string config_reference(const SectionInfo& info) {
  std::string out;
  reference(info, "", out);
  if (const auto& variants = info.variants) {
    out += fmt::format(
        "## `{}[]`\n\n{}. Each has a `name`, and any key of the top level that is to be different "
        "for it, except `{}`.\n",
        variants->key, variants->doc, fmt::join(variants->shared, "`, `"));
  }
  return out;
}

}  // namespace weft::schema
