#pragma once

#include <cstdint>
#include <filesystem>

namespace weft::batch {

/// A lock that lasts as long as the object, and ends with the process whatever ends it.
class FileLock {
 public:
  enum class Children { kWithout, kShare };
  /// Takes the lock of the file, which is made where it is not. Throws IoError. kShare: programs
  /// that this process starts hold it too, until the last of them has ended.
  explicit FileLock(const std::filesystem::path& file, Children children = Children::kWithout);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

  /// False: another process has it.
  [[nodiscard]] bool held() const { return held_; }
  /// Writes the number of this process into the file, for holder_of().
  void sign() const;

 private:
  int descriptor_ = -1;
  bool held_ = false;
};

/// Whether a living process holds the lock. Nothing is made.
[[nodiscard]] bool is_locked(const std::filesystem::path& file);

/// The process that holds the lock and has signed it; 0 where there is none.
[[nodiscard]] std::int64_t holder_of(const std::filesystem::path& file);

}  // namespace weft::batch
