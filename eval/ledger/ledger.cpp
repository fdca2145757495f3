#include "eval/ledger/ledger.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <ctime>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/hash.h"
#include "eval/ledger/pack.h"
#include "eval/ledger/schema.h"
#include "eval/statistics/figures.h"

namespace weft::eval {
namespace {

using Json = nlohmann::json;

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string settings_text(const Recorded& recorded) {
  const Evaluation& evaluation = recorded.evaluation;
  const BootstrapOptions& bootstrap = recorded.bootstrap;
  Json settings{{"sequence_len", evaluation.sequence_len},
                {"dtype", evaluation.dtype},
                {"reference", evaluation.reference},
                {"bootstrap",
                 {{"resamples", bootstrap.resamples},
                  {"permutations", bootstrap.permutations},
                  {"seed", bootstrap.seed},
                  {"confidence", bootstrap.confidence}}}};
  if (const auto& decoding = evaluation.decoding) {
    settings["generate"] = {{"max_tokens", decoding->max_tokens},
                            {"repetition_penalty", decoding->repetition_penalty},
                            {"stop", decoding->stop}};
  }
  return dump(settings);
}

std::string adapters_text(const StageResult& stage) {
  Json adapters = Json::array();
  for (std::size_t i = 0; i < stage.adapters.size(); ++i) {
    const bool known = i < stage.adapter_digests.size();
    adapters.push_back({{"path", stage.adapters[i].string()},
                        {"digest", known ? stage.adapter_digests[i] : std::string()}});
  }
  return dump(adapters);
}

void write_figures(sqlite::Database& database, std::int64_t id, std::size_t stage,
                   std::size_t suite, const std::vector<Measured>& figures) {
  const auto low = [](const auto& estimate) {
    return estimate && estimate->interval ? std::optional(estimate->interval->low) : std::nullopt;
  };
  const auto high = [](const auto& estimate) {
    return estimate && estimate->interval ? std::optional(estimate->interval->high) : std::nullopt;
  };
  for (const Measured& measured : figures) {
    const std::optional<Estimate> figure = measured.figure;
    const auto& difference = measured.difference;
    sqlite::Statement(database, "INSERT INTO figures VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
        .bind(id)
        .bind(static_cast<std::int64_t>(stage))
        .bind(static_cast<std::int64_t>(suite))
        .bind(measured.name)
        .bind(measured.figure.value)
        .bind(low(figure))
        .bind(high(figure))
        .bind(difference ? std::optional(difference->value) : std::nullopt)
        .bind(low(difference))
        .bind(high(difference))
        .bind(measured.p)
        .run();
  }
}

void write_tag(sqlite::Database& database, std::int64_t id, const std::string& name) {
  sqlite::Statement(database, "INSERT OR REPLACE INTO tags VALUES (?, ?)")
      .bind(name)
      .bind(id)
      .run();
}

/// The evaluation that has the tag.
std::optional<std::int64_t> tagged(sqlite::Database& database, std::string_view name) {
  sqlite::Statement query(database, "SELECT evaluation FROM tags WHERE name = ?");
  if (!query.bind(name).step()) return std::nullopt;
  return query.integer(0);
}

/// Those that are done with, and those that nobody came back for.
void remove_parts(sqlite::Database& database, std::span<const std::string> keys) {
  constexpr std::int64_t kKeptSeconds = 30 * 24 * 3600;
  for (const std::string& key : keys)
    sqlite::Statement(database, "DELETE FROM parts WHERE key = ?").bind(key).run();
  sqlite::Statement(database, "DELETE FROM parts WHERE kept_at < ?")
      .bind(static_cast<std::int64_t>(std::time(nullptr)) - kKeptSeconds)
      .run();
}

std::filesystem::path openable(std::filesystem::path path, sqlite::Access access) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    throw InputError("'{}' is a folder, and a ledger is a file; name one in it: {}", path.string(),
                     (path / "weft.db").string());
  }
  if (access == sqlite::Access::kWrite) return path;
  if (!std::filesystem::exists(path, ignored))
    throw InputError("there is no ledger '{}'; weft eval makes one", path.string());
  // SQLite takes an empty file for a new database; reading must not make a ledger of it.
  if (std::filesystem::is_regular_file(path, ignored) &&
      std::filesystem::file_size(path, ignored) == 0) {
    throw InputError("'{}' is empty, no ledger; weft eval makes one", path.string());
  }
  return path;
}

void require_free(sqlite::Database& database, std::string_view name, std::int64_t id) {
  const auto holder = tagged(database, name);
  if (!holder || *holder == id) return;
  throw ConfigError("tag '{}' is on evaluation {}; move it with weft ledger tag ID {} --force",
                    name, *holder, name);
}

}  // namespace

Ledger::Ledger(std::filesystem::path path, sqlite::Access access)
    : path_(openable(std::move(path), access)),
      database_(path_, access, fmt::format("ledger '{}'", path_.string())) {
  prepare_ledger(database_, path_);
}

std::int64_t Ledger::record(const Recorded& recorded, const Analysis& analysis,
                            const std::optional<std::string>& tag,
                            std::span<const std::string> parts) {
  if (tag) require_tag(*tag);
  const Evaluation& evaluation = recorded.evaluation;
  const Circumstances& c = recorded.circumstances;
  sqlite::Transaction transaction(database_);
  sqlite::Statement(database_,
                    "INSERT INTO evaluations(recorded_at, name, run, program, machine, threads, "
                    "kernels, seconds, settings, gates) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
      .bind(c.recorded_at)
      .bind(c.name)
      .bind(c.run)
      .bind(c.program)
      .bind(c.machine)
      .bind(c.threads)
      .bind(c.kernels)
      .bind(c.seconds)
      .bind(settings_text(recorded))
      .bind(to_json(recorded.gates).dump(-1, ' ', false, Json::error_handler_t::replace))
      .run();
  const std::int64_t id = database_.last_insert_id();
  for (std::size_t i = 0; i < evaluation.stages.size(); ++i) {
    const StageResult& stage = evaluation.stages[i];
    write_stage(id, static_cast<std::int64_t>(i), stage);
    for (std::size_t j = 0; j < stage.suites.size(); ++j) {
      write_suite(id, static_cast<std::int64_t>(i), static_cast<std::int64_t>(j), stage.suites[j]);
      write_figures(database_, id, i, j, analysis.figures[i][j]);
    }
  }
  if (tag) {
    require_free(database_, *tag, id);
    write_tag(database_, id, *tag);
  }
  remove_parts(database_, parts);
  transaction.commit();
  return id;
}

void Ledger::add_stage(std::int64_t id, const StageResult& stage,
                       const std::vector<std::vector<Measured>>& figures, double seconds) {
  sqlite::Transaction transaction(database_);
  sqlite::Statement known(database_, "SELECT 1 FROM evaluations WHERE id = ?");
  if (!known.bind(id).step())
    throw ConfigError("there is no evaluation {} in ledger '{}'", id, path_.string());
  sqlite::Statement place(database_,
                          "SELECT coalesce((SELECT min(position) FROM stages WHERE evaluation = ?1 "
                          "AND name = ?2), (SELECT 1 + max(position) FROM stages WHERE evaluation "
                          "= ?1), 0)");
  place.bind(id).bind(stage.name).step();
  const std::int64_t position = place.integer(0);
  sqlite::Statement(database_, "DELETE FROM stages WHERE evaluation = ? AND position >= ?")
      .bind(id)
      .bind(position)
      .run();
  write_stage(id, position, stage);
  for (std::size_t j = 0; j < stage.suites.size(); ++j) {
    write_suite(id, position, static_cast<std::int64_t>(j), stage.suites[j]);
    write_figures(database_, id, static_cast<std::size_t>(position), j, figures[j]);
  }
  sqlite::Statement(database_, "UPDATE evaluations SET seconds = ? WHERE id = ?")
      .bind(seconds)
      .bind(id)
      .run();
  transaction.commit();
}

void Ledger::write_stage(std::int64_t id, std::int64_t position, const StageResult& stage) {
  sqlite::Statement(database_, "INSERT INTO stages VALUES (?, ?, ?, ?, ?, ?, ?, ?)")
      .bind(id)
      .bind(position)
      .bind(stage.name)
      .bind(stage.model.string())
      .bind(stage.model_digest)
      .bind(adapters_text(stage))
      .bind(stage.quantise)
      .bind(stage.seconds)
      .run();
}

void Ledger::write_suite(std::int64_t id, std::int64_t stage, std::int64_t position,
                         const SuiteResult& suite) {
  const std::vector<std::byte> results = pack(suite);
  sqlite::Statement(database_, "INSERT INTO suites VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
      .bind(id)
      .bind(stage)
      .bind(position)
      .bind(suite.name)
      .bind(word(suite.kind))
      .bind(suite.labels.language)
      .bind(std::int64_t{suite.labels.must_keep})
      .bind(static_cast<std::int64_t>(suite.items.size()))
      .bind(suite.digest)
      .bind(std::span(results))
      .run();
}

std::optional<SuiteResult> Ledger::find_part(const std::string& key) {
  sqlite::Statement query(database_, "SELECT results FROM parts WHERE key = ?");
  if (!query.bind(key).step()) return std::nullopt;
  try {
    return unpack(query.bytes(0), "a part");
  } catch (const InputError&) {
    return std::nullopt;  // It is measured again.
  }
}

void Ledger::keep_part(const std::string& key, const SuiteResult& result) {
  const std::vector<std::byte> results = pack(result);
  sqlite::Statement(database_, "INSERT OR REPLACE INTO parts VALUES (?, ?, ?)")
      .bind(key)
      .bind(static_cast<std::int64_t>(std::time(nullptr)))
      .bind(std::span(results))
      .run();
}

std::int64_t Ledger::find(std::string_view name) {
  std::int64_t id = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), id);
  if (error == std::errc() && end == name.data() + name.size()) {
    sqlite::Statement query(database_, "SELECT id FROM evaluations WHERE id = ?");
    if (query.bind(id).step()) return id;
  } else if (name == "latest") {
    sqlite::Statement query(database_, "SELECT max(id) FROM evaluations");
    if (query.step() && !query.is_null(0)) return query.integer(0);
  } else if (const auto found = tagged(database_, name)) {
    return *found;
  }
  std::vector<std::string> tags;
  sqlite::Statement query(database_, "SELECT name FROM tags ORDER BY name LIMIT 20");
  while (query.step()) tags.push_back(query.text(0));
  throw ConfigError(
      "there is no evaluation '{}' in ledger '{}'; it has {} evaluations (weft ledger list){}",
      name, path_.string(), database_.number("SELECT count(*) FROM evaluations"),
      tags.empty() ? std::string(" and no tags")
                   : fmt::format(" and the tags {}", fmt::join(tags, ", ")));
}

void Ledger::tag(std::int64_t id, const std::string& name, bool replace) {
  require_tag(name);
  sqlite::Transaction transaction(database_);
  if (!replace) require_free(database_, name, id);
  write_tag(database_, id, name);
  transaction.commit();
}

void Ledger::require_free_tag(const std::string& name) {
  require_tag(name);
  require_free(database_, name, 0);
}

void Ledger::remove_tag(const std::string& name) {
  sqlite::Transaction transaction(database_);
  if (!tagged(database_, name)) throw ConfigError("there is no tag '{}' to remove", name);
  sqlite::Statement(database_, "DELETE FROM tags WHERE name = ?").bind(name).run();
  transaction.commit();
}

std::string Ledger::file_digest(const std::filesystem::path& file) {
  const std::string path = std::filesystem::weakly_canonical(file).string();
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return core::sha256_file(file);  // Says what is wrong.
  const auto size = static_cast<std::int64_t>(info.st_size);
  // The inode's time, which programs that restore a file's time of change cannot set.
  const std::int64_t changed =
      std::int64_t{info.st_ctim.tv_sec} * 1000000000 + info.st_ctim.tv_nsec;
  {
    sqlite::Statement query(database_,
                            "SELECT digest FROM files WHERE path = ? AND size = ? AND changed = ?");
    if (query.bind(path).bind(size).bind(changed).step()) return query.text(0);
  }
  std::string digest = core::sha256_file(file);
  // A file that has just been written may be written again without its time telling so.
  if (std::time(nullptr) - info.st_ctim.tv_sec < 3 || !database_.writable()) return digest;
  sqlite::Statement(database_, "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)")
      .bind(path)
      .bind(size)
      .bind(changed)
      .bind(digest)
      .run();
  return digest;
}

void require_tag(std::string_view name) {
  const auto allowed = [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '.' || c == '_' || c == '-' || c == '+';
  };
  const auto digit = [](unsigned char c) { return std::isdigit(c) != 0; };
  if (name.empty() || !std::ranges::all_of(name, allowed) || std::ranges::all_of(name, digit) ||
      name == "latest") {
    throw ConfigError(
        "'{}' cannot be a tag: letters, digits, '.', '_', '-' and '+' can, not only digits, and "
        "not \"latest\"",
        name);
  }
}

std::optional<std::filesystem::path> default_ledger() {
  constexpr const char* kName = "weft.db";
  if (const char* named = std::getenv("WEFT_LEDGER"); named != nullptr && *named != '\0') {
    if (std::string_view(named) == "none") return std::nullopt;
    return named;
  }
  const std::filesystem::path here = std::filesystem::current_path();
  for (std::filesystem::path folder = here;; folder = folder.parent_path()) {
    std::error_code ignored;
    if (std::filesystem::is_regular_file(folder / kName, ignored)) return folder / kName;
    if (folder == folder.parent_path()) return here / kName;
  }
}

}  // namespace weft::eval
