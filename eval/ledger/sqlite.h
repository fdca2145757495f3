#pragma once

#include <sqlite3.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

// As much of SQLite's C interface as the ledger needs, with errors as exceptions.

namespace weft::eval::sqlite {

class Database;

/// One SQL statement with parameters. Throws IoError or InputError as Database does.
class Statement {
 public:
  Statement(Database& database, std::string_view sql);

  /// The next parameter, from the first on: text, bytes, numbers; nothing is NULL, and so is NaN.
  Statement& bind(std::int64_t value);
  Statement& bind(double value);
  Statement& bind(std::string_view text);
  Statement& bind(std::span<const std::byte> bytes);
  Statement& bind(std::nullopt_t);
  template <typename T>
  Statement& bind(const std::optional<T>& value) {
    return value ? bind(*value) : bind(std::nullopt);
  }

  /// Moves to the next row; false at the end.
  bool step();
  /// For statements without rows.
  void run();

  /// Columns of the row, from 0.
  [[nodiscard]] bool is_null(int column) const;
  [[nodiscard]] std::int64_t integer(int column) const;
  [[nodiscard]] double real(int column) const;  ///< NaN for NULL.
  [[nodiscard]] std::string text(int column) const;
  /// Valid until the next step().
  [[nodiscard]] std::span<const std::byte> bytes(int column) const;

 private:
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
  };
  void check(int code) const;

  Database& database_;
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
  int bound_ = 0;
};

enum class Access {
  kRead,   ///< The file has to be there.
  kWrite,  ///< It is made where it is not.
};

/// A connection to a database file; for one thread. Waits up to a minute for other writers.
/// Throws IoError where the system or another writer refuses, InputError for a file that is no
/// database, or a damaged one. `what` names the file in messages: "ledger 'weft.db'".
class Database {
 public:
  Database(const std::filesystem::path& path, Access access, std::string what);

  /// Runs statements without parameters.
  void execute(const char* sql);
  /// The single number that a statement gives.
  [[nodiscard]] std::int64_t number(std::string_view sql);
  [[nodiscard]] std::int64_t last_insert_id() const;
  [[nodiscard]] bool writable() const;
  [[nodiscard]] sqlite3* handle() const { return handle_.get(); }
  /// Throws what `code` means, with SQLite's own words.
  [[noreturn]] void fail(int code) const;

 private:
  struct Close {
    void operator()(sqlite3* handle) const { sqlite3_close_v2(handle); }
  };
  std::string what_;
  std::unique_ptr<sqlite3, Close> handle_;
};

/// All that is written until commit() is there at once, or, without it, not at all. Takes the lock
/// of writers at the beginning, so that nothing that was read in it can have changed.
class Transaction {
 public:
  explicit Transaction(Database& database);
  ~Transaction();
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  void commit();

 private:
  Database& database_;
  bool open_ = true;
};

}  // namespace weft::eval::sqlite
