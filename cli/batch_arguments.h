#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cli/command.h"

namespace weft::cli {

struct BatchArguments {
  std::string file, folder, name, html;
  std::string slurm_task;  ///< "17_3"
  std::vector<std::string> only;
  bool check = false, dry_run = false, retry_failed = false, slurm = false;
  bool markdown = false, force = false, json = false;
  int lines = 40;
};

/// Whether a job is meant by one of the patterns ("nah-*"); without any, every job is.
[[nodiscard]] bool matches(const std::vector<std::string>& patterns, const std::string& name);
/// ConfigError when a pattern means no job.
void require_match(const std::vector<std::string>& patterns, const std::vector<std::string>& names);

/// Declares status, logs, cancel and report, which need no LibTorch (batch_report.cpp).
void add_batch_questions(CommandLine& app, const std::shared_ptr<BatchArguments>& arguments,
                         const std::shared_ptr<Run>& chosen);

}  // namespace weft::cli
