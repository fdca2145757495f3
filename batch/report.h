#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "batch/folder.h"

namespace weft::batch {

/// A figure of a job, and whether it is the best of the job's group.
struct ReportFigure {
  std::optional<double> value{};
  std::optional<std::pair<double, double>> interval{};
  std::optional<double> difference{};  ///< From the base.
  bool best = false;
};

/// What a column of figures is.
struct ReportColumn {
  std::string suite;   ///< Empty: the validation loss of training.
  std::string figure;  ///< "bits_per_byte"
  std::string title;   ///< "nah bits/byte"
  int digits = 4;
  int better = -1;  ///< 1: more is better, -1: less, 0: neither
};

struct ReportRow {
  std::string name;
  std::string group;  ///< What the job is on the first axis: its language, say.
  Status status = Status::kWaiting;
  std::vector<ReportFigure> figures{};  ///< As many as there are columns.
  std::uint64_t tokens = 0;
  double seconds = 0;
  std::uint64_t peak_bytes = 0;
  std::string error{};  ///< The last line of its log, where it failed.
  std::filesystem::path log{};
  std::filesystem::path run{};
};

/// A comparison over all jobs of a batch.
struct BatchReport {
  std::string title;
  std::string axis;  ///< By which rows are grouped; empty without a matrix.
  std::vector<ReportColumn> columns;
  std::vector<ReportRow> rows;
};

/// Gathers what is known now. `ledger`: may be missing. Figures are those of the stage "adapter" of
/// each job's newest evaluation, with the intervals that were recorded.
[[nodiscard]] BatchReport make_report(const BatchFolder& folder,
                                      const std::vector<std::string>& jobs,
                                      const std::filesystem::path& ledger);

/// For people, on a terminal or as Markdown: a table, then the best of each group and the failures.
[[nodiscard]] std::string to_text(const BatchReport& report);
[[nodiscard]] std::string to_markdown(const BatchReport& report);
/// One page (eval/report/page.h), with the curves of all runs.
[[nodiscard]] std::string to_html(const BatchReport& report);

}  // namespace weft::batch
