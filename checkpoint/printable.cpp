#include "checkpoint/printable.h"

#include <fmt/format.h>

#include <iterator>

#include "core/utf8.h"

namespace weft::checkpoint {
std::string printable(std::string_view name) {
  static constexpr std::size_t kLongest = 120;
  std::string text = "'";
  while (!name.empty() && text.size() < kLongest) {
    const auto lead = static_cast<unsigned char>(name[0]);
    const auto [length, is_well_formed] = core::first_character(name);
    // C1 controls (U+0080 to U+009F) reach terminals as the two bytes c2 80 .. c2 9f.
    const bool control =
        lead < 0x20 || lead == 0x7f ||
        (lead == 0xc2 && length == 2 && static_cast<unsigned char>(name[1]) < 0xa0);
    if (!is_well_formed || control) {
      fmt::format_to(std::back_inserter(text), "\\x{:02x}", lead);
      name.remove_prefix(1);
    } else {
      text += name.substr(0, length);
      name.remove_prefix(length);
    }
  }
  return text + (name.empty() ? "'" : "...'");
}

std::string shape_text(std::span<const std::int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

}  // namespace weft::checkpoint
