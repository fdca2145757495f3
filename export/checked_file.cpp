#include "export/checked_file.h"

#include <array>

#include "core/error.h"
#include "core/output_claim.h"
#include "merge/verification.h"

namespace weft::exporting {

namespace fs = std::filesystem;

namespace {

fs::path claimed(fs::path out, std::span<const fs::path> inputs, core::Overwrite overwrite) {
  const std::array<core::Output, 2> outputs{
      {{out, core::OutputKind::kFile}, {merge::rejected_path(out), core::OutputKind::kFile}}};
  core::claim_outputs(outputs, inputs, overwrite);
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
