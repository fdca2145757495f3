#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/process.h"
#include "tests/train/tiny_job.h"

namespace weft::tests {

/// A TinyJob that `weft train` runs, in a process of its own.
class TrainCommand : public ::testing::Test {
 protected:
  void write_config(const std::string& changes) {
    job_.folder().write("tiny.yaml", job_.yaml(changes));
  }

  /// quiz.jsonl: so many questions of three choices.
  void write_quiz(int questions) {
    std::string lines;
    for (int i = 0; i < questions; ++i) {
      lines += nlohmann::json{{"context", "say " + std::to_string(i) + ":"},
                              {"choices", {"atl", "tonatiuh", "zzz"}},
                              {"answer", i % 3}}
                   .dump() +
               "\n";
    }
    job_.folder().write("quiz.jsonl", lines);
  }

  [[nodiscard]] std::vector<std::string> command(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> all{weft_program(), "train", (job_ / "tiny.yaml").string()};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  Finished train(const std::vector<std::string>& more = {}) const {
    return run_process(command(more));
  }

  /// Starts a training, calls `act` with its process id once it has done `updates` updates, and
  /// returns its status as run_process does.
  int train_and(std::int64_t updates, const std::function<void(pid_t)>& act,
                const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments = command({"--force"});
    arguments.insert(arguments.end(), more.begin(), more.end());
    std::filesystem::remove_all(job_ / "run");
    const pid_t child = ::fork();
    if (child == 0) {
      const int null = ::open("/dev/null", O_WRONLY);
      ::dup2(null, STDOUT_FILENO);
      ::dup2(null, STDERR_FILENO);
      std::vector<char*> argv;
      for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
      argv.push_back(nullptr);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    const std::string sought = "{\"update\":" + std::to_string(updates) + ",";
    int status = 0;
    bool acted = false;
    while (::waitpid(child, &status, WNOHANG) == 0) {
      if (!acted && std::filesystem::exists(job_ / "run/metrics.jsonl") &&
          slurp(job_ / "run/metrics.jsonl").find(sought) != std::string::npos) {
        act(child);
        acted = true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_TRUE(acted) << "the run ended before update " << updates;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  TinyJob job_;
};

}  // namespace weft::tests
