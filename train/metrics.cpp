#include "train/metrics.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "core/error.h"

namespace weft::train {
namespace {

[[noreturn]] void fail(std::string_view what, const std::filesystem::path& path) {
  throw IoError("cannot {} {}: {}", what, path.string(), std::strerror(errno));
}

}  // namespace

MetricsFile::MetricsFile(std::filesystem::path path, std::uint64_t position, const core::Log& log)
    : path_(std::move(path)), position_(position) {
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (descriptor_ < 0) fail("open", path_);
  struct stat status {};
  const bool known = ::fstat(descriptor_, &status) == 0;
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (known && size < position) {
    core::tell(log, core::Level::kWarning,
               fmt::format("{} has {} bytes, and had {} when the checkpoint was written: lines of "
                           "earlier updates are missing from it; the run goes on without them",
                           path_.string(), size, position));
    position_ = size;
  }
  if (!known || ::ftruncate(descriptor_, static_cast<off_t>(position_)) != 0) {
    const int code = errno;
    ::close(descriptor_);
    errno = code;
    fail("cut", path_);
  }
}

MetricsFile::~MetricsFile() { ::close(descriptor_); }

void MetricsFile::append(const nlohmann::ordered_json& line) {
  const std::string text =
      line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  std::string_view rest = text;
  while (!rest.empty()) {
    const ssize_t written = ::write(descriptor_, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("write", path_);
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
  position_ += text.size();
}

void MetricsFile::flush() {
  if (::fsync(descriptor_) != 0) fail("flush", path_);
}

}  // namespace weft::train
