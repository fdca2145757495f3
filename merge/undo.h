#pragma once

#include <cstdint>
#include <filesystem>

#include "core/file.h"

// The way back from a merged model to the very files of its base (docs/unmerge.md). Subtracting an
// adapter does not lead there: the sum was rounded. What was lost is kept beside the merged model:
// for every number of the base, how many steps of its type it lies from the merged one, which is
// mostly 0 or small, compressed.

namespace weft::merge {

struct UndoReport {
  std::size_t files = 0;         ///< Of the base.
  std::uint64_t base_bytes = 0;  ///< Theirs.
  std::uint64_t undo_bytes = 0;  ///< Of the undo file.
};

/// InputError when the base is a GGUF file, which stays as it is and needs no undo.
void require_undo_possible(const std::filesystem::path& base);

/// Writes to `undo` what turns `merged` (a folder that merging has written) back into `base`:
/// the safetensors files that the base is read from, and the other files beside them but for
/// weights in other formats. One pass over both models, in blocks: memory is some tens of MiB
/// and the pages of one tensor.
///
/// Errors as of require_undo_possible(); InputError where `undo` would replace a file of the two
/// models, or lie among them (core::claim_output).
UndoReport write_undo(const std::filesystem::path& base, const std::filesystem::path& merged,
                      const std::filesystem::path& undo, core::Overwrite overwrite);

/// Restores the base's files, byte for byte, into the new folder `out`, which appears whole or not
/// at all. Each file's SHA-256 is held against the base's.
///
/// InputError when `undo` is no undo file, is cut or damaged, or is of another merged model, and
/// when `out` would replace an input (core::claim_output).
UndoReport unmerge(const std::filesystem::path& merged, const std::filesystem::path& undo,
                   const std::filesystem::path& out, core::Overwrite overwrite);

}  // namespace weft::merge
