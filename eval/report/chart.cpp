#include "eval/report/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "eval/report/page.h"

namespace weft::eval {
namespace {

constexpr std::size_t kColours = 4;  // s0 .. s3 of the style, told apart by their dashes, too

struct Axes {
  Axis x, y;
};

bool is_finite(const ChartPoint& point) { return std::isfinite(point.x) && std::isfinite(point.y); }

std::optional<Axes> axes_of(std::span<const ChartSeries> series) {
  constexpr double kNone = std::numeric_limits<double>::infinity();
  double x_low = kNone, x_high = -kNone, y_low = kNone, y_high = -kNone;
  for (const ChartSeries& one : series) {
    for (const ChartPoint& point : one.points) {
      if (!is_finite(point)) continue;
      const Interval range = point.interval.value_or(Interval{point.y, point.y});
      x_low = std::min(x_low, point.x);
      x_high = std::max(x_high, point.x);
      y_low = std::min({y_low, range.low, point.y});
      y_high = std::max({y_high, range.high, point.y});
    }
  }
  if (!std::isfinite(x_low) || !std::isfinite(y_low) || !std::isfinite(y_high)) return std::nullopt;
  return Axes{{axis_ticks(x_low, x_high, 6)}, {axis_ticks(y_low, y_high, 4)}};
}

/// Curves, dots and intervals in a box of `width` by `height`, without words.
std::string drawing(std::span<const ChartSeries> series, const Axes& axes, double width,
                    double height) {
  const auto x = [&](double value) { return width * axes.x.place(value); };
  const auto y = [&](double value) { return height * (1 - axes.y.place(value)); };
  std::string text;
  for (const double tick : axes.y.ticks) {
    text += fmt::format("<line class=\"{}\" x1=\"0\" x2=\"{}\" y1=\"{:.2f}\" y2=\"{:.2f}\"/>",
                        tick == axes.y.low() ? "axis" : "grid", width, y(tick), y(tick));
  }
  for (std::size_t i = 0; i < series.size(); ++i) {
    std::string curve, marks;
    for (const ChartPoint& point : series[i].points) {
      if (!is_finite(point)) continue;
      curve += fmt::format("{:.2f},{:.2f} ", x(point.x), y(point.y));
      const auto mark = [&](const char* kind, double from, double to) {
        marks += fmt::format(
            "<line class=\"{} s{}\" x1=\"{:.2f}\" x2=\"{:.2f}\" y1=\"{:.2f}\" y2=\"{:.2f}\"/>",
            kind, i % kColours, x(point.x), x(point.x), y(from), y(to));
      };
      if (point.interval) mark("spread", point.interval->low, point.interval->high);
      if (series[i].dots) mark("dot", point.y, point.y);
    }
    text +=
        fmt::format("<polyline class=\"curve s{}\" points=\"{}\"/>{}", i % kColours, curve, marks);
  }
  return text;
}

/// What the chart shows, for those who cannot see it.
std::string description(std::span<const ChartSeries> series, const ChartText& text) {
  std::string words = text.title;
  for (const ChartSeries& one : series) {
    if (one.points.empty()) continue;
    words += fmt::format("; {}: from {:.4g} at {:g} to {:.4g} at {:g} {}", one.name,
                         one.points.front().y, one.points.front().x, one.points.back().y,
                         one.points.back().x, text.x_label);
  }
  return words;
}

std::string keys(std::span<const ChartSeries> series) {
  std::string text = "<ul class=\"keys\">";
  for (std::size_t i = 0; i < series.size(); ++i) {
    text += fmt::format(
        "<li><svg viewBox=\"0 0 28 10\" aria-hidden=\"true\"><line class=\"curve s{}\" x1=\"0\" "
        "x2=\"28\" y1=\"5\" y2=\"5\"/></svg>{}</li>",
        i % kColours, escaped(series[i].name));
  }
  return text + "</ul>\n";
}

}  // namespace

std::string Axis::label(double tick) const {
  const double step = ticks.at(1) - ticks.at(0);
  if (std::abs(high()) >= 1e6 || step < 1e-5) return fmt::format("{:.3g}", tick);
  const int digits = std::max(0, static_cast<int>(std::ceil(-std::log10(step) - 1e-9)));
  return fmt::format("{:.{}f}", tick == 0 ? 0.0 : tick, digits);
}

std::vector<double> axis_ticks(double low, double high, int count) {
  if (high - low < 1e-9 * std::max(std::abs(low), std::abs(high)) || high <= low) {
    const double room = low == 0 ? 1 : std::abs(low) * 0.01;
    low -= room;
    high += room;
  }
  const double raw = (high - low) / std::max(count, 1);
  const double power = std::pow(10, std::floor(std::log10(raw)));
  double step = 10 * power;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= raw * 0.999) {
      step = factor * power;
      break;
    }
  }
  const double first = std::floor(low / step + 1e-9);
  const double last = std::ceil(high / step - 1e-9);
  std::vector<double> ticks;
  for (double i = first; i <= last; ++i) ticks.push_back(i * step);
  return ticks;
}

std::string html_chart(std::span<const ChartSeries> series, const ChartText& words) {
  const auto axes = axes_of(series);
  if (!axes) return {};
  std::string text = fmt::format(
      "<figure><figcaption>{}{}</figcaption>\n", escaped(words.title),
      words.note.empty() ? std::string()
                         : fmt::format(" <span class=\"soft\">{}</span>", escaped(words.note)));
  if (series.size() > 1) text += keys(series);
  text += "<div class=\"plot\"><div class=\"ys\" aria-hidden=\"true\">";
  for (const double tick : axes->y.ticks) {
    text += fmt::format("<span style=\"top:{:.2f}%\">{}</span>", 100 * (1 - axes->y.place(tick)),
                        axes->y.label(tick));
  }
  text += fmt::format(
      "</div><svg viewBox=\"0 0 1000 300\" preserveAspectRatio=\"none\" role=\"img\" "
      "aria-label=\"{}\">{}</svg><div class=\"xs\" aria-hidden=\"true\">",
      escaped(description(series, words)), drawing(series, *axes, 1000, 300));
  for (const double tick : axes->x.ticks) {
    text += fmt::format("<span style=\"left:{:.2f}%\">{}</span>", 100 * axes->x.place(tick),
                        axes->x.label(tick));
  }
  return text +
         fmt::format("</div><div class=\"xl\">{}</div></div></figure>\n", escaped(words.x_label));
}

std::string svg_chart(std::span<const ChartSeries> series, const ChartText& words) {
  const auto axes = axes_of(series);
  if (!axes) return {};
  constexpr double kLeft = 70, kTop = 64, kWidth = 620, kHeight = 280;
  std::string text = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 400\" role=\"img\">"
      "<title>{}</title><style>svg {{ --ink: #1c2024; --soft: #59636e; --line: #c9d1d9; --page: "
      "#ffffff; --s0: #0b6e4f; --s1: #a8480c; --s2: #2b5fb8; --s3: #7d3c98; font: 13px system-ui, "
      "sans-serif; }} @media (prefers-color-scheme: dark) {{ svg {{ --ink: #e6edf3; --soft: "
      "#a5b1bd; "
      "--line: #3d464f; --page: #14181d; --s0: #5fd0a5; --s1: #f0a35e; --s2: #8fb8ff; --s3: "
      "#d7a6ee; "
      "}} }} text {{ fill: var(--soft); }} .title {{ fill: var(--ink); font-size: 16px; }} .grid "
      "{{ "
      "stroke: var(--line); }} .axis {{ stroke: var(--soft); }} .curve {{ fill: none; "
      "stroke-width: "
      "2; }} .dot {{ stroke-width: 8; stroke-linecap: round; }} .spread {{ stroke-width: 2; "
      "opacity: "
      ".55; }} .s0 {{ stroke: var(--s0); }} .s1 {{ stroke: var(--s1); }} .s2 {{ stroke: var(--s2); "
      "}} "
      ".s3 {{ stroke: var(--s3); }}</style><rect width=\"720\" height=\"400\" "
      "style=\"fill:var(--page)\"/><text class=\"title\" x=\"16\" y=\"26\">{}</text><text x=\"16\" "
      "y=\"46\">{}</text>\n",
      escaped(description(series, words)), escaped(words.title), escaped(words.note));
  for (const double tick : axes->y.ticks) {
    text += fmt::format("<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>", kLeft - 8,
                        kTop + kHeight * (1 - axes->y.place(tick)) + 4, axes->y.label(tick));
  }
  for (const double tick : axes->x.ticks) {
    text +=
        fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                    kLeft + kWidth * axes->x.place(tick), kTop + kHeight + 20, axes->x.label(tick));
  }
  text += fmt::format(
      "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n<g transform=\"translate({} {})\">{}"
      "</g>\n",
      kLeft + kWidth, kTop + kHeight + 40, escaped(words.x_label), kLeft, kTop,
      drawing(series, *axes, kWidth, kHeight));
  double place = kLeft;
  for (std::size_t i = 0; series.size() > 1 && i < series.size(); ++i) {
    text += fmt::format(
        "<line class=\"curve s{}\" x1=\"{}\" x2=\"{}\" y1=\"378\" y2=\"378\"/><text x=\"{}\" "
        "y=\"382\">{}</text>",
        i % kColours, place, place + 24, place + 30, escaped(series[i].name));
    place += 50 + 7.5 * static_cast<double>(series[i].name.size());
  }
  return text + "</svg>\n";
}

}  // namespace weft::eval
