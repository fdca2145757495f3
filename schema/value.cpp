#include "schema/value.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <cstdlib>

#include "core/suggest.h"

namespace weft::schema {
namespace {

bool is_plain(const ConfigNode& node) {
  return node.kind == ConfigNode::Kind::kScalar && !node.quoted;
}

TypeInfo simple(TypeInfo::Kind kind) {
  TypeInfo info;
  info.kind = kind;
  return info;
}

std::string bound_text(double value) {
  return std::trunc(value) == value && std::abs(value) < 1e15 ? fmt::format("{:.0f}", value)
                                                              : fmt::format("{}", value);
}

std::optional<bool> parse_boolean(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  if (text == "true" || text == "yes" || text == "on") return true;
  if (text == "false" || text == "no" || text == "off") return false;
  return std::nullopt;
}

/// What to do about a number that was not read; empty when nothing more can be said.
std::string number_hint(const ConfigNode& node) {
  const std::string& text = node.text;
  if (node.kind != ConfigNode::Kind::kScalar) return "";
  if (node.quoted && parse_number(text)) return "; remove the quotes";
  if (text.find('_') != std::string::npos) return "; write digits without '_'";
  if (text.find(',') != std::string::npos) return "; write the decimal point as '.'";
  if (text.starts_with("0x")) return "; write it in decimal";
  if (const auto bytes = parse_bytes(text); bytes && !parse_number(text)) {
    return fmt::format("; write {}", bytes->count);
  }
  return "";
}

}  // namespace

std::string TypeInfo::name() const {
  switch (kind) {
    case Kind::kString: return "text";
    case Kind::kPath: return "path";
    case Kind::kInteger: return "whole number";
    case Kind::kNumber: return "number";
    case Kind::kBoolean: return "true or false";
    case Kind::kDuration: return "duration (500u updates, 3e epochs, 2Mt tokens)";
    case Kind::kShare: return "share (3% or a count)";
    case Kind::kBytes: return "size (2GiB, 512MiB, 1.5GB)";
    case Kind::kFolderSwitch: return "true, false or a path";
    case Kind::kChoice: return fmt::format("one of {}", fmt::join(choices, ", "));
    case Kind::kList: return fmt::format("list of {}", element->name());
    case Kind::kMap: return fmt::format("section of {} by name", element->name());
    case Kind::kFree: return "values or sections";
  }
  return "";
}

std::string Bounds::text() const {
  if (low && high && !low_open && !high_open) {
    return fmt::format("from {} to {}", bound_text(*low), bound_text(*high));
  }
  std::string text;
  if (low) text = fmt::format("{} {}", low_open ? "more than" : "at least", bound_text(*low));
  if (high) {
    text += fmt::format("{}{} {}", text.empty() ? "" : " and ", high_open ? "less than" : "at most",
                        bound_text(*high));
  }
  return text;
}

ValueReader ValueReader::at(std::string_view key) const {
  ValueReader inner = *this;
  inner.path_ = fmt::format("{}.{}", path_, key);
  return inner;
}

bool ValueReader::problem(const Place& place, std::string_view text) const {
  problems_->emplace_back(place, fmt::format("{}: {}", path_, text));
  return false;
}

bool ValueReader::mismatch(const ConfigNode& node, std::string_view wanted) const {
  return problem(node.place, fmt::format("expected {}, found {}", wanted, node.what()));
}

bool ValueReader::in_bounds(const ConfigNode& node, double value) const {
  const Bounds& b = *bounds_;
  const bool low = !b.low || (b.low_open ? value > *b.low : value >= *b.low);
  const bool high = !b.high || (b.high_open ? value < *b.high : value <= *b.high);
  if (low && high) return true;
  return problem(node.place, fmt::format("must be {}, found {}", b.text(), node.text));
}

bool read_value(const ConfigNode& node, const ValueReader& reader, std::string& value) {
  if (node.kind != ConfigNode::Kind::kScalar) return reader.mismatch(node, "text");
  if (reader.bounds().non_empty && node.text.empty()) {
    return reader.problem(node.place, "the text is empty");
  }
  value = node.text;
  return true;
}

bool read_value(const ConfigNode& node, const ValueReader& reader, std::filesystem::path& value) {
  std::string text;
  if (node.kind != ConfigNode::Kind::kScalar) return reader.mismatch(node, "a path");
  if (!read_value(node, reader, text)) return false;
  if (text.find('\0') != std::string::npos) {
    return reader.problem(node.place, "a path cannot hold a zero byte");
  }
  // What is typed at a prompt is meant from the folder the person stands in.
  const std::filesystem::path& written_in =
      node.place.source ? node.place.source->directory : reader.directory();
  value = resolve_path(text, node.place.override_text.empty() ? written_in : "");
  return true;
}

bool read_value(const ConfigNode& node, const ValueReader& reader, std::int64_t& value) {
  const std::optional<std::int64_t> read = is_plain(node) ? parse_integer(node.text) : std::nullopt;
  if (read) {
    if (!reader.in_bounds(node, static_cast<double>(*read))) return false;
    value = *read;
    return true;
  }
  const std::optional<double> number = is_plain(node) ? parse_number(node.text) : std::nullopt;
  std::string hint = number_hint(node);
  if (number && std::trunc(*number) == *number) hint = ", which is too large";
  return reader.problem(node.place,
                        fmt::format("expected a whole number, found {}{}", node.what(), hint));
}

bool read_value(const ConfigNode& node, const ValueReader& reader, double& value) {
  const std::optional<double> read = is_plain(node) ? parse_number(node.text) : std::nullopt;
  if (!read) {
    return reader.problem(node.place, fmt::format("expected a finite number, found {}{}",
                                                  node.what(), number_hint(node)));
  }
  if (!reader.in_bounds(node, *read)) return false;
  value = *read;
  return true;
}

bool read_value(const ConfigNode& node, const ValueReader& reader, bool& value) {
  const std::optional<bool> read = is_plain(node) ? parse_boolean(node.text) : std::nullopt;
  if (!read) return reader.mismatch(node, "true or false");
  value = *read;
  return true;
}

bool read_value(const ConfigNode& node, const ValueReader& reader, FolderSwitch& value) {
  if (node.kind != ConfigNode::Kind::kScalar || node.text.empty()) {
    return reader.mismatch(node, simple(TypeInfo::Kind::kFolderSwitch).name());
  }
  const std::optional<bool> on = node.quoted ? std::nullopt : parse_boolean(node.text);
  value.on = on.value_or(true);
  value.path.clear();
  return on.has_value() || read_value(node, reader, value.path);
}

bool read_value(const ConfigNode& node, const ValueReader&, ConfigNode& value) {
  value = node;
  return true;
}

bool read_value(const ConfigNode& node, const ValueReader& reader, Duration& value) {
  const bool scalar = node.kind == ConfigNode::Kind::kScalar;
  const std::optional<Duration> read = scalar ? parse_duration(node.text) : std::nullopt;
  if (!read) {
    const bool bare = scalar && parse_number(node.text);
    return reader.problem(
        node.place,
        fmt::format("expected a {}, found {}{}", simple(TypeInfo::Kind::kDuration).name(),
                    node.what(), bare ? "; say the unit, as in " + node.text + "u" : ""));
  }
  if (!reader.in_bounds(node, read->amount)) return false;
  value = *read;
  return true;
}

bool read_value(const ConfigNode& node, const ValueReader& reader, Share& value) {
  const std::optional<Share> read =
      node.kind == ConfigNode::Kind::kScalar ? parse_share(node.text) : std::nullopt;
  if (!read) return reader.mismatch(node, "a " + simple(TypeInfo::Kind::kShare).name());
  if (!reader.in_bounds(node, read->value)) return false;
  value = *read;
  return true;
}

bool read_value(const ConfigNode& node, const ValueReader& reader, Bytes& value) {
  const std::optional<Bytes> read =
      node.kind == ConfigNode::Kind::kScalar ? parse_bytes(node.text) : std::nullopt;
  if (!read) return reader.mismatch(node, "a " + simple(TypeInfo::Kind::kBytes).name());
  if (!reader.in_bounds(node, static_cast<double>(read->count))) return false;
  value = *read;
  return true;
}

std::optional<std::size_t> read_choice(const ConfigNode& node, const ValueReader& reader,
                                       const TypeInfo& type) {
  if (node.kind == ConfigNode::Kind::kScalar) {
    for (std::size_t i = 0; i < type.choices.size(); ++i) {
      if (node.text == type.choices[i]) return i;
    }
  }
  const std::string near =
      node.kind == ConfigNode::Kind::kScalar ? core::nearest(node.text, type.choices) : "";
  reader.problem(node.place,
                 fmt::format("expected {}, found {}{}", type.name(), node.what(),
                             near.empty() ? "" : fmt::format("; did you mean '{}'?", near)));
  return std::nullopt;
}

ConfigNode write_value(const std::string& value) { return ConfigNode::string(value); }
ConfigNode write_value(const std::filesystem::path& value) {
  return ConfigNode::string(value.string());
}
ConfigNode write_value(std::int64_t value) { return ConfigNode::scalar(std::to_string(value)); }
ConfigNode write_value(double value) {
  std::string text = fmt::format("{}", value);
  // YAML 1.1 readers take "1e-05" for text; "1.0e-05" is a number everywhere.
  const std::size_t exponent = text.find('e');
  if (exponent != std::string::npos && text.find('.') == std::string::npos) {
    text.insert(exponent, ".0");
  }
  return ConfigNode::scalar(std::move(text));
}
ConfigNode write_value(bool value) { return ConfigNode::scalar(value ? "true" : "false"); }
ConfigNode write_value(const Duration& value) { return ConfigNode::scalar(to_string(value)); }
ConfigNode write_value(const Share& value) { return ConfigNode::scalar(to_string(value)); }
ConfigNode write_value(const Bytes& value) { return ConfigNode::scalar(to_string(value)); }

ConfigNode write_value(const FolderSwitch& value) {
  return value.path.empty() ? write_value(value.on) : write_value(value.path);
}

ConfigNode write_value(const ConfigNode& value) { return value; }

TypeInfo type_of(const std::string*) { return simple(TypeInfo::Kind::kString); }
TypeInfo type_of(const std::filesystem::path*) { return simple(TypeInfo::Kind::kPath); }
TypeInfo type_of(const std::int64_t*) { return simple(TypeInfo::Kind::kInteger); }
TypeInfo type_of(const double*) { return simple(TypeInfo::Kind::kNumber); }
TypeInfo type_of(const bool*) { return simple(TypeInfo::Kind::kBoolean); }
TypeInfo type_of(const Duration*) { return simple(TypeInfo::Kind::kDuration); }
TypeInfo type_of(const Share*) { return simple(TypeInfo::Kind::kShare); }
TypeInfo type_of(const Bytes*) { return simple(TypeInfo::Kind::kBytes); }
TypeInfo type_of(const FolderSwitch*) { return simple(TypeInfo::Kind::kFolderSwitch); }
TypeInfo type_of(const ConfigNode*) { return simple(TypeInfo::Kind::kFree); }

std::filesystem::path resolve_path(const std::filesystem::path& path,
                                   const std::filesystem::path& directory) {
  if (path.empty()) return path;
  std::filesystem::path full = path;
  const std::string text = path.string();
  if (const char* home = std::getenv("HOME"); home != nullptr && text.starts_with("~/")) {
    full = std::filesystem::path(home) / text.substr(2);
  }
  if (full.is_relative()) full = std::filesystem::absolute(directory / full);
  full = full.lexically_normal();
  // "runs/a/" and "runs/a" are the same folder and should compare so.
  if (!full.has_filename() && full.has_relative_path()) full = full.parent_path();
  return full;
}

}  // namespace weft::schema
