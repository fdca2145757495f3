#pragma once

#include <CLI/CLI.hpp>
#include <memory>

namespace weft::cli {

/// How options are shown by --help: a type by what it is (FILE, DIR, PATH, N, X, a choice), then
/// whether the option must be given, and its default.
[[nodiscard]] std::shared_ptr<CLI::Formatter> help_formatter();

}  // namespace weft::cli
