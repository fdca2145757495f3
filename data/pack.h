#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <vector>

#include "data/prompt.h"
#include "data/row.h"

namespace weft::data {

/// Puts whole examples one after another into a row: positions restart, targets are shifted inside
/// each segment, unsupervised targets are kNoTarget.
[[nodiscard]] Row make_row(std::span<const Example* const> examples);

struct RowStreamOptions {
  std::int64_t sequence_len = 1024;    ///< No row is longer.
  bool packing = true;                 ///< Several examples a row; otherwise one.
  bool shuffle = true;                 ///< A new order in every epoch.
  std::uint64_t seed = 0;
  std::optional<std::int64_t> epochs = std::nullopt;  ///< End after so many; without it rows never end.
  std::int64_t window = 4096;          ///< Examples that are packed together.
};

/// Which examples share a row, for one epoch: best-fit decreasing within windows of the shuffled
/// order, rows in shuffled order. Depends on lengths, options and epoch only. Every index is in
/// exactly one row. InputError when a length is 0 or exceeds sequence_len.
[[nodiscard]] std::vector<std::vector<std::uint32_t>> plan_epoch(
    std::span<const std::int64_t> lengths, const RowStreamOptions& options, std::int64_t epoch);

/// Rows for training, epoch after epoch, resumable between any two rows.
///
/// The stream refers to `examples`, which must outlive it unchanged. One thread at a time.
class RowStream {
 public:
  RowStream(std::span<const Example> examples, RowStreamOptions options);

  /// The next row; nothing after the last epoch.
  [[nodiscard]] std::optional<Row> next();

  /// Epochs begun before the next row, from 0, and that row's place in its epoch.
  [[nodiscard]] std::int64_t epoch() const noexcept { return epoch_; }
  [[nodiscard]] std::int64_t position() const noexcept { return position_; }
  /// Rows of the present epoch (packing makes them differ a little between epochs).
  [[nodiscard]] std::int64_t rows_in_epoch() const;
  /// Epochs done, with the part of the present one: 1.25.
  [[nodiscard]] double epochs_done() const;
  /// Examples that next() returned last, as indices: for messages about a row.
  [[nodiscard]] const std::vector<std::uint32_t>& last_examples() const { return last_; }

  /// {"epoch", "position", "fingerprint"}; restore() continues exactly after the row that next()
  /// had returned. InputError when the fingerprint is not that of these examples and options.
  [[nodiscard]] nlohmann::json state() const;
  void restore(const nlohmann::json& state);

 private:
  void prepare();

  std::span<const Example> examples_;
  RowStreamOptions options_;
  std::vector<std::int64_t> lengths_;
  std::string fingerprint_;
  std::int64_t epoch_ = 0;
  std::int64_t position_ = 0;
  std::int64_t planned_ = -1;  ///< The epoch that plan_ is for.
  std::vector<std::vector<std::uint32_t>> plan_;
  std::vector<std::uint32_t> last_;
};

}  // namespace weft::data
