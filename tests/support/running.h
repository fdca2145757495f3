#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/process.h"
#include "tests/support/temp_dir.h"

namespace weft::tests {

/// A program that runs beside the test, in a process group of its own.
class Running {
 public:
  /// `out`, `err`: where its output goes; empty: into files that out() and err() read.
  explicit Running(const std::vector<std::string>& arguments, std::filesystem::path out = {},
                   std::filesystem::path err = {})
      : out_(out.empty() ? scratch_ / "out" : std::move(out)),
        err_(err.empty() ? scratch_ / "err" : std::move(err)) {
    child_ = ::fork();
    if (child_ != 0) return;
    ::setpgid(0, 0);
    const auto redirect = [](const std::filesystem::path& path, int descriptor) {
      const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
      ::dup2(file, descriptor);
      ::close(file);
    };
    const int null = ::open("/dev/null", O_RDONLY);
    ::dup2(null, STDIN_FILENO);
    redirect(out_, STDOUT_FILENO);
    redirect(err_, STDERR_FILENO);
    std::vector<char*> argv;
    for (const std::string& argument : arguments)
      argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  ~Running() {
    if (!ended()) {
      ::kill(child_, SIGKILL);
      (void)wait();
    }
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

  void signal(int number) const { ::kill(child_, number); }
  void signal_group(int number) const { ::kill(-child_, number); }

  /// Waits until the program has a handler for `number`, before which the signal just ends it.
  bool wait_until_caught(int number) {
    return wait_until([&] {
      const std::string status = slurp("/proc/" + std::to_string(child_) + "/status");
      const std::size_t at = status.find("SigCgt:");
      if (at == std::string::npos) return false;
      return (std::stoull(status.substr(at + 7), nullptr, 16) >> (number - 1) & 1U) != 0;
    });
  }

  [[nodiscard]] bool ended() {
    if (!ended_ && ::waitpid(child_, &status_, WNOHANG) == child_) ended_ = true;
    return ended_;
  }

  /// Waits until `reached` holds; false when the program ended, or half a minute passed, before.
  bool wait_until(const std::function<bool()>& reached) {
    for (int i = 0; i < 30'000; ++i) {
      if (reached()) return true;
      if (ended()) return reached();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }
  bool wait_for_message(const std::string& text) {
    return wait_until([&] { return err().find(text) != std::string::npos; });
  }

  /// Waits for the end. Exit status, or 128 + signal.
  int wait() {
    if (!ended_) {
      ::waitpid(child_, &status_, 0);
      ended_ = true;
    }
    return WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_);
  }

  [[nodiscard]] std::string out() const { return slurp(out_); }
  [[nodiscard]] std::string err() const { return slurp(err_); }

 private:
  TempDir scratch_;
  std::filesystem::path out_;
  std::filesystem::path err_;
  pid_t child_ = -1;
  int status_ = 0;
  bool ended_ = false;
};

}  // namespace weft::tests
