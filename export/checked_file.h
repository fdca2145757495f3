#pragma once

#include <filesystem>
#include <functional>
#include <span>

#include "core/file.h"

namespace weft::exporting {

/// A file that gets its name only when what was written has been read back and found right. Until
/// then it lies in a folder of its own beside it (core::StagingFolder); what is found wrong stays
/// as OUT.rejected, so that it can be looked at and is not taken for the output. A file that was
/// neither accepted nor rejected is removed.
class CheckedFile {
 public:
  /// InputError when the output, or a rejected one, is there and may not be replaced, or would
  /// replace one of the files that are read (core::claim_outputs).
  CheckedFile(std::filesystem::path out, std::span<const std::filesystem::path> inputs,
              core::Overwrite overwrite);
  ~CheckedFile();
  CheckedFile(const CheckedFile&) = delete;
  CheckedFile& operator=(const CheckedFile&) = delete;

  /// Where to write, and read back.
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return written_; }

  /// Runs a check that throws NumericError when it finds the file wrong: the file is then rejected,
  /// and the error says where it is kept.
  void check(const std::function<void()>& compare);

  void accept();  ///< Gives the file its name.
  void reject();  ///< Gives the file core::rejected_path(out).

 private:
  void rename_to(const std::filesystem::path& name);

  std::filesystem::path out_;
  core::StagingFolder staging_;
  std::filesystem::path written_;
};

}  // namespace weft::exporting
