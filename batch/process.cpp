#include "batch/process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "core/error.h"

namespace weft::batch {
namespace {

/// Between fork and exec: only what may be called there.
[[noreturn]] void become(char* const* arguments, int in, int out, bool own_group, pid_t parent) {
  if (own_group) ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(1);  // It ended before it could be watched.
  ::dup2(in, STDIN_FILENO);
  ::dup2(out, STDOUT_FILENO);
  ::dup2(out, STDERR_FILENO);
  ::signal(SIGPIPE, SIG_DFL);
  ::execv("/proc/self/exe", arguments);
  ::_exit(127);
}

}  // namespace

Child::Child(const std::vector<std::string>& arguments, const std::filesystem::path& log,
             bool own_group) {
  const int in = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (in < 0 || out < 0) throw IoError("cannot open {}: {}", log.string(), std::strerror(errno));
  std::string program = "weft";
  std::vector<std::string> copies = arguments;
  std::vector<char*> argv{program.data()};
  for (std::string& argument : copies) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ == 0) become(argv.data(), in, out, own_group, parent);
  const int error = errno;
  ::close(in);
  ::close(out);
  if (pid_ < 0) throw IoError("cannot start a process: {}", std::strerror(error));
}

Child::~Child() {
  if (ending_) return;
  signal(SIGTERM);
  while (!poll()) ::usleep(10'000);
}

std::optional<Ending> Child::poll() {
  if (ending_) return ending_;
  int status = 0;
  struct rusage usage {};
  if (::wait4(pid_, &status, WNOHANG, &usage) != pid_) return std::nullopt;
  Ending ending;
  ending.by_signal = WIFSIGNALED(status);
  ending.status = ending.by_signal ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  ending.peak_bytes = static_cast<std::uint64_t>(usage.ru_maxrss) << 10;
  ending_ = ending;
  return ending_;
}

void Child::signal(int number) const {
  if (!ending_) ::kill(pid_, number);
}

}  // namespace weft::batch
