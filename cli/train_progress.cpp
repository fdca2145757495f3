#include "cli/train_progress.h"

#include "cli/output.h"
#include "core/terminal.h"
#include "train/progress.h"

namespace weft::cli {

TrainProgress::TrainProgress() : is_terminal_(core::stderr_is_terminal()) {}

TrainProgress::~TrainProgress() { clear(); }

void TrainProgress::clear() {
  if (!bar_shown_) return;
  tell("\n");
  bar_shown_ = false;
}

TrainProgress::OfRun::OfRun(TrainProgress& shown, const std::string& name, std::int64_t log_every)
    : shown_(shown), prefix_(name.empty() ? "" : name + "  "), log_every_(log_every) {}

void TrainProgress::OfRun::on_update(const train::UpdateReport& report) {
  if (shown_.is_terminal_) {
    const int columns = core::terminal_columns() - 1 - core::display_width(prefix_);
    // Erase the line, then write it: a shorter text leaves no rest of a longer one.
    tell("\r\x1b[2K{}{}", prefix_, train::progress_bar(report, columns));
    shown_.bar_shown_ = true;
  } else if (report.update % log_every_ == 0 || report.update == report.total_updates) {
    tell("{}{}\n", prefix_, train::progress_line(report));
  }
}

void TrainProgress::OfRun::on_evaluation(const train::EvaluationReport& report) {
  show(train::progress_line(report));
}

void TrainProgress::OfRun::on_suites(const train::SuitesReport& report) {
  show(train::progress_line(report));
}

void TrainProgress::OfRun::show(const std::string& line) {
  if (shown_.bar_shown_) tell("\r\x1b[2K");
  shown_.bar_shown_ = false;
  tell("{}{}\n", prefix_, line);
}

}  // namespace weft::cli
