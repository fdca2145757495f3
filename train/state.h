#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "lora/adapter.h"
#include "train/moments.h"

namespace weft::train {

/// What a run is made of; a run resumes only with the same. Path of the key (`learning_rate`) or of
/// the ingredient (`base weights`, `data /path/train.csv`) -> value or digest.
using Fingerprint = std::map<std::string, std::string>;
/// The ingredient that is the day a chat template prints; absent where it prints none.
inline constexpr const char* kTemplateDate = "date of the chat template";

/// Work that is done now and then.
struct Due {
  std::int64_t last = -1;  ///< The update that it was last done at; -1: never.
  bool pending = false;    ///< Wanted at the present update, and not done yet.

  void done(std::int64_t update) { *this = {update, false}; }
  bool operator==(const Due&) const = default;
};

/// Everything that an interrupted run needs to go on as if nothing had happened. Randomness needs
/// no entry: every random choice is a function of the seed and of the positions below.
struct TrainState {
  std::int64_t update = 0;  ///< Updates done.
  std::uint64_t tokens = 0;
  std::uint64_t supervised_tokens = 0;
  double seconds = 0;           ///< Spent training, interruptions not counted.
  std::int64_t row_tokens = 0;  ///< MemoryPlan::row_tokens of the run; 0: not recorded.
  Due evaluation;               ///< Of the validation loss.
  Due suites;                   ///< Of `evaluate:`.
  std::optional<double> first_validation_loss;
  std::optional<double> first_figure;  ///< Of evaluate.keep_best_by.
  nlohmann::json data;                 ///< Position in the data: data::RowStream's own state.
  nlohmann::json guard;
  nlohmann::json early_stopping;
  std::uint64_t metrics_bytes = 0;  ///< Length that metrics.jsonl had.
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
  /// The newest, or nothing. InputError when it is damaged, saying which folder to remove so that
  /// the one before is taken: a file that is missing or is no JSON, a number out of range, a tensor
  /// of another shape than the adapter says.
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

/// InputError when the checkpoint's adapter does not have just the factors of these targets: a
/// module, a rank or a shape differs.
void require_factors_of(const TrainState& state, const std::vector<lora::Target>& targets,
                        const std::filesystem::path& checkpoint);

}  // namespace weft::train
