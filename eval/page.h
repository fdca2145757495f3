#pragma once

#include <string>
#include <string_view>

// What all pages of weft have in common: one look, nothing from elsewhere, no scripts.

namespace weft::eval {

/// Valid UTF-8 that shows as itself in HTML and SVG, whatever the bytes are.
[[nodiscard]] std::string escaped(std::string_view text);

/// A whole page around `body` (HTML): light and dark, for phones, screens and print.
[[nodiscard]] std::string page(std::string_view title, std::string_view body);

/// A table that is scrolled by itself where it is wider than the page. `rows`: "<thead>..<tbody>".
[[nodiscard]] std::string wide_table(std::string_view label, std::string_view rows);

}  // namespace weft::eval
