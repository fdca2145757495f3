#include "batch/command.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <thread>

#include "core/error.h"

extern char** environ;

namespace weft::batch {
namespace {

/// A file without a name, for what a program writes: unlike a pipe it never fills.
class Kept {
 public:
  Kept() : descriptor_(::memfd_create("weft command", MFD_CLOEXEC)) {
    if (descriptor_ < 0) throw IoError("cannot make a file in memory: {}", std::strerror(errno));
  }
  ~Kept() { ::close(descriptor_); }
  Kept(const Kept&) = delete;
  Kept& operator=(const Kept&) = delete;

  [[nodiscard]] int descriptor() const { return descriptor_; }
  [[nodiscard]] std::string text() const {
    std::string all;
    std::array<char, 4096> part{};
    for (;;) {
      const ssize_t got =
          ::pread(descriptor_, part.data(), part.size(), static_cast<off_t>(all.size()));
      if (got <= 0) return all;
      all.append(part.data(), static_cast<std::size_t>(got));
    }
  }

 private:
  int descriptor_;
};

std::string as_one_line(const std::string& text) {
  std::string line;
  for (const char c : text) {
    if (c != '\n') {
      line += c;
    } else if (!line.empty()) {
      line += "; ";
    }
  }
  while (line.ends_with("; ")) line.resize(line.size() - 2);
  return line;
}

pid_t start(const std::vector<std::string>& words, const Kept& out, const Kept& error) {
  std::vector<std::string> copies = words;
  std::vector<char*> arguments;
  for (std::string& word : copies) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t files;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&files, out.descriptor(), STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&files, error.descriptor(), STDERR_FILENO);
  posix_spawnattr_t how;
  ::posix_spawnattr_init(&how);
  sigset_t defaults;
  ::sigemptyset(&defaults);
  ::sigaddset(&defaults, SIGPIPE);
  ::posix_spawnattr_setsigdefault(&how, &defaults);
  ::posix_spawnattr_setpgroup(&how, 0);
  ::posix_spawnattr_setflags(&how, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  pid_t child = -1;
  const int problem = ::posix_spawnp(&child, arguments[0], &files, &how, arguments.data(), environ);
  ::posix_spawnattr_destroy(&how);
  ::posix_spawn_file_actions_destroy(&files);
  if (problem != 0) throw IoError("cannot start {}: {}", words.front(), std::strerror(problem));
  return child;
}

}  // namespace

bool has_command(const std::string& name) {
  const char* list = std::getenv("PATH");
  std::string_view rest = list != nullptr ? list : "";
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find(':'), rest.size());
    if (::access(fmt::format("{}/{}", rest.substr(0, end), name).c_str(), X_OK) == 0) return true;
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return false;
}

CommandResult run_command(const std::vector<std::string>& words, std::chrono::seconds patience) {
  const Kept out;
  const Kept error;
  const pid_t child = start(words, out, error);
  const auto deadline = std::chrono::steady_clock::now() + patience;
  bool in_time = true;
  int status = 0;
  while (::waitpid(child, &status, WNOHANG) == 0) {
    if (in_time && std::chrono::steady_clock::now() > deadline) {
      in_time = false;
      ::kill(child, SIGKILL);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  CommandResult result{.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
                       .out = out.text(),
                       .error = as_one_line(error.text())};
  if (!in_time)
    result.error = fmt::format("{} gave no answer in {} s", words.front(), patience.count());
  return result;
}

}  // namespace weft::batch
