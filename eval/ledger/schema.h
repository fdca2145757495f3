#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "eval/ledger/sqlite.h"

namespace weft::eval {

/// The SQL that makes a ledger of version i + 1 from one of version i, in order; version 0 is an
/// empty database. What is listed here is never changed: a new version is a new entry.
[[nodiscard]] std::span<const char* const> ledger_migrations();

/// Brings a database to the newest version, making it where it is empty. The version is PRAGMA
/// user_version, and application_id says that it is a ledger. Throws InputError for another
/// program's database, for a ledger of a newer version, and for an old one that cannot be written.
void prepare_ledger(sqlite::Database& database, const std::filesystem::path& path);

}  // namespace weft::eval
