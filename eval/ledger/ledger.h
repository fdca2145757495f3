#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/ledger/circumstances.h"
#include "eval/ledger/sqlite.h"
#include "eval/metrics/result.h"
#include "eval/statistics/analysis.h"
#include "eval/statistics/bootstrap.h"
#include "eval/statistics/gates.h"

namespace weft::eval {

/// An evaluation with all that is kept of it.
struct Recorded {
  Circumstances circumstances{};
  Evaluation evaluation{};
  BootstrapOptions bootstrap{};
  std::vector<GateResult> gates{};
};

/// A figure as it was recorded, with where it belongs.
struct LedgerFigure {
  std::int64_t evaluation = 0;
  std::string stage{}, suite{}, language{}, name{};
  double value = 0;  ///< NaN where it does not exist.
  std::optional<Interval> interval{};
  std::optional<double> difference{};  ///< From the evaluation's first stage.
  std::optional<Interval> difference_interval{};
  std::optional<double> p{};
};

/// An evaluation in a list.
struct LedgerEntry {
  std::int64_t id = 0;
  Circumstances circumstances{};
  std::vector<std::string> tags{}, stages{}, suites{};
  std::int64_t gates = 0, gates_failed = 0;
};

/// The record of all evaluations of a project: an SQLite database (docs/ledger.md has its tables).
/// Each is written whole in one transaction, or not at all: a program killed at any moment leaves
/// nothing half-written, and several may write at the same time. An object is for one thread.
/// Throws InputError for a file that is no ledger, a newer or a damaged one; IoError where the
/// system or another writer refuses.
class Ledger {
 public:
  /// With kWrite the file is made where it is not; an older version is brought to the newest.
  Ledger(std::filesystem::path path, sqlite::Access access);

  /// Adds an evaluation, with a tag if one is given; its number. `parts`: keys of the parts that it
  /// is made of, which are no longer needed.
  /// `analysis`: of the evaluation, with its bootstrap.
  std::int64_t record(const Recorded& recorded, const Analysis& analysis,
                      const std::optional<std::string>& tag = {},
                      std::span<const std::string> parts = {});

  /// Adds a stage to an evaluation that is there, or puts it in the place of the stage of its name
  /// and of those behind it: the next update of a training run, or one that a resumed run does
  /// again. `figures`: of its suites, against the evaluation's first stage; `seconds`: the whole
  /// evaluation's so far. Throws ConfigError where there is no such evaluation.
  void add_stage(std::int64_t id, const StageResult& stage,
                 const std::vector<std::vector<Measured>>& figures, double seconds);

  /// A finished part of an evaluation that is not recorded yet (eval/run/parts.h). One that cannot
  /// be read is not there.
  [[nodiscard]] std::optional<SuiteResult> find_part(const std::string& key);
  void keep_part(const std::string& key, const SuiteResult& result);

  /// Of a number, a tag, or "latest". Throws ConfigError when there is none, naming what there is.
  [[nodiscard]] std::int64_t find(std::string_view name);
  [[nodiscard]] Recorded read(std::int64_t id);
  /// All of them, the oldest first.
  [[nodiscard]] std::vector<LedgerEntry> entries();
  /// Every figure of one evaluation, or of all, in the order in which they were recorded.
  [[nodiscard]] std::vector<LedgerFigure> figures(std::optional<std::int64_t> evaluation = {});

  /// Gives an evaluation a name, or with kReplace moves it there from another one. Throws
  /// ConfigError for a name that is taken or that is none (require_tag).
  void tag(std::int64_t id, const std::string& name, bool replace);
  /// Throws ConfigError for a name that is taken or that is none.
  void require_free_tag(const std::string& name);
  /// Throws ConfigError when there is no such tag.
  void remove_tag(const std::string& name);

  /// SHA-256 of a file; one of the same path, size and time of change is not read again.
  [[nodiscard]] std::string file_digest(const std::filesystem::path& file);

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  void write_stage(std::int64_t id, std::int64_t position, const StageResult& stage);
  void write_suite(std::int64_t id, std::int64_t stage, std::int64_t position,
                   const SuiteResult& suite);
  void read_stages(std::int64_t id, Evaluation& evaluation);

  std::filesystem::path path_;
  sqlite::Database database_;
};

/// Throws ConfigError unless `name` can be a tag: letters, digits, '.', '_', '-', '+', not all of
/// them digits, not "latest".
void require_tag(std::string_view name);

/// Where the ledger is when nobody says: $WEFT_LEDGER, else the nearest weft.db in the current
/// folder or one above it, else weft.db in the current folder. Nothing for $WEFT_LEDGER=none.
[[nodiscard]] std::optional<std::filesystem::path> default_ledger();

}  // namespace weft::eval
