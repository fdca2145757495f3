#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <vector>

#include "data/example_table.h"
#include "data/prefix.h"
#include "data/prompt.h"
#include "data/row.h"

namespace weft::data {

/// Puts whole examples into a row: positions restart, targets are shifted inside each segment,
/// unsupervised targets are kNoTarget. With `share_prefixes` beginnings that several have in common
/// are there once (data/prefix.h), and the examples are in the order of their tokens.
[[nodiscard]] Row make_row(std::span<const ExampleView> examples, bool share_prefixes = false);
[[nodiscard]] Row make_row(std::span<const Example* const> examples, bool share_prefixes = false);

struct RowStreamOptions {
  std::int64_t sequence_len = 1024;  ///< No row is longer.
  bool packing = true;               ///< Several examples a row; otherwise one.
  bool share_prefixes = false;       ///< With packing: beginnings in common are in a row once.
  /// Tokens of a row's examples together, shared ones counted for each of them, at most (one
  /// example may have more).
  std::int64_t most_tokens = std::numeric_limits<std::int64_t>::max();
  bool shuffle = true;  ///< A new order in every epoch; without it the order of the examples.
  std::uint64_t seed = 0;
  std::optional<std::int64_t> epochs =
      std::nullopt;            ///< End after so many; without it rows never end.
  std::int64_t window = 4096;  ///< Examples that are packed together.
};

/// A row to be made.
struct PlannedRow {
  std::vector<std::uint32_t> examples;
  std::int64_t tokens = 0;          ///< It holds at most so many.
  std::int64_t example_tokens = 0;  ///< Tokens of its examples, shared ones counted for each.
  bool operator==(const PlannedRow&) const = default;
};

/// Which examples share a row, for one epoch: best-fit decreasing within windows of the shuffled
/// order, rows in shuffled order. With shared prefixes, examples that begin alike are packed as one
/// piece where they fit, and into rows of their own where they are many. Without shuffling rows
/// hold neighbours and keep the order of the examples. Depends on the examples' tokens and marks,
/// options and epoch only. Every index is in exactly one row. InputError when an example is empty
/// or longer than sequence_len.
[[nodiscard]] std::vector<PlannedRow> plan_epoch(std::span<const Prefix> examples,
                                                 const RowStreamOptions& options,
                                                 std::int64_t epoch);

[[nodiscard]] std::vector<Prefix> prefixes_of(const ExampleTable& examples);

/// Rows for training, epoch after epoch, resumable between any two rows.
///
/// Examples that lie in a vector must outlive the stream unchanged. One thread at a time.
class RowStream {
 public:
  RowStream(ExampleTable examples, RowStreamOptions options);
  /// With `prefixes_of(examples)`, which are looked at already.
  RowStream(ExampleTable examples, std::shared_ptr<const std::vector<Prefix>> prefixes,
            RowStreamOptions options);

  /// The next row; nothing after the last epoch.
  [[nodiscard]] std::optional<Row> next();

  [[nodiscard]] const RowStreamOptions& options() const noexcept { return options_; }

  /// Epochs begun before the next row, from 0, and that row's place in its epoch.
  [[nodiscard]] std::int64_t epoch() const noexcept { return epoch_; }
  [[nodiscard]] std::int64_t position() const noexcept { return position_; }
  /// Rows of the present epoch (packing makes them differ a little between epochs).
  [[nodiscard]] std::int64_t rows_in_epoch() const;
  /// Epochs done, with the part of the present one: 1.25.
  [[nodiscard]] double epochs_done() const;
  /// The rows of the epoch that was planned last: the first one, before any next().
  [[nodiscard]] const std::vector<PlannedRow>& plan() const noexcept { return plan_; }
  /// Examples that next() returned last, as indices: for messages about a row.
  [[nodiscard]] const std::vector<std::uint32_t>& last_examples() const { return last_; }

  /// {"epoch", "position", "fingerprint"}; restore() continues exactly after the row that next()
  /// had returned. InputError when the fingerprint is not that of these examples and options.
  [[nodiscard]] nlohmann::json state() const;
  void restore(const nlohmann::json& state);

 private:
  void prepare();

  ExampleTable examples_;
  RowStreamOptions options_;
  std::shared_ptr<const std::vector<Prefix>> prefixes_;  ///< The same for copies of the stream
  std::string fingerprint_;
  std::int64_t epoch_ = 0;
  std::int64_t position_ = 0;
  std::int64_t planned_ = -1;  ///< The epoch that plan_ is for.
  std::vector<PlannedRow> plan_;
  std::vector<std::uint32_t> last_;
};

}  // namespace weft::data
