#include "train/import_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace weft::train {
namespace fs = std::filesystem;

using schema::ConfigEntry;
using schema::ConfigNode;
using schema::ForeignReading;
using Kind = schema::ConfigNode::Kind;

std::string text_at(const ConfigNode& tree, const char* key) {
  const ConfigNode* value = tree.find(key);
  return value != nullptr && value->kind == Kind::kScalar ? value->text : "";
}

bool is_on(const ConfigNode& tree, const char* key) {
  const ConfigNode* value = tree.find(key);
  return value != nullptr && schema::as_boolean(*value) == true;
}

bool is_given(const ConfigNode& tree, const char* key) {
  const ConfigNode* value = tree.find(key);
  return value != nullptr && value->kind != Kind::kNull;
}

ConfigNode plain(std::string text) { return ConfigNode::scalar(std::move(text)); }

std::string hub_note(const std::string& path, std::string_view what) {
  std::error_code error;
  if (fs::exists(path, error)) return "";
  return fmt::format("{}; nothing is fetched from a hub", what);
}

void ImportJob::problem(const schema::Place& place, std::string text) {
  problems.emplace_back(place, std::move(text));
}

void ImportJob::put(const std::string& path, const ConfigNode& value, const std::string& comment,
                    const schema::Place& place) {
  const ConfigNode* there = sheet.find(path);
  if (there != nullptr && schema::emit_flow(*there) != schema::emit_flow(value)) {
    problem(place,
            fmt::format("{}: means {}, and another line means {}; keep one", comment,
                        schema::shown_entry(path, value), schema::shown_entry(path, *there)));
    return;
  }
  sheet.set(path, value, comment);
}

bool ImportJob::is_without(const std::string& name) const {
  return std::ranges::find(without, name) != without.end();
}

void ImportJob::leave_out(const std::string& name, const ConfigNode& value) {
  used.insert(name);
  sheet.comment(fmt::format("{}: left out as asked.", schema::shown_entry(name, value)));
}

bool ImportJob::apply(const ForeignReading& reading, const ConfigEntry& entry,
                      const std::string& prefix) {
  const std::string shown = schema::shown_entry(entry.key, entry.value);
  switch (reading.kind) {
    case ForeignReading::Kind::kOwn: return false;
    case ForeignReading::Kind::kLeftOut:
      sheet.comment(fmt::format("{}: not needed, {}.", prefix + shown, reading.text));
      return true;
    case ForeignReading::Kind::kRefused:
      problem(entry.place, fmt::format("{}: {}; --without {} leaves it out", prefix + shown,
                                       reading.text, prefix + entry.key));
      return true;
    case ForeignReading::Kind::kMeans: break;
  }
  for (const auto& [target, value] : reading.keys) {
    put(prefix + target, value, shown, entry.place);
  }
  return true;
}

}  // namespace weft::train
