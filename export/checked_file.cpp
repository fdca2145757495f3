#include "export/checked_file.h"

#include "core/error.h"
#include "core/output_claim.h"
#include "core/rejected.h"

namespace weft::exporting {

namespace fs = std::filesystem;

namespace {

fs::path claimed(fs::path out, std::span<const fs::path> inputs, core::Overwrite overwrite) {
  core::claim_output({.path = out, .kind = core::OutputKind::kFile, .may_be_rejected = true},
                     inputs, overwrite);
  return out;
}

}  // namespace

CheckedFile::CheckedFile(fs::path out, std::span<const fs::path> inputs, core::Overwrite overwrite)
    : out_(claimed(std::move(out), inputs, overwrite)),
      staging_(out_),
      written_(staging_.path() / out_.filename()) {}

CheckedFile::~CheckedFile() = default;

void CheckedFile::rename_to(const fs::path& name) {
  core::rename_durably(written_, name);
  core::remove_left_behind(out_);
}

void CheckedFile::accept() { rename_to(out_); }
void CheckedFile::reject() { rename_to(core::rejected_path(out_)); }

void CheckedFile::check(const std::function<void()>& compare) {
  try {
    compare();
  } catch (const NumericError& error) {
    reject();
    core::note_rejected(out_, error.what());
    throw NumericError("{}; the file is kept as '{}'", error.what(),
                       core::rejected_path(out_).string());
  }
}

}  // namespace weft::exporting
