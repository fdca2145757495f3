#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <vector>

#include "data/pack.h"
#include "data/row.h"

namespace weft::train {

/// The rows that one update of the adapter learns from.
struct Update {
  std::vector<data::Row> rows;
  std::uint64_t tokens = 0;             ///< Of the examples, shared ones counted for each
  std::uint64_t computed_tokens = 0;    ///< Of the rows
  std::uint64_t supervised_tokens = 0;  ///< Positions with a target; above 0.
};

struct UpdateStreamOptions {
  data::RowStreamOptions rows;  ///< Its `epochs` and `most_tokens` are not used.
  std::int64_t tokens_per_update = 4096;
  std::optional<std::int64_t> rows_per_update{};  ///< Instead of tokens.
  std::optional<double> num_epochs;               ///< Neither given: one epoch.
  std::optional<std::int64_t> max_updates;
};

/// When an update is full.
struct UpdateLimit {
  std::int64_t tokens = 0;
  std::optional<std::int64_t> rows{};

  /// Whether a row of `row_tokens` joins an update that holds `held_rows` of `held_tokens`.
  [[nodiscard]] bool admits(std::int64_t held_rows, std::int64_t held_tokens,
                            std::int64_t row_tokens) const {
    if (held_rows == 0) return true;
    return rows ? held_rows < *rows : held_tokens + row_tokens <= tokens;
  }
};

/// Rows grouped into updates, to the end of the run. An update holds whole rows, in the stream's
/// order, as many as fit into tokens_per_update, at least one, or rows_per_update of them, the last
/// of an epoch the rest; it never spans two epochs. Tokens
/// are counted for each example, so that sharing beginnings does not change what an update learns
/// from.
///
/// Examples that lie in a vector must outlive the stream unchanged. ConfigError for more than 1e15
/// updates.
class UpdateStream {
 public:
  UpdateStream(const data::ExampleTable& examples, const UpdateStreamOptions& options);

  /// Updates of the whole run: known before it starts, as schedules need it. Epochs differ a little
  /// in their updates; those of the first 32, or of about as many as hold 4 million examples,
  /// are counted, and the others taken for their mean.
  [[nodiscard]] std::int64_t total() const { return total_; }
  /// Tokens of the examples in the first epoch, and those of the rows that hold them: fewer where
  /// examples share their beginnings.
  struct Tokens {
    std::int64_t example_tokens = 0;
    std::int64_t computed_tokens = 0;
  };
  [[nodiscard]] const Tokens& first_epoch() const { return first_epoch_; }
  /// Updates that next() has given.
  [[nodiscard]] std::int64_t given() const { return given_; }
  /// Passes over the data that next() has given, 1.25 being a quarter of the second.
  [[nodiscard]] double epoch() const;
  /// Nothing after total() updates.
  [[nodiscard]] std::optional<Update> next();

  /// The position between two updates. A row that was read and did not fit is read again after
  /// restore(), so no remainder has to be kept.
  [[nodiscard]] nlohmann::json state() const;
  void restore(const nlohmann::json& state);

 private:
  UpdateStream(const data::ExampleTable& examples,
               std::shared_ptr<const std::vector<data::Prefix>> prefixes,
               const UpdateStreamOptions& options);
  void count(const std::vector<data::Prefix>& prefixes, const UpdateStreamOptions& options);
  /// Of the epochs that are not planned: those that are planned go on alike.
  void count_the_rest(const UpdateStreamOptions& options);
  /// Of a planned epoch.
  [[nodiscard]] double mean_updates() const;
  void look_ahead();

  data::RowStream rows_;
  UpdateLimit limit_;
  std::vector<std::int64_t> ends_;  ///< Updates up to the end of each epoch that is planned.
  std::int64_t total_ = 0;
  Tokens first_epoch_;
  std::int64_t given_ = 0;
  std::optional<data::Row> ahead_;  ///< Read, not yet part of an update.
  nlohmann::json before_ahead_;     ///< The rows' position before it.
  bool ahead_starts_epoch_ = false;
};

}  // namespace weft::train
