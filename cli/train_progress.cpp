#include "cli/train_progress.h"

#include <fmt/format.h>

#include <cstdio>

#include "core/terminal.h"
#include "train/progress.h"

namespace weft::cli {

TrainProgress::TrainProgress(std::int64_t log_every)
    : log_every_(log_every), is_terminal_(core::stderr_is_terminal()) {}

TrainProgress::~TrainProgress() { clear(); }

void TrainProgress::clear() {
  if (!bar_shown_) return;
  fmt::print(stderr, "\n");
  bar_shown_ = false;
}

void TrainProgress::on_update(const train::UpdateReport& report) {
  if (is_terminal_) {
    // Erase the line, then write it: a shorter text leaves no rest of a longer one.
    fmt::print(stderr, "\r\x1b[2K{}", train::progress_bar(report, core::terminal_columns() - 1));
    bar_shown_ = true;
  } else if (report.update % log_every_ == 0 || report.update == report.total_updates) {
    fmt::print(stderr, "{}\n", train::progress_line(report));
  }
  std::fflush(stderr);
}

void TrainProgress::on_evaluation(const train::EvaluationReport& report) {
  if (bar_shown_) fmt::print(stderr, "\r\x1b[2K");
  bar_shown_ = false;
  fmt::print(stderr, "{}\n", train::progress_line(report));
}

}  // namespace weft::cli
