#include "eval/report/progress.h"

#include <fmt/format.h>

#include "core/terminal.h"
#include "core/utf8.h"

namespace weft::eval {
namespace {

std::string cut(std::string_view text, int columns) {
  std::string line;
  int width = 0;
  for (const char32_t c : core::decode_utf8(core::one_line(text))) {
    std::string character;
    core::append_utf8(character, c);
    width += core::display_width(character);
    if (width > columns) break;
    line += character;
  }
  return line;
}

}  // namespace

std::string progress_text(const Progress& p, double seconds, int columns) {
  std::string text = fmt::format("{}: {} {} {}/{}", p.stage, p.suite, p.what, p.done, p.total);
  if (p.done > 0 && seconds > 0) {
    const double rate = static_cast<double>(p.done) / seconds;
    text += fmt::format(", {:.{}f}/s", rate, rate < 10 ? 1 : 0);
    if (p.done < p.total)
      text += fmt::format(", {} left",
                          core::human_duration(static_cast<double>(p.total - p.done) / rate));
  }
  return cut(text, columns);
}

}  // namespace weft::eval
