#include <fmt/format.h>

#include <algorithm>

#include "batch/report.h"
#include "core/terminal.h"
#include "eval/report/page.h"
#include "eval/report/training_run.h"

namespace weft::batch {
namespace {

constexpr std::string_view kLegend =
    "Figures are of the adapter, with 95 % intervals where they were recorded; * is the best of "
    "its group.";

std::string cell(const ReportFigure& figure, const ReportColumn& column) {
  if (!figure.value) return "";
  std::string text = fmt::format("{:.{}f}", *figure.value, column.digits);
  if (figure.interval) {
    text += fmt::format(" [{:.{}f}, {:.{}f}]", figure.interval->first, column.digits,
                        figure.interval->second, column.digits);
  }
  return text + (figure.best ? " *" : "");
}

std::vector<std::string> header(const BatchReport& report) {
  std::vector<std::string> names{"job", "state"};
  for (const ReportColumn& column : report.columns) names.push_back(column.title);
  names.insert(names.end(), {"tokens", "time", "memory"});
  return names;
}

std::vector<std::string> cells(const BatchReport& report, const ReportRow& row) {
  std::vector<std::string> all{row.name, std::string(word(row.status))};
  for (std::size_t i = 0; i < report.columns.size(); ++i)
    all.push_back(cell(row.figures[i], report.columns[i]));
  all.push_back(row.tokens > 0 ? core::human_count(row.tokens) : "");
  all.push_back(row.seconds > 0 ? core::human_duration(row.seconds) : "");
  all.push_back(row.peak_bytes > 0 ? core::human_bytes(row.peak_bytes) : "");
  return all;
}

/// "best of nah: nah-r16 (validation loss 2.3456)", a line for each group and figure.
std::vector<std::string> best_lines(const BatchReport& report) {
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < report.columns.size(); ++i) {
    for (const ReportRow& row : report.rows) {
      if (!row.figures[i].best) continue;
      const ReportColumn& column = report.columns[i];
      lines.push_back(fmt::format(
          "best {}{}: {} ({:.{}f}{})", column.title,
          row.group.empty() ? "" : fmt::format(" of {} {}", report.axis, row.group), row.name,
          *row.figures[i].value, column.digits,
          row.figures[i].difference
              ? fmt::format(", {:+.{}f} from the base", *row.figures[i].difference, column.digits)
              : ""));
    }
  }
  return lines;
}

std::vector<std::string> failure_lines(const BatchReport& report) {
  std::vector<std::string> lines;
  for (const ReportRow& row : report.rows) {
    if (!is_failure(row.status)) continue;
    lines.push_back(
        fmt::format("{}: {}; {} ({})", row.name, word(row.status), row.error, row.log.string()));
  }
  return lines;
}

bool has_intervals(const BatchReport& report) {
  return std::ranges::any_of(report.rows, [](const ReportRow& row) {
    return std::ranges::any_of(
        row.figures, [](const ReportFigure& figure) { return figure.interval || figure.best; });
  });
}

std::string list(const std::vector<std::string>& lines, std::string_view bullet) {
  std::string text;
  for (const std::string& line : lines) text += fmt::format("{}{}\n", bullet, line);
  return text;
}

std::string escape_bars(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '|') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

std::string markdown_row(const std::vector<std::string>& all) {
  std::string line = "|";
  for (const std::string& text : all) line += fmt::format(" {} |", escape_bars(text));
  return line + "\n";
}

std::string html_list(const std::vector<std::string>& lines) {
  std::string text = "<ul>\n";
  for (const std::string& line : lines) text += fmt::format("<li>{}</li>\n", eval::escaped(line));
  return text + "</ul>\n";
}

std::string html_table(const BatchReport& report) {
  const std::vector<std::string> names = header(report);
  std::string rows = "<thead><tr>";
  for (std::size_t i = 0; i < names.size(); ++i) {
    rows += fmt::format("<th scope=\"col\"{}>{}</th>", i < 2 ? "" : " class=\"number\"",
                        eval::escaped(names[i]));
  }
  rows += "</tr></thead><tbody>\n";
  for (const ReportRow& row : report.rows) {
    const std::vector<std::string> all = cells(report, row);
    rows += fmt::format("<tr><th scope=\"row\">{}</th><td>{}</td>", eval::escaped(all[0]),
                        eval::escaped(all[1]));
    for (std::size_t i = 2; i < all.size(); ++i)
      rows += eval::table_cell(names[i], eval::escaped(all[i]));
    rows += "</tr>\n";
  }
  return eval::wide_table("jobs side by side", rows + "</tbody>");
}

}  // namespace

std::string to_text(const BatchReport& report) {
  core::Table table(header(report));
  for (const ReportRow& row : report.rows) table.add(cells(report, row));
  std::string text = table.text();
  if (has_intervals(report)) text += fmt::format("{}\n", kLegend);
  const std::string best = list(best_lines(report), "");
  const std::string failures = list(failure_lines(report), "  ");
  if (!best.empty()) text += "\n" + best;
  if (!failures.empty()) text += "\nnot done:\n" + failures;
  return text;
}

std::string to_markdown(const BatchReport& report) {
  std::string text = fmt::format("## {}\n\n", report.title) + markdown_row(header(report)) + "|";
  for (std::size_t i = 0; i < header(report).size(); ++i) text += i < 2 ? " --- |" : " ---: |";
  text += "\n";
  for (const ReportRow& row : report.rows) text += markdown_row(cells(report, row));
  if (has_intervals(report)) text += fmt::format("\n{}\n", escape_bars(kLegend));
  const std::string best = list(best_lines(report), "- ");
  const std::string failures = list(failure_lines(report), "- ");
  if (!best.empty()) text += "\n### Best\n\n" + best;
  if (!failures.empty()) text += "\n### Not done\n\n" + failures;
  return text;
}

std::string to_html(const BatchReport& report) {
  std::string body = "<section><h2>Jobs</h2>\n" + html_table(report);
  if (has_intervals(report))
    body += fmt::format("<p class=\"soft\">{}</p>\n", eval::escaped(kLegend));
  if (const auto lines = best_lines(report); !lines.empty())
    body += "<h3>Best</h3>\n" + html_list(lines);
  if (const auto lines = failure_lines(report); !lines.empty())
    body += "<h3>Not done</h3>\n" + html_list(lines);
  body += "</section>\n";
  std::vector<eval::TrainingRun> runs;
  for (const ReportRow& row : report.rows) {
    if (!eval::is_training_run(row.run)) continue;
    runs.push_back(eval::read_training_run(row.run, row.name));
  }
  return eval::page(report.title, body + eval::training_section(runs));
}

}  // namespace weft::batch
