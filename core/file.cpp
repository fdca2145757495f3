#include "core/file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "core/error.h"

namespace weft::core {
namespace fs = std::filesystem;
namespace {

/// Bytes of one write(): a system call of 4 MiB takes ext4 five times as long a byte.
constexpr std::size_t kPiece = std::size_t{256} << 10;
/// Linux maps a file in aligned windows of this size around the byte that is read
/// (fault_around_bytes).
constexpr std::uintptr_t kFaultWindow = std::uintptr_t{64} << 10;
/// Bytes after which the disk is told to begin, so that commit() has little left to wait for.
constexpr std::uint64_t kWriteback = std::uint64_t{16} << 20;

[[noreturn]] void fail(std::string_view what, const fs::path& path, int code) {
  throw IoError("{} {}: {}", what, path.string(), std::strerror(code));
}

/// Opens for reading, telling a missing file (the user's mistake) from a refusal of the system.
int open_to_read(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor >= 0) return descriptor;
  if (errno == ENOENT || errno == ENOTDIR) throw InputError("no such file: {}", path.string());
  fail("cannot open", path, errno);
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

/// Makes a rename durable: the folder's own entry must reach the disk too.
void sync_folder_of(const fs::path& path) {
  const int descriptor = ::open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

/// How the names begin of what is written beside `target` until it is whole.
std::string staging_prefix(const fs::path& target, std::string_view tag) {
  return fmt::format(".{}.{}-", target.filename().string(), tag);
}

/// Process ids repeat among machines and containers that share a folder; the number behind them,
/// random at first, does not. It is another one at each call.
fs::path sibling_of(const fs::path& target, std::string_view tag) {
  static std::atomic<std::uint32_t> number{std::random_device{}()};
  return target.parent_path() /
         fmt::format("{}{}-{:08x}", staging_prefix(target, tag), ::getpid(), number++);
}

/// The process of "1234-0a1b2c3d", as sibling_of() ends names; nothing for other names.
std::optional<pid_t> process_of(std::string_view ending) {
  pid_t process = 0;
  const char* const end = ending.data() + ending.size();
  const auto [dash, error] = std::from_chars(ending.data(), end, process);
  if (error != std::errc() || process <= 0 || end - dash != 9 || *dash != '-') return std::nullopt;
  const bool hex = ending.find_first_not_of("0123456789abcdef", ending.size() - 8) == ending.npos;
  return hex ? std::optional(process) : std::nullopt;
}

/// A process of this machine that lives may have made the file and not locked it yet. One of
/// another machine is known by its lock alone.
bool may_be_at_work(pid_t process) { return ::kill(process, 0) == 0 || errno == EPERM; }

fs::path without_trailing_slash(fs::path path) {
  path = path.lexically_normal();
  return path.has_filename() ? path : path.parent_path();
}

/// How the name begins of a file that is only made to see whether one can be.
constexpr std::string_view kProbe = ".weft-";
constexpr std::size_t kProbeLetters = 6;

/// A file that a process left that was killed between making and removing it: nothing is in it.
bool is_left_probe(const fs::directory_entry& entry) {
  const std::string name = entry.path().filename();
  std::error_code error;
  return name.size() == kProbe.size() + kProbeLetters && name.starts_with(kProbe) &&
         entry.is_regular_file(error) && entry.file_size(error) == 0 && !error;
}

/// Permission bits do not tell (root, read-only mounts, quotas): a file does. It has no name where
/// the file system can do without, so that whatever ends the process leaves nothing.
void try_file_in(const fs::path& folder, const fs::path& target) {
#ifdef O_TMPFILE
  if (const int nameless = ::open(folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
      nameless >= 0) {
    ::close(nameless);
    return;
  }
#endif
  std::string probe = (folder / fmt::format("{}{:X>{}}", kProbe, "", kProbeLetters)).string();
  const int descriptor = ::mkostemp(probe.data(), O_CLOEXEC);
  if (descriptor < 0) {
    throw InputError("{} cannot be written: {}; choose another place", target.string(),
                     std::strerror(errno));
  }
  ::close(descriptor);
  ::unlink(probe.c_str());
}

void make_parent(const fs::path& target) {
  if (!target.has_parent_path()) return;
  std::error_code error;
  fs::create_directories(target.parent_path(), error);
  if (error) fail("cannot create folder", target.parent_path(), error.value());
}

}  // namespace

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  const int descriptor = open_to_read(path);
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) {
    const int code = errno;
    ::close(descriptor);
    fail("cannot examine", path, code);
  }
  if (S_ISDIR(status.st_mode)) {
    ::close(descriptor);
    throw InputError("expected a file, found a directory: {}", path.string());
  }
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ > 0) {
    void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    const int code = errno;
    ::close(descriptor);
    if (address == MAP_FAILED) fail("cannot map", path, code);
    data_ = static_cast<const std::byte*>(address);
  } else {
    ::close(descriptor);
  }
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void MappedFile::release(std::span<const std::byte> range) const noexcept {
  const auto start = reinterpret_cast<std::uintptr_t>(data_);
  const auto first = reinterpret_cast<std::uintptr_t>(range.data());
  // The window that the range begins in came back when the byte before it was left and the next one
  // read; the window that it ends in would come back whole.
  const auto begin = std::max(start, first / kFaultWindow * kFaultWindow);
  const auto end = (first + range.size()) / kFaultWindow * kFaultWindow;
  if (end > begin) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

void require_writable(const fs::path& path, OutputKind kind, Overwrite overwrite) {
  const fs::path target = without_trailing_slash(path);
  std::error_code error;
  const bool exists = fs::exists(target, error);
  const bool is_folder = fs::is_directory(target, error);
  if (exists && is_folder && kind == OutputKind::kFile) {
    throw InputError("{} is a folder, and a file is to be written; name a file", target.string());
  }
  if (exists && !is_folder && kind != OutputKind::kFile) {
    throw InputError("{} is a file, and a folder is to be written; name a folder", target.string());
  }
  if (exists && overwrite == Overwrite::kRefuse) {
    throw InputError("{} exists already; choose another place, or add --force to replace it",
                     target.string());
  }
  fs::path folder = kind == OutputKind::kContents ? target : folder_of(target);
  if (kind == OutputKind::kFile && !fs::is_directory(folder, error)) {
    throw InputError(
        "{} cannot be written: there is no folder {}; make it, or choose another "
        "place",
        target.string(), folder.string());
  }
  while (!fs::exists(folder, error)) folder = folder_of(folder);
  try_file_in(folder, target);
}

AtomicFile::AtomicFile(fs::path target)
    : target_(std::move(target)), temporary_(sibling_of(target_, "part")) {
  make_parent(target_);
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor_ < 0) fail("cannot write", target_, errno);
  ::flock(descriptor_, LOCK_EX | LOCK_NB);  // Ends with the process: see remove_left_behind().
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const std::size_t part = std::min(bytes.size(), kPiece);
    const ssize_t written = ::write(descriptor_, bytes.data(), part);
    if (written < 0) {
      if (errno == EINTR) continue;
      fail("cannot write", target_, errno);
    }
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    size_ += static_cast<std::uint64_t>(written);
    if (size_ - started_ >= kWriteback) start_writeback();
  }
}

void AtomicFile::start_writeback() {
#ifdef __linux__
  ::sync_file_range(descriptor_, static_cast<off_t>(started_), static_cast<off_t>(size_ - started_),
                    SYNC_FILE_RANGE_WRITE);
#endif
  started_ = size_;
}

void AtomicFile::write(std::string_view text) { write(std::as_bytes(std::span(text))); }

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0) fail("cannot flush", target_, errno);
  const int closed = ::close(std::exchange(descriptor_, -1));
  if (closed != 0 || ::rename(temporary_.c_str(), target_.c_str()) != 0) {
    const int code = errno;
    ::unlink(temporary_.c_str());
    fail("cannot finish", target_, code);
  }
  sync_folder_of(target_);
  remove_left_behind(target_);
}

StagingFolder::StagingFolder(const fs::path& target) : path_(sibling_of(target, "part")) {
  make_parent(target);
  std::error_code error;
  fs::remove_all(path_, error);
  fs::create_directory(path_, error);
  if (error) fail("cannot create folder", target, error.value());
  lock_ = ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock_ >= 0) ::flock(lock_, LOCK_EX | LOCK_NB);
}

StagingFolder::~StagingFolder() {
  const fs::path path = path_;
  let_go();
  std::error_code ignored;
  if (!path.empty()) fs::remove_all(path, ignored);
}

void StagingFolder::let_go() noexcept {
  path_.clear();
  if (lock_ >= 0) ::close(std::exchange(lock_, -1));
}

AtomicDirectory::AtomicDirectory(fs::path target, Overwrite overwrite)
    : target_(without_trailing_slash(std::move(target))),
      staging_((require_writable(target_, OutputKind::kFolder, overwrite), target_)) {}

AtomicDirectory::~AtomicDirectory() = default;

void AtomicDirectory::commit() {
  std::error_code error;
  const bool replaces = fs::exists(target_, error);
#ifdef RENAME_EXCHANGE
  // There is no moment without a target; the old folder is removed as what is staged.
  if (replaces &&
      ::renameat2(AT_FDCWD, path().c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0) {
    sync_folder_of(target_);
    fs::remove_all(path(), error);
    staging_.let_go();
    return remove_left_behind(target_);
  }
#endif
  const fs::path old = sibling_of(target_, "old");
  if (replaces && ::rename(target_.c_str(), old.c_str()) != 0) {
    fail("cannot move aside", target_, errno);
  }
  if (::rename(path().c_str(), target_.c_str()) != 0) {
    const int code = errno;
    if (replaces && ::rename(old.c_str(), target_.c_str()) != 0) {
      throw IoError("cannot finish {}: {}; the old folder is kept as {}", target_.string(),
                    std::strerror(code), old.string());
    }
    fail("cannot finish", target_, code);
  }
  staging_.let_go();
  sync_folder_of(target_);
  if (replaces) fs::remove_all(old, error);
  remove_left_behind(target_);
}

void AtomicDirectory::commit_to(fs::path sibling) {
  target_ = without_trailing_slash(std::move(sibling));
  commit();
}

void remove_left_behind(const fs::path& path) {
  const fs::path target = without_trailing_slash(path);
  const std::string prefix = staging_prefix(target, "part");
  std::error_code error;
  std::vector<fs::path> found;
  for (fs::directory_iterator entry(folder_of(target), error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename();
    if (is_left_probe(*entry)) found.push_back(entry->path());
    if (!name.starts_with(prefix)) continue;
    const auto process = process_of(std::string_view(name).substr(prefix.size()));
    if (process && !may_be_at_work(*process)) found.push_back(entry->path());
  }
  for (const fs::path& leftover : found) {
    const int file = ::open(leftover.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (file < 0) continue;
    if (::flock(file, LOCK_EX | LOCK_NB) == 0) fs::remove_all(leftover, error);
    ::close(file);
  }
}

void rename_durably(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) fail("cannot finish", to, errno);
  sync_folder_of(to);
}

std::string read_text(const fs::path& path, std::uint64_t max_bytes) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  if (bytes.size() > max_bytes) {
    throw InputError("{} has {} bytes; at most {} are read here", path.string(), bytes.size(),
                     max_bytes);
  }
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void write_text(const fs::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

}  // namespace weft::core
