#include <fmt/format.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "eval/ledger/ledger.h"
#include "eval/ledger/pack.h"

namespace weft::eval {
namespace {

using Json = nlohmann::json;

void read_settings(const Json& settings, Recorded& recorded) {
  Evaluation& evaluation = recorded.evaluation;
  evaluation.sequence_len = settings.at("sequence_len").get<std::int64_t>();
  evaluation.dtype = settings.at("dtype").get<std::string>();
  evaluation.reference = settings.at("reference").get<std::string>();
  const Json& bootstrap = settings.at("bootstrap");
  recorded.bootstrap.resamples = bootstrap.at("resamples").get<int>();
  recorded.bootstrap.permutations = bootstrap.at("permutations").get<std::int64_t>();
  recorded.bootstrap.seed = bootstrap.at("seed").get<std::uint64_t>();
  recorded.bootstrap.confidence = bootstrap.at("confidence").get<double>();
  if (!settings.contains("generate")) return;
  const Json& generate = settings.at("generate");
  evaluation.decoding = {generate.at("max_tokens").get<std::int64_t>(),
                         generate.at("repetition_penalty").get<double>(),
                         generate.value("stop", std::vector<std::string>{})};
}

/// Columns of `evaluations` that say when, where and by what.
constexpr const char* kCircumstances =
    "recorded_at, name, run, program, machine, threads, kernels, seconds";
constexpr int kCircumstanceColumns = 8;

Circumstances circumstances_of(const sqlite::Statement& row, int column) {
  return {.recorded_at = row.text(column),
          .name = row.text(column + 1),
          .run = row.text(column + 2),
          .program = row.text(column + 3),
          .machine = row.text(column + 4),
          .threads = row.integer(column + 5),
          .kernels = row.text(column + 6),
          .seconds = row.real(column + 7)};
}

std::vector<std::string> texts(sqlite::Database& database, const char* sql, std::int64_t id) {
  std::vector<std::string> all;
  sqlite::Statement query(database, sql);
  query.bind(id);
  while (query.step()) all.push_back(query.text(0));
  return all;
}

std::optional<double> optional_real(const sqlite::Statement& row, int column) {
  return row.is_null(column) ? std::nullopt : std::optional(row.real(column));
}

std::optional<Interval> optional_interval(const sqlite::Statement& row, int column) {
  if (row.is_null(column) || row.is_null(column + 1)) return std::nullopt;
  return Interval{row.real(column), row.real(column + 1)};
}

}  // namespace

Recorded Ledger::read(std::int64_t id) {
  sqlite::Statement query(
      database_,
      fmt::format("SELECT {}, settings, gates FROM evaluations WHERE id = ?", kCircumstances));
  if (!query.bind(id).step())
    throw ConfigError("there is no evaluation {} in ledger '{}'", id, path_.string());
  Recorded recorded{.circumstances = circumstances_of(query, 0)};
  try {
    read_settings(Json::parse(query.text(kCircumstanceColumns)), recorded);
    recorded.gates = gates_from_json(Json::parse(query.text(kCircumstanceColumns + 1)));
    read_stages(id, recorded.evaluation);
  } catch (const Json::exception& error) {
    throw InputError("ledger '{}': evaluation {} cannot be read ({})", path_.string(), id,
                     error.what());
  }
  return recorded;
}

void Ledger::read_stages(std::int64_t id, Evaluation& evaluation) {
  sqlite::Statement stages(database_,
                           "SELECT name, model, model_digest, adapters, quantise, seconds, "
                           "position FROM stages WHERE evaluation = ? ORDER BY position");
  stages.bind(id);
  while (stages.step()) {
    StageResult& stage = evaluation.stages.emplace_back();
    stage.name = stages.text(0);
    stage.model = stages.text(1);
    stage.model_digest = stages.text(2);
    for (const Json& adapter : Json::parse(stages.text(3))) {
      stage.adapters.emplace_back(adapter.at("path").get<std::string>());
      stage.adapter_digests.push_back(adapter.at("digest").get<std::string>());
    }
    stage.quantise = stages.text(4);
    stage.seconds = stages.real(5);
    sqlite::Statement suites(
        database_,
        "SELECT name, results FROM suites WHERE evaluation = ? AND stage = ? ORDER BY position");
    suites.bind(id).bind(stages.integer(6));
    while (suites.step()) {
      const std::string where = fmt::format("ledger '{}': evaluation {}, stage '{}', suite '{}'",
                                            path_.string(), id, stage.name, suites.text(0));
      stage.suites.push_back(unpack(suites.bytes(1), where));
    }
  }
}

std::vector<LedgerEntry> Ledger::entries() {
  std::vector<LedgerEntry> entries;
  sqlite::Statement query(
      database_, fmt::format("SELECT id, gates, {} FROM evaluations ORDER BY id", kCircumstances));
  while (query.step()) {
    LedgerEntry& entry = entries.emplace_back();
    entry.id = query.integer(0);
    entry.circumstances = circumstances_of(query, 2);
    entry.tags =
        texts(database_, "SELECT name FROM tags WHERE evaluation = ? ORDER BY name", entry.id);
    entry.stages = texts(
        database_, "SELECT name FROM stages WHERE evaluation = ? ORDER BY position", entry.id);
    entry.suites = texts(database_,
                         "SELECT name FROM suites WHERE evaluation = ? GROUP BY name ORDER BY "
                         "min(position)",
                         entry.id);
    const Json gates = Json::parse(query.text(1), nullptr, /*allow_exceptions=*/false);
    if (!gates.is_array()) continue;
    entry.gates = static_cast<std::int64_t>(gates.size());
    for (const Json& gate : gates) entry.gates_failed += gate.value("passed", false) ? 0 : 1;
  }
  return entries;
}

std::vector<LedgerFigure> Ledger::figures(std::optional<std::int64_t> evaluation) {
  sqlite::Statement query(
      database_,
      fmt::format("SELECT f.evaluation, s.name, u.name, u.language, f.name, f.value, f.low, "
                  "f.high, f.difference, f.difference_low, f.difference_high, f.p FROM figures f "
                  "JOIN suites u ON u.evaluation = f.evaluation AND u.stage = f.stage AND "
                  "u.position = f.suite JOIN stages s ON s.evaluation = f.evaluation AND "
                  "s.position = f.stage {} ORDER BY f.evaluation, f.stage, f.suite, f.name",
                  evaluation ? "WHERE f.evaluation = ?" : ""));
  if (evaluation) query.bind(*evaluation);
  std::vector<LedgerFigure> figures;
  while (query.step()) {
    figures.push_back({.evaluation = query.integer(0),
                       .stage = query.text(1),
                       .suite = query.text(2),
                       .language = query.text(3),
                       .name = query.text(4),
                       .value = query.real(5),
                       .interval = optional_interval(query, 6),
                       .difference = optional_real(query, 8),
                       .difference_interval = optional_interval(query, 9),
                       .p = optional_real(query, 11)});
  }
  return figures;
}

}  // namespace weft::eval
