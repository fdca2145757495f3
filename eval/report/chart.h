#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "eval/statistics/bootstrap.h"

namespace weft::eval {

/// A value over x, and how sure it is.
struct ChartPoint {
  double x = 0;
  double y = 0;
  std::optional<Interval> interval{};
};

struct ChartSeries {
  std::string name;
  std::vector<ChartPoint> points;  ///< By ascending x; those that are not finite are left out.
  bool dots = false;               ///< Mark each point, for series of few.
};

struct ChartText {
  std::string title;    ///< Also what a screen reader says.
  std::string x_label;  ///< "updates"
  std::string note{};   ///< Below the title: what is drawn, what is better.
};

/// A range of numbers with round ends.
struct Axis {
  std::vector<double> ticks;  ///< axis_ticks()
  [[nodiscard]] double low() const { return ticks.front(); }
  [[nodiscard]] double high() const { return ticks.back(); }
  /// From 0 to 1 within the axis.
  [[nodiscard]] double place(double value) const { return (value - low()) / (high() - low()); }
  /// A tick's number with as many digits as its distance from the next needs.
  [[nodiscard]] std::string label(double tick) const;
};

/// Round numbers that cover [low, high]: 1, 2 or 5 times a power of ten apart, about `count` + 1.
[[nodiscard]] std::vector<double> axis_ticks(double low, double high, int count);

/// A line chart as an HTML figure: the drawing is stretched to the page's width, the labels are
/// text of the page, so that it can be read on a phone. Colours are those of the page's style
/// (eval/report/page.h). Empty without a finite point. Text is escaped.
[[nodiscard]] std::string html_chart(std::span<const ChartSeries> series, const ChartText& text);

/// The same as a file of its own, 720 by 400, light or dark as the reader prefers.
[[nodiscard]] std::string svg_chart(std::span<const ChartSeries> series, const ChartText& text);

}  // namespace weft::eval
