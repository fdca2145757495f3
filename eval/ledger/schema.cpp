#include "eval/ledger/schema.h"

#include <fmt/format.h>
#include <sys/vfs.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <thread>

#include "core/error.h"

namespace weft::eval {
namespace {

constexpr std::int64_t kApplicationId = 0x77656674;  // "weft"

// Numbers that do not exist are NULL. A figure's difference is from the evaluation's first stage.
constexpr const char* kVersion1 = R"sql(
CREATE TABLE evaluations(
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  recorded_at TEXT NOT NULL,  -- UTC, 2026-11-23T10:00:00Z
  name TEXT NOT NULL,
  run TEXT NOT NULL,          -- folder of the training run, or empty
  program TEXT NOT NULL,
  machine TEXT NOT NULL,
  threads INTEGER NOT NULL,
  seconds REAL NOT NULL,
  settings TEXT NOT NULL,     -- JSON
  gates TEXT NOT NULL);       -- JSON
CREATE TABLE tags(
  name TEXT PRIMARY KEY,
  evaluation INTEGER NOT NULL REFERENCES evaluations(id) ON DELETE CASCADE) WITHOUT ROWID;
CREATE TABLE stages(
  evaluation INTEGER NOT NULL REFERENCES evaluations(id) ON DELETE CASCADE,
  position INTEGER NOT NULL,
  name TEXT NOT NULL,
  model TEXT NOT NULL,
  model_digest TEXT NOT NULL, -- of its files, or empty
  adapters TEXT NOT NULL,     -- JSON: [{"path", "digest"}]
  quantise TEXT NOT NULL,
  seconds REAL NOT NULL,
  PRIMARY KEY(evaluation, position)) WITHOUT ROWID;
CREATE TABLE suites(
  evaluation INTEGER NOT NULL,
  stage INTEGER NOT NULL,
  position INTEGER NOT NULL,
  name TEXT NOT NULL,
  kind TEXT NOT NULL,
  language TEXT NOT NULL,
  must_keep INTEGER NOT NULL,
  items INTEGER NOT NULL,
  digest TEXT NOT NULL,       -- of what was scored, to the token, or empty
  results BLOB NOT NULL,      -- per item: CBOR, zstd
  PRIMARY KEY(evaluation, stage, position),
  FOREIGN KEY(evaluation, stage) REFERENCES stages(evaluation, position) ON DELETE CASCADE);
CREATE TABLE figures(
  evaluation INTEGER NOT NULL,
  stage INTEGER NOT NULL,
  suite INTEGER NOT NULL,
  name TEXT NOT NULL,
  value REAL, low REAL, high REAL,
  difference REAL, difference_low REAL, difference_high REAL, p REAL,
  PRIMARY KEY(evaluation, stage, suite, name),
  FOREIGN KEY(evaluation, stage, suite) REFERENCES suites(evaluation, stage, position)
    ON DELETE CASCADE) WITHOUT ROWID;
CREATE TABLE files(           -- digests of files that need not be read again
  path TEXT PRIMARY KEY,
  size INTEGER NOT NULL,
  changed INTEGER NOT NULL,   -- time of the inode's change, nanoseconds since 1970
  digest TEXT NOT NULL) WITHOUT ROWID;
)sql";

// What evaluations that are not recorded yet have finished.
constexpr const char* kVersion2 = R"sql(
CREATE TABLE parts(
  key TEXT PRIMARY KEY,       -- of everything that the numbers depend on
  kept_at INTEGER NOT NULL,   -- seconds since 1970
  results BLOB NOT NULL);     -- as in suites
)sql";

// What products were computed with; empty in what was recorded before.
constexpr const char* kVersion3 =
    "ALTER TABLE evaluations ADD COLUMN kernels TEXT NOT NULL DEFAULT ''";

constexpr std::array kMigrations{kVersion1, kVersion2, kVersion3};

/// Write-ahead logs need memory that all writers share, which machines on a network do not.
bool is_on_network(const std::filesystem::path& path) {
  constexpr std::array kNetwork{
      0x6969L,      // NFS
      0x517BL,      // SMB
      0xFF534D42L,  // CIFS
      0xFE534D42L,  // SMB2
      0x0BD00BD0L,  // Lustre
      0x47504653L,  // GPFS
      0x19830326L,  // BeeGFS
      0x00C36400L,  // Ceph
      0x5346414FL,  // AFS
      0x01021997L,  // 9P
      0x65735546L,  // FUSE
  };
  struct statfs info {};
  if (::statfs(path.c_str(), &info) != 0) return false;
  return std::ranges::find(kNetwork, static_cast<long>(info.f_type)) != kNetwork.end();
}

/// The first to make a ledger needs it alone for a moment, for which SQLite does not wait itself.
void choose_journal(sqlite::Database& database, const std::filesystem::path& path) {
  if (is_on_network(path)) return;  // The default, a roll-back journal, needs file locks only.
  for (int attempt = 0;; ++attempt) {
    const int code =
        sqlite3_exec(database.handle(), "PRAGMA journal_mode = WAL", nullptr, nullptr, nullptr);
    if (code == SQLITE_OK) return;
    if ((code & 0xFF) != SQLITE_BUSY || attempt == 1000) database.fail(code);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace

std::span<const char* const> ledger_migrations() { return kMigrations; }

void prepare_ledger(sqlite::Database& database, const std::filesystem::path& path) {
  const auto newest = static_cast<std::int64_t>(kMigrations.size());
  const auto version = [&] { return database.number("PRAGMA user_version"); };
  const bool is_empty = database.number("SELECT count(*) FROM sqlite_schema") == 0;
  if (!is_empty && database.number("PRAGMA application_id") != kApplicationId)
    throw InputError("'{}' is a database of another program, no ledger", path.string());
  if (version() > newest) {
    throw InputError(
        "ledger '{}' was written by a newer weft: it has version {}, and this program "
        "knows {}; use the newer program, or another ledger",
        path.string(), version(), newest);
  }
  if (version() < newest) {
    if (!database.writable()) {
      throw InputError("ledger '{}' has version {} and cannot be brought to {}: it is read-only",
                       path.string(), version(), newest);
    }
    choose_journal(database, path);
    sqlite::Transaction transaction(database);
    // Another program may have been here since.
    for (std::int64_t next = version(); next < newest; ++next)
      database.execute(kMigrations.at(static_cast<std::size_t>(next)));
    database.execute(
        fmt::format("PRAGMA application_id = {}; PRAGMA user_version = {}", kApplicationId, newest)
            .c_str());
    transaction.commit();
  }
  database.execute("PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL");
}

}  // namespace weft::eval
