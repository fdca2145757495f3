#include "batch/lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>

#include "core/error.h"

namespace weft::batch {

FileLock::FileLock(const std::filesystem::path& file, Children children) {
  const int stays = children == Children::kShare ? 0 : O_CLOEXEC;
  descriptor_ = ::open(file.c_str(), O_RDWR | O_CREAT | stays, 0644);
  if (descriptor_ < 0) throw IoError("cannot open {}: {}", file.string(), std::strerror(errno));
  // A file system without locks lets everybody pass, as weft train does.
  held_ = ::flock(descriptor_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
}

FileLock::~FileLock() { ::close(descriptor_); }

void FileLock::sign() const {
  const std::string text = std::to_string(::getpid()) + "\n";
  // Who cannot write it is not named, and holds the lock all the same.
  if (::ftruncate(descriptor_, 0) != 0) return;
  [[maybe_unused]] const ssize_t written = ::pwrite(descriptor_, text.data(), text.size(), 0);
}

bool is_locked(const std::filesystem::path& file) {
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return false;
  const bool locked = ::flock(descriptor, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  ::close(descriptor);
  return locked;
}

std::int64_t holder_of(const std::filesystem::path& file) {
  std::int64_t process = 0;
  if (!is_locked(file)) return 0;
  std::ifstream(file) >> process;
  return process;
}

}  // namespace weft::batch
