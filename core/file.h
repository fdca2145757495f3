#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace weft::core {

/// A file mapped read-only for the life of the object. Empty files map to an empty span.
/// Throws IoError (what, path, errno's text) when it cannot be opened or mapped, and InputError
/// when the path is a directory or does not exist.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

  /// Tells the kernel that `range` (inside bytes()) will not be needed again, so that reading a
  /// large file does not fill memory with its pages. The bytes stay readable.
  void release(std::span<const std::byte> range) const noexcept;

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Writes a file beside its target and renames it into place on commit(), so that a reader sees the
/// old file or the whole new one, never a part. Without commit() the target is untouched and the
/// temporary file is removed; commit() also removes those that killed processes have left of the
/// same target. Throws IoError with the target's path.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path target);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  /// Bytes written so far.
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
  /// Flushes to the disk (fsync) and renames. Nothing may be written afterwards.
  void commit();

 private:
  void start_writeback();

  std::filesystem::path target_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
  std::uint64_t started_ = 0;  ///< Bytes that the disk has been told to write.
};

/// What to do when an output already exists.
enum class Overwrite { kRefuse, kReplace };

/// How an output comes to lie at its path.
enum class OutputKind {
  kFile,      ///< A file (AtomicFile); its folder must be there, so that a typo makes no folders.
  kFolder,    ///< A folder that is made or replaced whole, with those above it (AtomicDirectory).
  kContents,  ///< Files inside a folder, which is made with those above it.
};

/// Fails, before any long work, where an output could not be written in the end: InputError when
/// there is something else at `path`, when it is there and may not be replaced, when the folder of
/// a file is missing, or when the system refuses a file in the nearest folder that exists. What was
/// tried leaves nothing behind.
void require_writable(const std::filesystem::path& path, OutputKind kind,
                      Overwrite overwrite = Overwrite::kReplace);

/// A folder of its own beside `target`, for what is not whole yet (".NAME.part-..."). It is locked
/// while this process writes it, and removed at the end with all that is still in it. Throws
/// IoError naming the target.
class StagingFolder {
 public:
  explicit StagingFolder(const std::filesystem::path& target);
  ~StagingFolder();
  StagingFolder(const StagingFolder&) = delete;
  StagingFolder& operator=(const StagingFolder&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  /// The folder has another name now, or is to stay for a process that goes on with it; there it
  /// counts as left behind (remove_left_behind).
  void let_go() noexcept;

 private:
  std::filesystem::path path_;
  int lock_ = -1;
};

/// A folder that appears whole or not at all: files are written to path(), a sibling of the target,
/// and commit() renames it. A target that cannot be written, or with kRefuse exists, is an
/// InputError at once (require_writable); with kReplace old and new folder change places in one
/// step, where the file system can, and the old one is then removed. commit() also removes what
/// killed processes have left of the same target.
class AtomicDirectory {
 public:
  AtomicDirectory(std::filesystem::path target, Overwrite overwrite);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  /// The folder to write into until commit().
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return staging_.path(); }
  void commit();
  /// Gives the folder another name beside the target, replacing what is there: what was written
  /// turned out not to be what the target's name promises. The target stays as it is.
  void commit_to(std::filesystem::path sibling);
  /// Neither commits nor removes: the folder stays beside the target for a process that goes on
  /// with it. Until then it counts as left behind (remove_left_behind).
  void keep() noexcept { staging_.let_go(); }

 private:
  std::filesystem::path target_;
  StagingFolder staging_;
};

/// Removes what processes that were killed while they wrote `target` have left beside it. What a
/// living process writes is locked and stays, also where the file system cannot lock.
void remove_left_behind(const std::filesystem::path& target);

/// Renames a file or folder, replacing a file of the new name, so that it lasts: the folder's entry
/// is flushed too. Throws IoError.
void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to);

/// The whole file as text. InputError if it does not exist, is a directory, or exceeds `max_bytes`.
[[nodiscard]] std::string read_text(const std::filesystem::path& path,
                                    std::uint64_t max_bytes = std::uint64_t{1} << 30);

/// Writes `text` atomically (AtomicFile).
void write_text(const std::filesystem::path& path, std::string_view text);

}  // namespace weft::core
