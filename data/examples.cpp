#include "data/examples.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <iterator>
#include <mutex>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/parallel.h"
#include "core/stop.h"

namespace weft::data {
namespace {

/// Builds a batch of samples at a time on all threads. Examples keep the order of their samples,
/// and of several errors the one of the first sample is kept, however the threads ran. Rows that
/// cannot become examples are left out where the dataset says so.
class BatchBuilder {
 public:
  BatchBuilder(const PromptBuilder& builder, OnBadRow on_bad_row, PromptStatistics& statistics,
               const TakeExample& take)
      : builder_(builder), on_bad_row_(on_bad_row), statistics_(statistics), take_(take) {}

  void add(Sample&& sample, std::int64_t place) {
    if (failure_) return;
    samples_.push_back(std::move(sample));
    places_.push_back(place);
    if (samples_.size() == kBatch) build();
  }

  /// Throws the first sample's error.
  void finish() {
    if (!failure_) build();
    if (failure_) std::rethrow_exception(failure_);
  }

  /// Rows that were left out.
  [[nodiscard]] const std::vector<Fault>& faults() const { return faults_; }

 private:
  static constexpr std::size_t kBatch = 4096;
  static constexpr std::int64_t kGrain = 64;

  void build() {
    core::leave_if_stopped("reading the data");
    std::vector<std::vector<Example>> built(samples_.size());
    std::vector<std::optional<Fault>> bad(samples_.size());
    std::mutex mutex;
    std::size_t failed_at = samples_.size();
    core::parallel_for(std::ssize(samples_), kGrain, [&](std::int64_t begin, std::int64_t end) {
      PromptStatistics statistics;
      for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
        try {
          built[i] = builder_.build(samples_[i], statistics);
        } catch (const BadRow& row) {
          bad[i] = row.fault();
        } catch (...) {
          const std::lock_guard lock(mutex);
          if (i < failed_at) {
            failed_at = i;
            failure_ = std::current_exception();
          }
          break;
        }
      }
      const std::lock_guard lock(mutex);
      weft::data::add(statistics_, statistics);
    });
    judge(bad, failed_at);
    for (std::size_t i = 0; i < built.size() && !failure_; ++i) {
      for (Example& example : built[i]) take_(std::move(example), places_[i]);
    }
    samples_.clear();
    places_.clear();
  }

  /// Keeps the bad rows, or makes the first of them the error.
  void judge(const std::vector<std::optional<Fault>>& bad, std::size_t failed_at) {
    const auto count = std::ranges::count_if(bad, [](const auto& row) { return row.has_value(); });
    for (std::size_t i = 0; i < bad.size(); ++i) {
      if (!bad[i]) continue;
      if (on_bad_row_ == OnBadRow::kSkip) {
        faults_.push_back(*bad[i]);
      } else if (i < failed_at) {
        failure_ = std::make_exception_ptr(InputError(
            "{}: {} ({} bad {} in {}); repair the file, or set on_bad_row: skip",
            bad[i]->origin.text(), bad[i]->what, count, count == 1 ? "row" : "rows", bad.size()));
        return;
      }
    }
  }

  const PromptBuilder& builder_;
  OnBadRow on_bad_row_;
  PromptStatistics& statistics_;
  const TakeExample& take_;
  std::vector<Sample> samples_;
  std::vector<std::int64_t> places_;
  std::vector<Fault> faults_;
  std::exception_ptr failure_;
};

/// Counts the rows that could be read and not be used, and tells of the first.
void leave_out(const std::vector<Fault>& faults, ReadStatistics& rows, const core::Log& log) {
  if (faults.empty()) return;
  const std::int64_t all = rows.rows + rows.bad_rows;
  rows.rows -= std::ssize(faults);
  rows.bad_rows += std::ssize(faults);
  for (const Fault& fault : faults) {
    if (rows.faults.size() >= kFaultsKept) break;
    core::tell(log, core::Level::kWarning,
               fmt::format("{}: left out: {}", fault.origin.text(), fault.what));
    rows.faults.push_back(fault);
  }
  core::tell(log, core::Level::kWarning,
             fmt::format("{} of {} rows were left out, because no example can be made of them",
                         faults.size(), all));
}

}  // namespace

void add(PromptStatistics& sum, const PromptStatistics& part) {
  sum.samples += part.samples;
  sum.examples += part.examples;
  sum.dropped += part.dropped;
  sum.truncated += part.truncated;
  sum.truncated_texts += part.truncated_texts;
  sum.split += part.split;
  sum.pieces += part.pieces;
  sum.answerless += part.answerless;
  sum.unmerged += part.unmerged;
  sum.straddled += part.straddled;
  sum.appended_end += part.appended_end;
  sum.longest = std::max(sum.longest, part.longest);
  for (const auto& [name, samples] : part.unnamed) sum.unnamed[name] += samples;
}

void tell_losses(const PromptStatistics& p, const core::Log& log) {
  if (p.dropped > 0) {
    core::tell(log, core::Level::kWarning,
               fmt::format("{} of {} examples are longer than sequence_len and were left out (the "
                           "longest has {} tokens)",
                           p.dropped, p.samples, p.longest));
  }
  if (p.truncated > 0) {
    core::tell(log, core::Level::kWarning,
               fmt::format("{} of {} examples were cut to sequence_len", p.truncated, p.samples));
  }
  if (p.answerless > 0) {
    core::tell(log, core::Level::kWarning,
               fmt::format("{} of {} examples have nothing to learn and were left out",
                           p.answerless, p.samples));
  }
}

BuildStatistics stream_examples(const std::vector<DatasetConfig>& datasets,
                                const PromptBuilder& builder, const core::Log& log,
                                const TakeExample& take, Rows needed) {
  BuildStatistics all;
  std::int64_t before = 0;  // samples of earlier datasets
  for (const DatasetConfig& dataset : datasets) {
    std::int64_t samples = 0;
    BatchBuilder batches(builder, dataset.on_bad_row, all.prompts, take);
    ReadStatistics rows = stream_samples(
        dataset, log,
        [&](Sample&& sample, std::int64_t place) {
          ++samples;
          batches.add(std::move(sample), before + place);
        },
        needed);
    batches.finish();
    leave_out(batches.faults(), rows, log);
    if (rows.rows == 0 && needed == Rows::kNeeded) throw_no_rows(dataset, rows.bad_rows);
    before += samples;
    all.rows.rows += rows.rows;
    all.rows.bad_rows += rows.bad_rows;
    for (const auto& [name, filled] : rows.unused) all.rows.unused[name] += filled;
    std::move(rows.faults.begin(), rows.faults.end(), std::back_inserter(all.rows.faults));
  }
  return all;
}

Examples load_examples(const std::vector<DatasetConfig>& datasets, const PromptBuilder& builder,
                       const core::Log& log) {
  std::vector<std::pair<std::int64_t, Example>> placed;
  BuildStatistics statistics =
      stream_examples(datasets, builder, log, [&](Example&& example, std::int64_t place) {
        placed.emplace_back(place, std::move(example));
      });
  tell_losses(statistics.prompts, log);
  std::ranges::stable_sort(placed, {}, [](const auto& one) { return one.first; });
  Examples all{.examples = {}, .prompts = statistics.prompts, .rows = std::move(statistics.rows)};
  all.examples.reserve(placed.size());
  for (auto& [place, example] : placed) all.examples.push_back(std::move(example));
  return all;
}

}  // namespace weft::data
