#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "lora/adapter.h"
#include "train/optimizer.h"

namespace weft::train {

/// What a run is made of; a run resumes only with the same. Path of the key (`learning_rate`) or of
/// the ingredient (`base weights`, `data /path/train.csv`) -> value or digest.
using Fingerprint = std::map<std::string, std::string>;

/// Everything that an interrupted run needs to go on as if nothing had happened. Randomness needs
/// no entry: every random choice is a function of the seed and of the positions below.
struct TrainState {
  std::int64_t update = 0;  ///< Updates done.
  std::uint64_t tokens = 0;
  std::uint64_t supervised_tokens = 0;
  double seconds = 0;                 ///< Spent training, interruptions not counted.
  std::int64_t evaluated = -1;        ///< Update of the last evaluation.
  bool evaluation_due = false;        ///< One was begun and did not finish.
  std::int64_t suites_measured = -1;  ///< Update of the last evaluation of `evaluate:`.
  bool suites_due = false;            ///< One was begun and did not finish.
  nlohmann::json data;                ///< Position in the data: data::RowStream's own state.
  nlohmann::json guard;
  nlohmann::json early_stopping;
  std::uint64_t metrics_bytes = 0;  ///< Length of metrics.jsonl.
  Fingerprint fingerprint;
  lora::Adapter adapter;  ///< fp32 masters.
  std::int64_t optimizer_updates = 0;
  std::vector<Moments> moments;  ///< Two per factor: of A, of B, in the adapter's order.
};

/// Checkpoints of one run: folders `checkpoints/NNNNNN`, named by updates done, each with
/// adapter/ (PEFT), optimizer.safetensors and state.json.
class Checkpoints {
 public:
  explicit Checkpoints(std::filesystem::path folder);

  /// Writes a checkpoint that appears whole or not at all, then removes the oldest so that `keep`
  /// remain (0: all stay). Throws IoError; earlier checkpoints are intact then.
  void save(const TrainState& state, std::int64_t keep) const;
  /// The newest, or nothing. Throws InputError when it is damaged.
  [[nodiscard]] std::optional<TrainState> load_last() const;
  /// Updates done of each, ascending.
  [[nodiscard]] std::vector<std::int64_t> list() const;
  [[nodiscard]] std::filesystem::path path_of(std::int64_t update) const;
  /// Removes what a killed process left half-written.
  void remove_leftovers() const;

 private:
  std::filesystem::path folder_;
};

/// Names of entries that differ, with both values, for an error text; "" when `now` may continue
/// `then`. Keys in `free` may differ.
[[nodiscard]] std::string difference(const Fingerprint& then, const Fingerprint& now,
                                     const std::vector<std::string>& free);

}  // namespace weft::train
