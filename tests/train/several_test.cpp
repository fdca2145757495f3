// Several adapters in one run (`adapters:`): each as if alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/throws.h"
#include "tests/train/tiny_run.h"
#include "train/state.h"

namespace weft::train {
namespace {
using ::testing::HasSubstr;
using tests::TinyRun;

/// Own data, rank, rate, seed, dropout, length, validation.
constexpr const char* kSeveral =
    "adapters:\n"
    "  - name: plain\n"
    "  - name: other\n"
    "    seed: 9\n"
    "    learning_rate: 2e-2\n"
    "    adapter: {r: 2, lora_alpha: 6, lora_dropout: 0.2, target_modules: [q_proj, down_proj]}\n"
    "    datasets: [{path: valid.jsonl}]\n"
    "    num_epochs: 9\n"
    "  - name: watched\n"
    "    validation: {path: valid.jsonl}\n"
    "    eval: {every: 3u}\n"
    "    max_updates: 7\n";
const std::vector<std::string> kNames{"plain", "other", "watched"};

class SeveralAdapters : public ::testing::TestWithParam<const char*> {};

TEST_P(SeveralAdapters, EachEqualsARunOfItsOwnBitForBit) {
  TinyRun job;
  const std::string dtype = std::string("dtype=") + GetParam();
  const auto results = job.run_all(kSeveral, {dtype});
  ASSERT_EQ(results.size(), kNames.size());
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    const std::string folder = "run/" + kNames[i];
    EXPECT_EQ(results[i].outcome.ending, Ending::kAllUpdates);
    const auto metrics = job.metrics(folder);
    const std::string adapter = job.adapter_bytes(folder);
    ASSERT_GT(metrics.size(), 5U);
    // The folder's own description, run alone.
    auto alone = prepare(load_runs(job / (folder + "/config.yaml"), {}, {}), {});
    RunFolder claimed(alone.front().config.output_dir, Start::kReplace);
    claimed.claim();
    Observer silent;
    const auto solo = train({{alone.front(), claimed, silent}}, job.interrupted, {});
    ASSERT_FALSE(solo.front().failure);
    EXPECT_EQ(job.metrics(folder), metrics) << kNames[i];
    EXPECT_EQ(job.adapter_bytes(folder), adapter) << kNames[i];
  }
}

INSTANTIATE_TEST_SUITE_P(Types, SeveralAdapters, ::testing::Values("float32", "bfloat16"));

TEST(Several, InterruptedAndResumedEqualsTheUninterruptedRun) {
  TinyRun job;
  job.run_all(kSeveral, {"save.every=2u"});
  std::vector<std::string> adapters;
  for (const std::string& name : kNames) adapters.push_back(job.adapter_bytes("run/" + name));
  for (const std::int64_t stop : {1, 4, 8}) {
    const auto first =
        job.run_all(kSeveral, {"save.every=2u"}, Start::kReplace, [&](std::int64_t update) {
          if (update == stop) job.interrupted = true;
        });
    EXPECT_EQ(first.front().outcome.ending, Ending::kInterrupted);
    job.run_all(kSeveral, {"save.every=2u"}, Start::kResume);
    for (std::size_t i = 0; i < kNames.size(); ++i) {
      EXPECT_EQ(job.adapter_bytes("run/" + kNames[i]), adapters[i]) << kNames[i] << ", " << stop;
    }
  }
}

TEST(Several, OneThatDivergesDoesNotStopTheOthers) {
  TinyRun job;
  job.run_all(kSeveral);
  const std::string other = job.adapter_bytes("run/other");
  const auto results =
      job.run_all(kSeveral, {"adapters.plain.learning_rate=1e30", "adapters.plain.warmup=0",
                             "adapters.plain.max_grad_norm=0"});
  EXPECT_TRUE(results[0].failure);
  EXPECT_FALSE(results[1].failure);
  EXPECT_FALSE(results[2].failure);
  EXPECT_EQ(job.adapter_bytes("run/other"), other);
  EXPECT_TRUE(Checkpoints(job / "run/plain/checkpoints").load_last());
  EXPECT_THAT(tests::slurp(job / "run/plain/log.txt"), HasSubstr("ended early"));
}

TEST(Several, TheBaseIsCountedOnceAndTheOthersAreInThePlan) {
  TinyRun job;
  const auto runs = job.prepare_all(kSeveral);
  EXPECT_EQ(runs[0].base, runs[1].base);
  EXPECT_EQ(runs[0].plan.parts.back().what, "the other adapters");
  const auto own = [](const Prepared& run) { return run.plan.parts.at(2).bytes; };
  EXPECT_EQ(runs[0].plan.parts.back().bytes, own(runs[1]) + own(runs[2]));
  EXPECT_THAT(describe_plan(runs[1]), HasSubstr("other\nbase"));
}

TEST(Several, WhatCannotBeDifferentOrAFolderIsRefused) {
  TinyRun job;
  EXPECT_THROWS_WITH((void)job.prepare_all("adapters: [{name: a, dtype: float32}]\n"), ConfigError,
                     "a: dtype: one for all adapters");
  EXPECT_THROWS_WITH((void)job.prepare_all("adapters: [{name: ../a}]\n"), ConfigError, "../a",
                     "folder");
  EXPECT_THROWS_WITH((void)job.prepare_all("adapters: [{seed: 2}]\n"), ConfigError, "name");
}

}  // namespace
}  // namespace weft::train
