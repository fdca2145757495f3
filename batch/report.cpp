#include "batch/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "batch/progress.h"
#include "eval/ledger/ledger.h"
#include "eval/statistics/figures.h"

namespace weft::batch {
namespace {

namespace fs = std::filesystem;

using Figures = std::vector<eval::LedgerFigure>;

/// The newest evaluation of each run by weft eval: folder -> its figures of the adapter.
std::map<std::string, Figures> figures_by_run(const fs::path& path) {
  std::map<std::string, Figures> all;
  if (!fs::exists(path)) return all;
  eval::Ledger ledger(path, eval::sqlite::Access::kRead);
  for (const eval::LedgerEntry& entry : ledger.entries()) {
    const bool is_ours =
        std::ranges::find(entry.stages, std::string("adapter")) != entry.stages.end();
    if (!is_ours || entry.circumstances.run.empty()) continue;
    Figures& figures = all[entry.circumstances.run];
    figures = ledger.figures(entry.id);
    std::erase_if(figures, [](const auto& figure) { return figure.stage != "adapter"; });
  }
  return all;
}

/// Whether the figure is one that a suite is judged by.
bool is_shown(const eval::LedgerFigure& figure, const Figures& all) {
  if (eval::is_answer_score(figure.name)) return true;
  const bool is_choice = std::ranges::any_of(all, [&](const eval::LedgerFigure& other) {
    return other.suite == figure.suite && other.name == "acc";
  });
  return figure.name == (is_choice ? "acc" : "bits_per_byte");
}

class Gatherer {
 public:
  Gatherer(const BatchFolder& folder, const fs::path& ledger)
      : folder_(folder), figures_(figures_by_run(ledger)) {}

  BatchReport gather(const std::vector<std::string>& names) {
    report_.title = folder_.path().filename().string();
    for (const std::string& name : names) add(name);
    find_columns();
    for (ReportRow& row : report_.rows) fill(row);
    mark_best();
    return std::move(report_);
  }

 private:
  void add(const std::string& name) {
    const Job job = read_job(folder_.description(name));
    const JobState state = folder_.state_now(name);
    ReportRow row{.name = name, .group = {}, .status = state.status};
    if (job.labels.size() > 1) {
      row.group = job.labels.front().second;
      if (report_.axis.empty()) report_.axis = job.labels.front().first;
    }
    row.run = folder_.run(name);
    row.log = folder_.log(name);
    row.error = state.error();
    for (const StepState& step : state.steps) {
      row.seconds += step.seconds;
      row.peak_bytes = std::max(row.peak_bytes, step.peak_bytes);
    }
    if (const auto progress = read_progress(row.run, /*whole=*/true)) {
      row.tokens = progress->tokens;
      losses_[name] = progress->validation_loss;
    }
    report_.rows.push_back(std::move(row));
  }

  void find_columns() {
    const bool has_loss =
        std::ranges::any_of(losses_, [](const auto& loss) { return loss.second.has_value(); });
    if (has_loss) report_.columns.push_back({"", "validation_loss", "validation loss"});
    for (const ReportRow& row : report_.rows) {
      const auto known = figures_.find(row.run.string());
      if (known == figures_.end()) continue;
      for (const eval::LedgerFigure& figure : known->second) {
        const bool is_there = std::ranges::any_of(report_.columns, [&](const ReportColumn& column) {
          return column.suite == figure.suite && column.figure == figure.name;
        });
        const eval::FigureKind* kind = eval::figure_kind(figure.name);
        if (is_there || kind == nullptr || !is_shown(figure, known->second)) continue;
        report_.columns.push_back({figure.suite, figure.name,
                                   fmt::format("{} {}", figure.suite, kind->title), kind->digits,
                                   kind->better});
      }
    }
  }

  void fill(ReportRow& row) {
    const auto known = figures_.find(row.run.string());
    for (const ReportColumn& column : report_.columns) {
      ReportFigure& cell = row.figures.emplace_back();
      if (column.suite.empty()) {
        const auto loss = losses_.find(row.name);
        if (loss != losses_.end()) cell.value = loss->second;
        continue;
      }
      if (known == figures_.end()) continue;
      for (const eval::LedgerFigure& figure : known->second) {
        if (figure.suite != column.suite || figure.name != column.figure) continue;
        if (std::isfinite(figure.value)) cell.value = figure.value;
        if (figure.interval) cell.interval = {figure.interval->low, figure.interval->high};
        cell.difference = figure.difference;
      }
    }
  }

  /// Where a group has more than one figure.
  void mark_best() {
    for (std::size_t c = 0; c < report_.columns.size(); ++c) {
      const int better = report_.columns[c].better;
      if (better == 0) continue;
      std::map<std::string, std::vector<ReportFigure*>> groups;
      for (ReportRow& row : report_.rows) {
        if (row.figures[c].value) groups[row.group].push_back(&row.figures[c]);
      }
      for (auto& [group, cells] : groups) {
        if (cells.size() < 2) continue;
        const auto best = std::ranges::max_element(
            cells, {}, [&](const ReportFigure* cell) { return *cell->value * better; });
        (*best)->best = true;
      }
    }
  }

  const BatchFolder& folder_;
  std::map<std::string, Figures> figures_;
  std::map<std::string, std::optional<double>> losses_;
  BatchReport report_;
};

}  // namespace

BatchReport make_report(const BatchFolder& folder, const std::vector<std::string>& jobs,
                        const fs::path& ledger) {
  return Gatherer(folder, ledger).gather(jobs);
}

}  // namespace weft::batch
