#include "eval/report/page.h"

#include <fmt/format.h>

#include "core/utf8.h"

namespace weft::eval {
namespace {

constexpr std::string_view kStyle = R"(
:root { color-scheme: light dark; --ink: #1c2024; --soft: #59636e; --line: #c9d1d9; --page: #ffffff;
  --mark: #0b6e4f; --new: #fde9c8; --good: #0b6e4f; --bad: #b42318;
  --s0: #0b6e4f; --s1: #a8480c; --s2: #2b5fb8; --s3: #7d3c98; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #a5b1bd; --line: #3d464f;
  --page: #14181d; --mark: #5fd0a5; --new: #5a4312; --good: #5fd0a5; --bad: #ff8f85;
  --s0: #5fd0a5; --s1: #f0a35e; --s2: #8fb8ff; --s3: #d7a6ee; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; } h3 { font-size: 1rem; }
.soft { color: var(--soft); } .good { color: var(--good); } .bad { color: var(--bad); }
.wide { overflow-x: auto; }
nav { font-size: .9rem; } nav ul { columns: 14rem; padding-inline-start: 1.2rem; margin: .3rem 0; }
nav a { color: inherit; }
.headline { border: 1px solid var(--line); border-radius: .5rem; padding: .2rem 1rem .6rem; margin: 1rem 0; }
.verdict { font-size: 1.1rem; font-weight: 600; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: start; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: normal; vertical-align: top; }
td .soft { font-size: .85em; }
td.number, th.number { text-align: end; white-space: nowrap; }
ul.said { padding-inline-start: 1.2rem; } .lines { white-space: pre-line; }
figure { margin: 1rem 0; }
.rung { display: grid; grid-template-columns: 9rem 1fr 5rem; gap: .8rem; align-items: center; }
.rung svg { width: 100%; height: 1.6rem; display: block; }
.ticks { position: relative; height: 1.2rem; font-size: .75rem; color: var(--soft); grid-column: 2;
  font-variant-numeric: tabular-nums; border-top: 1px solid var(--soft); }
.ticks span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.ticks span:first-child { transform: none; } .ticks span:last-child { transform: translateX(-100%); }
.rung b { text-align: end; font-variant-numeric: tabular-nums; }
@media (max-width: 34rem) { .rung { grid-template-columns: 1fr 5rem; }
  .rung svg { grid-column: 1 / -1; grid-row: 2; } .ticks { grid-column: 1 / -1; } }
/* On a narrow page a row is a block of its own, each cell beside the name of its column. */
@media (max-width: 44rem) { table, tbody, tr, td, th[scope="row"] { display: block; width: 100%; }
  thead { display: none; } tr { border-bottom: 1px solid var(--line); padding: .5rem 0; }
  th, td { border: 0; padding: .1rem 0; } td.number { white-space: normal; }
  td[data-label] { display: grid; grid-template-columns: 9rem 1fr; gap: .8rem; text-align: start; }
  td[data-label]::before { content: attr(data-label); color: var(--soft); } }
.plot { display: grid; grid-template-columns: auto 1fr; gap: .3rem .5rem; font-size: .8rem;
  color: var(--soft); font-variant-numeric: tabular-nums; margin-top: .9rem; white-space: nowrap; }
.xl { grid-column: 2; text-align: end; }
.plot > svg { width: 100%; height: 14rem; display: block; overflow: visible; }
.ys { position: relative; min-width: 3.2rem; } .xs { position: relative; height: 1.3rem; grid-column: 2; }
.ys span { position: absolute; right: 0; transform: translateY(-50%); }
.xs span { position: absolute; transform: translateX(-50%); }
.xs span:last-child { transform: translateX(-100%); } .xs span:first-child { transform: none; }
.keys { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: .3rem 0; padding: 0;
  list-style: none; font-size: .85rem; }
.keys svg { width: 1.8rem; height: .8rem; margin-inline-end: .4rem; vertical-align: middle; }
.grid { stroke: var(--line); stroke-width: 1; } .axis { stroke: var(--soft); stroke-width: 1; }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
.dot { stroke-width: 8; stroke-linecap: round; } .spread { stroke-width: 2; opacity: .55; }
.s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); stroke-dasharray: 7 3; }
.s2 { stroke: var(--s2); stroke-dasharray: 2 3; } .s3 { stroke: var(--s3); stroke-dasharray: 9 3 2 3; }
.dot, .spread { stroke-dasharray: none; }
svg line, svg polyline { vector-effect: non-scaling-stroke; }
.track { stroke: var(--line); stroke-width: 1; } .range { stroke: var(--mark); stroke-width: 3; }
.value { stroke: var(--ink); stroke-width: 4; }
dl { display: grid; grid-template-columns: 9rem 1fr; gap: .25rem .8rem; margin: 1rem 0 1.5rem;
  padding-bottom: 1rem; border-bottom: 1px solid var(--line); break-inside: avoid; }
dt { color: var(--soft); } dd { margin: 0; white-space: pre-wrap; }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; } }
mark { background: var(--new); color: inherit; border-bottom: 2px dotted currentColor; }
@media print { body { max-width: none; } h2 { break-after: avoid; } .wide { overflow: visible; } }
)";

}  // namespace

std::string escaped(std::string_view text) {
  std::string result;
  for (const char32_t c : core::decode_utf8(text)) {
    switch (c) {
      case '&': result += "&amp;"; break;
      case '<': result += "&lt;"; break;
      case '>': result += "&gt;"; break;
      case '"': result += "&quot;"; break;
      case '\n':
      case '\t': result += static_cast<char>(c); break;
      default:
        // HTML has no other control characters.
        core::append_utf8(result, c < 0x20 || (c >= 0x7F && c < 0xA0) ? char32_t{0xFFFD} : c);
    }
  }
  return result;
}

std::string page(std::string_view title, std::string_view body) {
  // Headings get names, and the contents of the page lead to them.
  constexpr std::string_view kOpen = "<h2>", kClose = "</h2>";
  std::string named, contents;
  std::size_t at = 0, count = 0;
  for (std::size_t found = body.find(kOpen); found != std::string_view::npos;
       found = body.find(kOpen, at)) {
    const std::size_t text = found + kOpen.size(), end = body.find(kClose, text);
    named += body.substr(at, found - at);
    named += fmt::format("<h2 id=\"s{}\">", ++count);
    contents +=
        fmt::format("<li><a href=\"#s{}\">{}</a></li>\n", count, body.substr(text, end - text));
    at = text;
  }
  named += body.substr(at);
  if (count > 2) contents = "<nav aria-label=\"contents\"><ul>\n" + contents + "</ul></nav>\n";
  if (count <= 2) contents.clear();
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" "
      "content=\"width=device-width, initial-scale=1\">\n<title>{0}</title>\n<style>{1}</style>"
      "</head>\n<body><main>\n<h1>{0}</h1>\n{3}{2}</main></body></html>\n",
      escaped(title), kStyle, named, contents);
}

std::string wide_table(std::string_view label, std::string_view rows) {
  return fmt::format(
      "<div class=\"wide\" tabindex=\"0\" role=\"region\" "
      "aria-label=\"{}\"><table>{}</table></div>\n",
      escaped(label), rows);
}

std::string table_cell(std::string_view column, std::string_view html) {
  return fmt::format("<td class=\"number\" data-label=\"{}\"><span>{}</span></td>", escaped(column),
                     html);
}

}  // namespace weft::eval
