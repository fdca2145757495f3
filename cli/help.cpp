#include "cli/help.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

namespace weft::cli {
namespace {

struct Kind {
  std::string_view option;
  std::string_view type;
};

/// Options that take a place in the file system, by name; the same everywhere.
constexpr std::array kPlaces{
    Kind{"--adapter", "DIR"},        Kind{"--base", "PATH"},    Kind{"--card", "FILE"},
    Kind{"--chat-template", "FILE"}, Kind{"--data", "FILE"},    Kind{"--from", "PATH"},
    Kind{"--ids", "FILE"},           Kind{"--imatrix", "FILE"}, Kind{"--ledger", "FILE"},
    Kind{"--merged", "PATH"},        Kind{"--model", "PATH"},   Kind{"--out", "PATH"},
    Kind{"--reference", "FILE"},     Kind{"--report", "FILE"},  Kind{"--text", "FILE"},
    Kind{"--undo", "FILE"},          Kind{"--verify", "FILE"},
};

class Formatter : public CLI::Formatter {
 public:
  std::string make_option_opts(const CLI::Option* option) const override {
    std::string text;
    if (option->get_type_size() != 0) text += " " + type_of(*option);
    if (option->get_expected_max() > 1) text += "...";
    if (option->get_required()) text += " (required)";
    const std::string standard = option->get_default_str();
    if (option->get_type_size() != 0 && !standard.empty() && standard != "\"\"") {
      text += fmt::format(" (default: {})", standard);
    }
    for (const CLI::Option* other : option->get_needs())
      text += " (with " + other->get_name() + ")";
    return text;
  }

 private:
  static std::string type_of(const CLI::Option& option) {
    // "TEXT:{f32,bf16}", "INT:whole number, at least 1": the type, then what checks it.
    const std::string written = option.get_type_name();
    const std::size_t colon = written.find(':');
    if (colon != std::string::npos && written.compare(colon + 1, 1, "{") == 0) {
      std::string choices = written.substr(colon + 2, written.rfind('}') - colon - 2);
      std::ranges::replace(choices, ',', '|');
      return choices;
    }
    const std::string type = written.substr(0, colon);
    if (type == "INT" || type == "UINT") return "N";
    if (type == "FLOAT") return "X";
    const auto place = std::ranges::find(kPlaces, option.get_name(false, false), &Kind::option);
    return type == "TEXT" && place != kPlaces.end() ? std::string(place->type) : type;
  }
};

}  // namespace

std::shared_ptr<CLI::Formatter> help_formatter() {
  auto formatter = std::make_shared<Formatter>();
  formatter->column_width(30);
  return formatter;
}

}  // namespace weft::cli
