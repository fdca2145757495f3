#pragma once

#include <filesystem>
#include <string_view>

#include "core/log.h"

namespace weft::core {

/// Where an output goes that was measured or read back and refused: "out.rejected".
[[nodiscard]] std::filesystem::path rejected_path(const std::filesystem::path& out);

/// The note beside it, "out.rejected.json": why it was refused, and the size and time of each of
/// its files. By this a later run knows a result of weft's that nobody has changed since.
[[nodiscard]] std::filesystem::path rejected_note_path(const std::filesystem::path& out);

/// Writes the note for what lies at rejected_path(out). Throws IoError.
void note_rejected(const std::filesystem::path& out, std::string_view reason);

/// InputError when something lies at rejected_path(out), or at the note's place, that is not
/// exactly what weft left there: no run replaces it. A rejected result as it was left may be
/// replaced, with
/// --force or without: it is no output, and it would stop every further attempt.
void require_rejected_replaceable(const std::filesystem::path& out);

/// After a run that was accepted: tells of what an earlier one left at rejected_path(out).
void tell_about_rejected(const std::filesystem::path& out, const Log& log);

}  // namespace weft::core
