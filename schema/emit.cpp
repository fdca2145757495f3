#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/utf8.h"
#include "schema/node.h"

namespace weft::schema {
namespace {

constexpr std::size_t kFlowColumns = 80;

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '/' || c == '.' || c == '-' || c == '+' || c == '@' ||
         static_cast<unsigned char>(c) >= 0x80;
}

/// What YAML does not print, or takes for the end of a line: C1, line and paragraph separators,
/// BOM.
bool is_escaped(char32_t c) {
  return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x2028 || c == 0x2029 || c == 0xfeff;
}

/// True when every YAML reader, old or new, takes the plain text for the same text.
bool plain_is_safe(std::string_view text) {
  const auto is_plain = [](char c) { return is_word(c) || c == ' '; };
  if (text.empty() || !std::ranges::all_of(text, is_plain) ||
      std::ranges::any_of(core::decode_utf8(text), is_escaped)) {
    return false;
  }
  const char first = text.front();
  const bool letter = (first >= 'a' && first <= 'z') || (first >= 'A' && first <= 'Z') ||
                      first == '/' || first == '_';
  if (!letter || text.back() == ' ') return false;
  std::string lower(text);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  static constexpr std::array<std::string_view, 9> kWords{"null", "true", "false", "yes", "no",
                                                          "on",   "off",  "y",     "n"};
  return std::find(kWords.begin(), kWords.end(), lower) == kWords.end();
}

std::string quote(std::string_view text) {
  std::string out = "\"";
  while (!text.empty()) {
    const auto [bytes, is_well_formed] = core::first_character(text);
    const std::string_view character = text.substr(0, bytes);
    const char32_t code = is_well_formed ? core::code_point(character) : U' ';
    switch (code) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\t': out += "\\t"; break;
      case '\r': out += "\\r"; break;
      default:
        if (!is_escaped(code)) {
          out += character;
        } else {
          out += code < 0x100 ? fmt::format("\\x{:02x}", static_cast<unsigned>(code))
                              : fmt::format("\\u{:04x}", static_cast<unsigned>(code));
        }
    }
    text.remove_prefix(bytes);
  }
  return out + "\"";
}

std::string emit_scalar(const ConfigNode& node) {
  if (node.kind == ConfigNode::Kind::kNull) return "null";
  return node.quoted && !plain_is_safe(node.text) ? quote(node.text) : node.text;
}

std::string emit_key(const std::string& key) { return plain_is_safe(key) ? key : quote(key); }

bool is_block(const ConfigNode& node) {
  if (node.kind == ConfigNode::Kind::kMap) return !node.entries.empty();
  if (node.kind != ConfigNode::Kind::kList || node.items.empty()) return false;
  const auto nested = [](const ConfigNode& item) { return item.kind >= ConfigNode::Kind::kList; };
  return std::any_of(node.items.begin(), node.items.end(), nested) ||
         emit_flow(node).size() > kFlowColumns;
}

}  // namespace

std::string emit_flow(const ConfigNode& node) {
  std::string out;
  if (node.kind == ConfigNode::Kind::kList) {
    for (const ConfigNode& item : node.items) {
      out += fmt::format("{}{}", out.empty() ? "" : ", ", emit_flow(item));
    }
    return fmt::format("[{}]", out);
  }
  if (node.kind == ConfigNode::Kind::kMap) {
    for (const ConfigEntry& entry : node.entries) {
      out += fmt::format("{}{}: {}", out.empty() ? "" : ", ", emit_key(entry.key),
                         emit_flow(entry.value));
    }
    return fmt::format("{{{}}}", out);
  }
  return emit_scalar(node);
}

std::string emit_yaml(const ConfigNode& node, int indent) {
  const std::string margin(static_cast<std::size_t>(indent), ' ');
  if (!is_block(node)) return margin + emit_flow(node) + "\n";
  std::string out;
  if (node.kind == ConfigNode::Kind::kMap) {
    for (const ConfigEntry& entry : node.entries) {
      out += fmt::format("{}{}:", margin, emit_key(entry.key));
      out += is_block(entry.value) ? fmt::format("\n{}", emit_yaml(entry.value, indent + 2))
                                   : fmt::format(" {}\n", emit_flow(entry.value));
    }
    return out;
  }
  for (const ConfigNode& item : node.items) {
    // "- " takes the place of the first two spaces of the item.
    std::string text = emit_yaml(item, indent + 2);
    text[static_cast<std::size_t>(indent)] = '-';
    out += text;
  }
  return out;
}

}  // namespace weft::schema
