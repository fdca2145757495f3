#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "batch/local.h"

namespace weft::cli {

/// Shows a batch on standard error: on a terminal a table of the jobs that run, redrawn in its
/// place, otherwise lines. What happens to a job is a line of its own either way.
class BatchView : public batch::Watcher {
 public:
  explicit BatchView(const batch::BatchFolder& folder);
  ~BatchView() override;

  void on_change(const batch::JobView& job, const std::string& what) override;
  void on_tick(const std::vector<batch::JobView>& jobs) override;

 private:
  void clear();
  [[nodiscard]] std::string table(const std::vector<batch::JobView>& jobs) const;
  void tell_progress(const std::vector<batch::JobView>& jobs);

  const batch::BatchFolder& folder_;
  bool is_terminal_;
  int lines_shown_ = 0;
  std::chrono::steady_clock::time_point told_;
};

/// How all jobs stand, as a table: job, state, step, progress, loss, rate, time left.
[[nodiscard]] std::string status_table(const batch::BatchFolder& folder,
                                       const std::vector<batch::JobView>& jobs);

/// "5 done, 1 failed, 2 waiting".
[[nodiscard]] std::string count_of(const std::vector<batch::JobView>& jobs);

}  // namespace weft::cli
