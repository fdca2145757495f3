#pragma once

#include <filesystem>
#include <span>
#include <string_view>

#include "core/file.h"

namespace weft::core {

/// Something that a command writes.
struct Output {
  std::filesystem::path path;
  OutputKind kind = OutputKind::kFile;
  std::string_view option = "--out";  ///< By which it was named; for messages.
  /// Whether it may turn out wrong and then lies at rejected_path() instead, which is claimed too.
  bool may_be_rejected = false;
};

/// The one place that decides what a command may write, before it does any work. `inputs` are all
/// files and folders that the command reads; empty paths are passed over, and a folder's links to
/// files elsewhere count too.
///
/// InputError, whatever `overwrite` says, when an output is an input, holds one or lies in one, and
/// when an output is or lies in another: places are compared, not spellings. Otherwise what
/// require_writable() says of each output, and require_rejected_replaceable() of one that may be
/// rejected.
void claim_outputs(std::span<const Output> outputs, std::span<const std::filesystem::path> inputs,
                   Overwrite overwrite);

/// The same for one output.
void claim_output(const Output& output, std::span<const std::filesystem::path> inputs,
                  Overwrite overwrite);

}  // namespace weft::core
