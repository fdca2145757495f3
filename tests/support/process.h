#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/temp_dir.h"

namespace weft::tests {

/// What a finished program left behind.
struct Finished {
  int status = -1;  ///< Exit status; 128 + signal when a signal ended it.
  std::string out;
  std::string err;
  double seconds = 0;
};

/// The program under test: $WEFT_BIN.
inline std::string weft_program() {
  const char* path = std::getenv("WEFT_BIN");
  return path != nullptr ? path : "build/release/bin/weft";
}

/// Runs `arguments[0]` with the rest, standard input from `input`, and waits for it.
inline Finished run_process(const std::vector<std::string>& arguments,
                            const std::string& input = "") {
  const TempDir scratch;
  const auto in = scratch.write("in", input);
  const auto start = std::chrono::steady_clock::now();
  const pid_t child = ::fork();
  if (child == 0) {
    const auto redirect = [](const std::filesystem::path& path, int flags, int descriptor) {
      const int file = ::open(path.c_str(), flags, 0600);
      ::dup2(file, descriptor);
      ::close(file);
    };
    redirect(in, O_RDONLY, STDIN_FILENO);
    redirect(scratch / "out", O_WRONLY | O_CREAT, STDOUT_FILENO);
    redirect(scratch / "err", O_WRONLY | O_CREAT, STDERR_FILENO);
    std::vector<char*> argv;
    for (const std::string& argument : arguments)
      argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  Finished result;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.out = slurp(scratch / "out");
  result.err = slurp(scratch / "err");
  return result;
}

/// Runs the program under test.
inline Finished run_weft(std::vector<std::string> arguments, const std::string& input = "") {
  arguments.insert(arguments.begin(), weft_program());
  return run_process(arguments, input);
}

}  // namespace weft::tests
