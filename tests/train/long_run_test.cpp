// A run of ten thousand updates: memory, time and output stay as they were.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <numeric>
#include <sstream>

#include "tests/train/tiny_run.h"

namespace weft::train {
namespace {
using tests::TinyRun;

constexpr std::int64_t kUpdates = 10000;
constexpr std::int64_t kWarmUp = 1000;  // Buffers reach their sizes, the heap finds its shape.

/// Processor time of this process so far, in seconds.
double processor_seconds() {
  struct rusage usage {};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

TEST(LongRun, MemoryTimeAndOutputStaySteadyForTenThousandUpdates) {
  TinyRun job;
  job.folder().write("train.jsonl", tests::tiny_pairs(3000));
  std::vector<double> processor{processor_seconds()};
  const Outcome outcome = job.run_observed(
      "save: {every: 500u}\nlog_every: 100\nvalidation: {path: valid.jsonl}\n"
      "eval: {every: 500u}\nearly_stopping: {patience: 1000}\n",
      {"num_epochs=null", "max_updates=" + std::to_string(kUpdates), "learning_rate=1e-4",
       "preflight.max_duplicate_share=1", "token_cache=" + (job / "tokens").string()},
      Start::kReplace, [&](std::int64_t) { processor.push_back(processor_seconds()); });
  ASSERT_EQ(outcome.updates, kUpdates);

  std::vector<double> resident;
  std::istringstream lines(tests::slurp(job / "run/metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line);
    if (json.contains("resident_bytes")) resident.push_back(json.at("resident_bytes"));
  }
  ASSERT_EQ(std::ssize(resident), kUpdates);
  constexpr std::size_t kThird = static_cast<std::size_t>(kUpdates - kWarmUp) / 3;
  const std::span steady = std::span(resident).last(3 * kThird);
  const double memory_first = mean(steady.first(kThird));
  const double memory_last = mean(steady.last(kThird));
  EXPECT_LT(memory_last, 1.01 * memory_first)
      << memory_first / (1 << 20) << " MiB, then " << memory_last / (1 << 20);

  const auto spent = [&](std::size_t from, std::size_t to) {
    return processor[to] - processor[from];
  };
  const double time_first = spent(kWarmUp, kWarmUp + kThird);
  const double time_last = spent(kUpdates - kThird, kUpdates);
  EXPECT_LT(time_last, 1.3 * time_first) << "seconds of the processor for " << kThird << " updates";
  std::printf("memory %.1f MiB, then %.1f; %.3f ms an update, then %.3f\n",
              memory_first / (1 << 20), memory_last / (1 << 20),
              1e3 * time_first / static_cast<double>(kThird),
              1e3 * time_last / static_cast<double>(kThird));

  std::int64_t told = 0;
  std::istringstream log(tests::slurp(job / "run/log.txt"));
  for (std::string line; std::getline(log, line);) {
    if (line.find("  rate ") == std::string::npos) continue;
    told += 100;
    EXPECT_NE(line.find("update " + std::to_string(told) + "/10000  epoch"), std::string::npos)
        << line;
  }
  EXPECT_EQ(told, kUpdates);
}

}  // namespace
}  // namespace weft::train
