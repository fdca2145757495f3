#include "export/checked_file.h"

#include <system_error>

#include "core/error.h"
#include "merge/verification.h"

namespace weft::exporting {

namespace fs = std::filesystem;

CheckedFile::CheckedFile(fs::path out, core::Overwrite overwrite)
    : out_(std::move(out)), staging_(out_) {
  core::require_writable(out_, core::OutputKind::kFile, overwrite);
  core::require_writable(merge::rejected_path(out_), core::OutputKind::kFile, overwrite);
  staging_ += ".unchecked";
}

CheckedFile::~CheckedFile() {
  if (staging_.empty()) return;
  std::error_code ignored;
  fs::remove(staging_, ignored);
}

void CheckedFile::rename_to(const fs::path& name) {
  std::error_code error;
  fs::rename(staging_, name, error);
  if (error) throw IoError("cannot finish '{}': {}", name.string(), error.message());
  staging_.clear();
}

void CheckedFile::accept() { rename_to(out_); }
void CheckedFile::reject() { rename_to(merge::rejected_path(out_)); }

void CheckedFile::check(const std::function<void()>& compare) {
  try {
    compare();
  } catch (const NumericError& error) {
    reject();
    throw NumericError("{}; the file is kept as '{}'", error.what(),
                       merge::rejected_path(out_).string());
  }
}

}  // namespace weft::exporting
