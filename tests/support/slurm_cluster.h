#pragma once

#include <chrono>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>

#include "tests/support/process.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"

namespace weft::tests {

/// A Slurm of two nodes for as long as the object lives (tests/slurm/cluster).
class SlurmCluster {
 public:
  SlurmCluster() {
    ::setenv("SLURM_CONF", (folder_ / "slurm.conf").c_str(), 1);
    const Finished started = cluster({"start", folder_.path().string(), "2"});
    if (started.status != 0) problem_ = started.err.empty() ? "no cluster" : started.err;
  }
  ~SlurmCluster() {
    if (problem_.empty()) (void)cluster({"stop", folder_.path().string()});
    ::unsetenv("SLURM_CONF");
  }
  SlurmCluster(const SlurmCluster&) = delete;
  SlurmCluster& operator=(const SlurmCluster&) = delete;

  /// Why there is none; empty: it runs.
  [[nodiscard]] const std::string& problem() const { return problem_; }
  [[nodiscard]] pid_t pid_of(const std::string& daemon) const {
    return static_cast<pid_t>(std::stol(slurp(folder_ / ("run/" + daemon + ".pid"))));
  }
  void start_node(const std::string& name) const {
    (void)cluster({"node", folder_.path().string(), name});
  }
  static void start_controller() { (void)run_process({"/usr/sbin/slurmctld"}); }

 private:
  static Finished cluster(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), (source_dir() / "tests/slurm/cluster").string());
    return run_process(arguments);
  }

  TempDir folder_;
  std::string problem_;
};

/// Waits until `reached` holds; false after `seconds`.
inline bool wait_for(const std::function<bool()>& reached, int seconds = 90) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  while (std::chrono::steady_clock::now() < until) {
    if (reached()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return reached();
}

}  // namespace weft::tests
