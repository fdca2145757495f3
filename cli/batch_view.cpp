#include "cli/batch_view.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "batch/progress.h"
#include "cli/output.h"
#include "core/terminal.h"

namespace weft::cli {
namespace {

using batch::JobView;
using batch::Status;
using Clock = std::chrono::steady_clock;

/// Without a terminal the jobs that run are told of as often.
constexpr std::chrono::seconds kBetweenLines{60};
constexpr std::size_t kMostRows = 12;

struct Cells {
  std::string progress, loss, rate, left;
};

Cells cells_of(const batch::BatchFolder& folder, const JobView& view) {
  Cells cells;
  if (view.step != "train") return cells;
  auto progress = batch::read_progress(folder.run(view.job->name));
  if (!progress) return cells;
  progress->total_updates = view.job->updates;
  cells.progress = fmt::format("{}/{}", progress->update, view.job->updates);
  cells.loss = fmt::format("{:.4f}", progress->loss);
  cells.rate = fmt::format("{:.0f}", progress->tokens_per_second);
  if (const auto left = progress->remaining_seconds()) cells.left = core::human_duration(*left);
  return cells;
}

std::string state_of(const JobView& view) {
  if (view.reused) return "done before";
  if (view.left_alone && !batch::is_failure(view.status)) return "left out";
  return std::string(batch::word(view.status));
}

std::string cut(const std::string& text, int columns) {
  std::string kept;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = at + 1;
    while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) ++end;
    const std::string more = kept + text.substr(at, end - at);
    if (core::display_width(more) > columns) break;
    kept = more;
    at = end;
  }
  return kept;
}

}  // namespace

BatchView::BatchView(const batch::BatchFolder& folder)
    : folder_(folder), is_terminal_(core::stderr_is_terminal()), told_(Clock::now()) {}

BatchView::~BatchView() { clear(); }

void BatchView::clear() {
  // Up to the first line of the table, and everything below erased.
  if (lines_shown_ > 0) tell("\x1b[{}A\r\x1b[J", lines_shown_);
  lines_shown_ = 0;
}

void BatchView::on_change(const JobView& job, const std::string& what) {
  clear();
  std::string where;
  if (batch::is_failure(job.status) && !job.left_alone) {
    where = fmt::format("; see {}", folder_.log(job.job->name).string());
  }
  const std::string state = job.status == Status::kWaiting || job.status == Status::kRunning
                                ? ""
                                : fmt::format("{}: ", batch::word(job.status));
  tell("{}  {}{}{}\n", job.job->name, what == batch::word(job.status) ? "" : state, what, where);
}

std::string BatchView::table(const std::vector<JobView>& jobs) const {
  core::Table table({"job", "step", "updates", "loss", "tokens/s", "left"});
  std::size_t rows = 0;
  for (const JobView& view : jobs) {
    if (view.status != Status::kRunning || rows++ >= kMostRows) continue;
    const Cells cells = cells_of(folder_, view);
    table.add({view.job->name, view.step, cells.progress, cells.loss, cells.rate, cells.left});
  }
  return rows == 0 ? "" : table.text();
}

void BatchView::on_tick(const std::vector<JobView>& jobs) {
  if (!is_terminal_) {
    if (Clock::now() - told_ >= kBetweenLines) tell_progress(jobs);
    return;
  }
  const std::string text = table(jobs) + count_of(jobs) + "\n";
  const int columns = core::terminal_columns() - 1;
  std::string shown;
  int lines = 0;
  for (std::size_t at = 0; at < text.size(); ++lines) {
    const std::size_t end = text.find('\n', at);
    shown += cut(text.substr(at, end - at), columns) + "\n";
    at = end + 1;
  }
  clear();
  tell("{}", shown);
  lines_shown_ = lines;
}

void BatchView::tell_progress(const std::vector<JobView>& jobs) {
  told_ = Clock::now();
  for (const JobView& view : jobs) {
    if (view.status != Status::kRunning) continue;
    const Cells cells = cells_of(folder_, view);
    tell("{}  {}{}\n", view.job->name, view.step,
         cells.progress.empty() ? ""
                                : fmt::format(", update {}, loss {}, {} tokens/s, {} left",
                                              cells.progress, cells.loss, cells.rate, cells.left));
  }
}

std::string status_table(const batch::BatchFolder& folder, const std::vector<JobView>& jobs) {
  core::Table table({"job", "state", "step", "updates", "loss", "tokens/s", "left"});
  for (const JobView& view : jobs) {
    const Cells cells = cells_of(folder, view);
    const bool runs = view.status == Status::kRunning;
    table.add({view.job->name, state_of(view), view.step, cells.progress, cells.loss,
               runs ? cells.rate : "", runs ? cells.left : ""});
  }
  return table.text();
}

std::string count_of(const std::vector<JobView>& jobs) {
  std::vector<std::pair<std::string, int>> counts;
  for (const JobView& view : jobs) {
    const std::string state = state_of(view);
    const auto found = std::ranges::find(counts, state, &std::pair<std::string, int>::first);
    if (found == counts.end())
      counts.emplace_back(state, 1);
    else
      ++found->second;
  }
  std::vector<std::string> words;
  for (const auto& [state, count] : counts) words.push_back(fmt::format("{} {}", count, state));
  return fmt::format("{}", fmt::join(words, ", "));
}

}  // namespace weft::cli
