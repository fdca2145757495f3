#include "train/update_stream.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"

namespace weft::train {
namespace {

/// The rule that groups rows, kept in one place for counting and for reading.
bool fits(std::int64_t held, std::int64_t row, std::int64_t limit) {
  return held == 0 || held + row <= limit;
}

std::int64_t updates_in(const std::vector<std::vector<std::uint32_t>>& plan,
                        std::span<const std::int64_t> lengths, std::int64_t limit) {
  std::int64_t updates = 0;
  std::int64_t held = 0;
  for (const auto& row : plan) {
    std::int64_t tokens = 0;
    for (const std::uint32_t example : row) tokens += lengths[example];
    if (!fits(held, tokens, limit)) {
      ++updates;
      held = 0;
    }
    held += tokens;
  }
  return updates + (held > 0 ? 1 : 0);
}

data::RowStreamOptions endless(data::RowStreamOptions options) {
  options.epochs.reset();
  return options;
}

}  // namespace

UpdateStream::UpdateStream(std::span<const data::Example> examples,
                           const UpdateStreamOptions& options)
    : rows_(examples, endless(options.rows)), limit_(options.tokens_per_update) {
  if (examples.empty()) throw InputError("there is no example to learn from");
  count(examples, options);
}

void UpdateStream::count(std::span<const data::Example> examples,
                         const UpdateStreamOptions& options) {
  std::vector<std::int64_t> lengths;
  for (const data::Example& example : examples) {
    lengths.push_back(static_cast<std::int64_t>(example.tokens.size()));
  }
  std::optional<double> epochs = options.num_epochs;
  if (!epochs && !options.max_updates) epochs = 1;
  for (std::int64_t epoch = 0; !epochs || static_cast<double>(epoch) < *epochs; ++epoch) {
    const auto plan = data::plan_epoch(lengths, endless(options.rows), epoch);
    const std::int64_t updates = updates_in(plan, lengths, limit_);
    const double part = epochs ? std::min(1.0, *epochs - static_cast<double>(epoch)) : 1.0;
    ends_.push_back((ends_.empty() ? 0 : ends_.back()) + updates);
    total_ += std::max<std::int64_t>(1, std::llround(part * static_cast<double>(updates)));
    if (options.max_updates && total_ >= *options.max_updates) {
      total_ = *options.max_updates;
      break;
    }
  }
}

double UpdateStream::epoch() const {
  const auto next = std::ranges::upper_bound(ends_, given_);
  if (next == ends_.end()) return static_cast<double>(ends_.size());
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
    const auto tokens = static_cast<std::int64_t>(ahead_->tokens.size());
    const bool is_full = !fits(static_cast<std::int64_t>(update.tokens), tokens, limit_);
    if (!update.rows.empty() && (ahead_starts_epoch_ || is_full)) break;
    update.tokens += static_cast<std::uint64_t>(tokens);
    update.supervised_tokens += static_cast<std::uint64_t>(
        std::ranges::count_if(ahead_->targets, [](auto target) { return target != data::kNoTarget; }));
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
  rows_.restore(state.at("rows"));
  given_ = state.at("updates").get<std::int64_t>();
  ahead_.reset();
}

}  // namespace weft::train
