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
[[noreturn]] void become(char* const* arguments, int in, int out, bool own_group, pid_t parent,
                         const sigset_t* mask) {
  if (own_group) ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(1);  // It ended before it could be watched.
  // A signal that came since the fork, or comes before exec, ends it as it would the program.
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGPIPE}) ::signal(number, SIG_DFL);
  ::sigprocmask(SIG_SETMASK, mask, nullptr);
  ::dup2(in, STDIN_FILENO);
  ::dup2(out, STDOUT_FILENO);
  ::dup2(out, STDERR_FILENO);
  ::execv("/proc/self/exe", arguments);
  ::_exit(127);
}

}  // namespace

Child::Child(const std::vector<std::string>& arguments, const std::filesystem::path& log,
             bool own_group) {
  const int in = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (in < 0 || out < 0) {
    const int problem = errno;
    if (in >= 0) ::close(in);
    throw IoError("cannot open {}: {}", log.string(), std::strerror(problem));
  }
  std::string program = "weft";
  std::vector<std::string> copies = arguments;
  std::vector<char*> argv{program.data()};
  for (std::string& argument : copies) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const pid_t parent = ::getpid();
  // The handlers of this process would swallow, in the child, what is meant for the program.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  pid_ = ::fork();
  if (pid_ == 0) become(argv.data(), in, out, own_group, parent, &before);
  const int error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
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
  const pid_t ended = ::wait4(pid_, &status, WNOHANG, &usage);
  if (ended == 0 || (ended < 0 && errno == EINTR)) return std::nullopt;
  Ending ending;
  if (ended < 0) {  // It is gone, and somebody else has heard how it ended.
    ending_ = Ending{.status = static_cast<int>(ExitCode::kFailed), .is_unknown = true};
    return ending_;
  }
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
