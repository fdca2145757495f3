#pragma once

#include <string>
#include <string_view>

// What all pages of weft have in common: one look, nothing from elsewhere, no scripts.

namespace weft::eval {

/// Valid UTF-8 that shows as itself in HTML and SVG, whatever the bytes are.
[[nodiscard]] std::string escaped(std::string_view text);

/// A whole page around `body` (HTML): light and dark, for phones, screens and print. Its <h2> get
/// names, and a list of contents leads to them where there are more than two.
[[nodiscard]] std::string page(std::string_view title, std::string_view body);

/// A table whose rows become blocks on a narrow page. `rows`: "<thead>..<tbody>".
[[nodiscard]] std::string wide_table(std::string_view label, std::string_view rows);

/// A cell with a number, and the name of its column for narrow pages.
[[nodiscard]] std::string table_cell(std::string_view column, std::string_view html);

}  // namespace weft::eval
