#include "train/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "core/terminal.h"

namespace weft::train {
namespace {

constexpr int kBarWidth = 20;

double share(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

std::string bar(double done) {
  const int filled = std::clamp(static_cast<int>(done * kBarWidth), 0, kBarWidth);
  std::string text;
  for (int i = 0; i < kBarWidth; ++i) text += i < filled ? "█" : "░";
  return text;
}

}  // namespace

std::string progress_bar(const UpdateReport& report, int columns) {
  const double done = share(static_cast<std::uint64_t>(report.update),
                            static_cast<std::uint64_t>(report.total_updates));
  const std::vector<std::string> fields{
      fmt::format("{}/{}", report.update, report.total_updates),
      fmt::format("loss {:.4f}", report.loss),
      fmt::format("{:.0f} tok/s", report.tokens_per_second),
      fmt::format("{} left", core::human_duration(report.remaining_seconds)),
      fmt::format("{:.0f} % supervised", 100 * share(report.supervised_tokens, report.tokens)),
      core::human_bytes(report.resident_bytes),
  };
  std::string text = bar(done);
  for (const std::string& field : fields) {
    const std::string longer =
        text + (text.ends_with("░") || text.ends_with("█") ? " " : " · ") + field;
    if (core::display_width(longer) > columns) break;
    text = longer;
  }
  return core::display_width(text) > columns ? fields.front() : text;
}

std::string progress_line(const UpdateReport& report) {
  return fmt::format(
      "update {}/{}  epoch {:.2f}  loss {:.4f}  rate {:.2e}  norm {:.3f}  {:.0f} tok/s  {:.0f} % "
      "supervised  {}  {} left",
      report.update, report.total_updates, report.epoch, report.loss, report.learning_rate,
      report.gradient_norm, report.tokens_per_second,
      100 * share(report.supervised_tokens, report.tokens),
      core::human_bytes(report.resident_bytes), core::human_duration(report.remaining_seconds));
}

std::string progress_line(const EvaluationReport& report) {
  return fmt::format("update {}  validation loss {:.4f}{}  ({} tokens, {})", report.update,
                     report.loss, report.best ? ", the best so far" : "",
                     core::human_count(report.tokens), core::human_duration(report.seconds));
}

std::string progress_line(const SuitesReport& report) {
  std::string figures;
  for (const SuiteFigure& figure : report.figures) {
    if (!figure.is_main) continue;
    figures += fmt::format("  {} {} {:.4f}", figure.suite, figure.name, figure.value);
  }
  return fmt::format("update {}{}{}  ({})", report.update, figures,
                     report.best ? ", the best so far" : "", core::human_duration(report.seconds));
}

}  // namespace weft::train
