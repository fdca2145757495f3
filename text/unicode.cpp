#include "text/unicode.h"

#include <algorithm>

#include "core/error.h"
#include "core/utf8.h"
#include "text/bridge_text.h"

namespace weft::text {
namespace {

template <typename Change>
std::string changed(std::string_view utf8, Change change) {
  const std::string valid = core::replace_invalid_utf8(utf8);
  WeftText out{};
  WeftText error{};
  if (!change(valid.data(), valid.size(), &out, &error)) throw InputError("{}", take(error));
  return take(out);
}

}  // namespace

std::string lower(std::string_view utf8) { return changed(utf8, weft_unicode_lower); }

std::string compose(std::string_view utf8) { return changed(utf8, weft_unicode_nfc); }

UnicodeCategory::UnicodeCategory(std::string_view name) {
  WeftEncoding bounds{};
  WeftText error{};
  if (!weft_unicode_ranges(name.data(), name.size(), &bounds, &error))
    throw ConfigError("{}", take(error));
  bounds_.assign(bounds.ids, bounds.ids + bounds.size);
  weft_encoding_free(bounds);
}

bool UnicodeCategory::has(char32_t c) const {
  const auto after = std::ranges::upper_bound(bounds_, static_cast<std::uint32_t>(c));
  // An odd number of bounds up to c: inside a run. Its last code point belongs to it, too.
  const auto before = after - bounds_.begin();
  return before % 2 == 1 || (before > 0 && *(after - 1) == c);
}

const UnicodeCategory& letters() {
  static const UnicodeCategory category("L");
  return category;
}

const UnicodeCategory& numbers() {
  static const UnicodeCategory category("N");
  return category;
}

const UnicodeCategory& punctuation() {
  static const UnicodeCategory category("P");
  return category;
}

const UnicodeCategory& symbols() {
  static const UnicodeCategory category("S");
  return category;
}

}  // namespace weft::text
