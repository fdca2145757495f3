#include "train/update_stream.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/error.h"
#include "core/stop.h"

namespace weft::train {
namespace {

/// Epochs are planned one by one as long as all together hold so many examples (seconds), an epoch
/// costing as much as some of them, and at least so many epochs.
constexpr std::int64_t kPlannedExamples = std::int64_t{1} << 22;
constexpr std::int64_t kCostOfEpoch = 256;
constexpr std::int64_t kPlannedEpochs = 32;
/// Beyond it a number of updates is no longer exact in metrics.jsonl and in a schedule.
constexpr double kMostUpdates = 1e15;

/// So many epochs are planned before the run: the time for it must not grow with num_epochs.
std::int64_t planned_epochs(std::int64_t examples) {
  return std::max(kPlannedEpochs, kPlannedExamples / (examples + kCostOfEpoch));
}

std::int64_t updates_in(const std::vector<data::PlannedRow>& plan, const UpdateLimit& limit) {
  std::int64_t updates = 0;
  std::int64_t rows = 0;
  std::int64_t held = 0;
  for (const data::PlannedRow& row : plan) {
    if (!limit.admits(rows, held, row.example_tokens)) {
      ++updates;
      rows = 0;
      held = 0;
    }
    ++rows;
    held += row.example_tokens;
  }
  return updates + (rows > 0 ? 1 : 0);
}

/// Rows as the updates want them: without end, and so that whole ones fill an update. With shared
/// beginnings a row holds more of the examples' tokens than of its own, and the number that fits
/// into an update is not known from sequence_len.
data::RowStreamOptions rows_for(std::span<const data::Prefix> examples,
                                const UpdateStreamOptions& options) {
  data::RowStreamOptions rows = options.rows;
  rows.epochs.reset();
  if (!rows.packing || !rows.share_prefixes || examples.empty()) return rows;
  rows.most_tokens = options.tokens_per_update;
  std::int64_t tokens = 0;
  const auto plan = data::plan_epoch(examples, rows, 0);
  for (const data::PlannedRow& row : plan) tokens += row.example_tokens;
  const auto limit = static_cast<double>(options.tokens_per_update);
  const double rows_an_update =
      limit * static_cast<double>(plan.size()) / static_cast<double>(tokens);
  rows.most_tokens = static_cast<std::int64_t>(limit / std::max(1.0, std::round(rows_an_update)));
  return rows;
}

}  // namespace

UpdateStream::UpdateStream(const data::ExampleTable& examples, const UpdateStreamOptions& options)
    : UpdateStream(examples,
                   std::make_shared<const std::vector<data::Prefix>>(data::prefixes_of(examples)),
                   options) {}

UpdateStream::UpdateStream(const data::ExampleTable& examples,
                           std::shared_ptr<const std::vector<data::Prefix>> prefixes,
                           const UpdateStreamOptions& options)
    : rows_(examples, prefixes, rows_for(*prefixes, options)),
      limit_{options.tokens_per_update, options.rows_per_update} {
  count(*prefixes, options);
  examples.release();
}

void UpdateStream::count(const std::vector<data::Prefix>& prefixes,
                         const UpdateStreamOptions& options) {
  const data::RowStreamOptions& rows = rows_.options();
  std::optional<double> epochs = options.num_epochs;
  if (!epochs && !options.max_updates) epochs = 1;
  const std::int64_t most = planned_epochs(std::ssize(prefixes));
  for (std::int64_t epoch = 0; !epochs || static_cast<double>(epoch) < *epochs; ++epoch) {
    core::leave_if_stopped("planning the run");
    if (epoch == most) {
      count_the_rest(options);
      break;
    }
    // The first epoch is planned already; the others are planned again when they begin.
    std::vector<data::PlannedRow> later;
    if (epoch > 0) later = data::plan_epoch(prefixes, rows, epoch);
    const std::vector<data::PlannedRow>& plan = epoch > 0 ? later : rows_.plan();
    const std::int64_t updates = updates_in(plan, limit_);
    if (epoch == 0) {
      for (const data::PlannedRow& row : plan) {
        first_epoch_.example_tokens += row.example_tokens;
        first_epoch_.computed_tokens += row.tokens;
      }
    }
    const double part = epochs ? std::min(1.0, *epochs - static_cast<double>(epoch)) : 1.0;
    ends_.push_back((ends_.empty() ? 0 : ends_.back()) + updates);
    total_ += std::max<std::int64_t>(1, std::llround(part * static_cast<double>(updates)));
    if (options.max_updates && total_ >= *options.max_updates) break;
  }
  if (options.max_updates) total_ = std::min(total_, *options.max_updates);
}

void UpdateStream::count_the_rest(const UpdateStreamOptions& options) {
  const double epochs = options.num_epochs.value_or(std::numeric_limits<double>::infinity());
  const double updates =
      static_cast<double>(total_) + (epochs - static_cast<double>(ends_.size())) * mean_updates();
  if (options.max_updates && updates > static_cast<double>(*options.max_updates)) {
    total_ = *options.max_updates;
    return;
  }
  if (updates > kMostUpdates) {
    throw ConfigError(
        "num_epochs: {} passes over this data are more than {} updates; lower num_epochs or set "
        "max_updates",
        epochs, kMostUpdates);
  }
  total_ = std::llround(updates);
}

double UpdateStream::mean_updates() const {
  return static_cast<double>(ends_.back()) / static_cast<double>(ends_.size());
}

double UpdateStream::epoch() const {
  const auto next = std::ranges::upper_bound(ends_, given_);
  if (next == ends_.end()) {
    if (ends_.empty()) return 0;
    const auto beyond = static_cast<double>(given_ - ends_.back());
    return static_cast<double>(ends_.size()) + beyond / mean_updates();
  }
  const auto index = next - ends_.begin();
  const std::int64_t begin = index == 0 ? 0 : ends_[static_cast<std::size_t>(index - 1)];
  return static_cast<double>(index) +
         static_cast<double>(given_ - begin) / static_cast<double>(*next - begin);
}

void UpdateStream::look_ahead() {
  if (ahead_) return;
  before_ahead_ = rows_.state();
  ahead_starts_epoch_ = rows_.position() == 0;
  ahead_ = rows_.next();
}

std::optional<Update> UpdateStream::next() {
  if (given_ >= total_) return std::nullopt;
  Update update;
  for (look_ahead(); ahead_; look_ahead()) {
    const std::int64_t tokens = ahead_->example_tokens;
    const bool is_full =
        !limit_.admits(std::ssize(update.rows), static_cast<std::int64_t>(update.tokens), tokens);
    if (!update.rows.empty() && (ahead_starts_epoch_ || is_full)) break;
    update.tokens += static_cast<std::uint64_t>(tokens);
    update.computed_tokens += ahead_->tokens.size();
    update.supervised_tokens += static_cast<std::uint64_t>(std::ranges::count_if(
        ahead_->targets, [](auto target) { return target != data::kNoTarget; }));
    update.rows.push_back(std::move(*ahead_));
    ahead_.reset();
  }
  if (update.supervised_tokens == 0) {
    throw InputError("update {} has no token to learn: every target in its rows is masked",
                     given_ + 1);
  }
  ++given_;
  return update;
}

nlohmann::json UpdateStream::state() const {
  return {{"updates", given_}, {"rows", ahead_ ? before_ahead_ : rows_.state()}};
}

void UpdateStream::restore(const nlohmann::json& state) {
  const auto rows = state.find("rows");
  const auto updates = state.find("updates");
  if (rows == state.end() || updates == state.end() || !updates->is_number_integer()) {
    throw InputError("the saved data position is damaged");
  }
  rows_.restore(*rows);
  given_ = updates->get<std::int64_t>();
  ahead_.reset();
}

}  // namespace weft::train
