#include "train/trainer.h"

#include <cmath>
#include <filesystem>

#include "core/error.h"
#include "tests/support/throws.h"
#include "tests/train/tiny_run.h"

namespace weft::train {
namespace {
namespace fs = std::filesystem;
using tests::TinyRun;

const char* const kValidation = "validation: {path: valid.jsonl}\neval: {every: 4u}\n";

TEST(Trainer, LossFallsAndTheRunFolderIsComplete) {
  TinyRun job;
  const Outcome outcome = job.run(kValidation);
  EXPECT_EQ(outcome.ending, Ending::kAllUpdates);
  EXPECT_LT(*outcome.best_validation_loss, *outcome.first_validation_loss - 0.5);
  for (const char* name : {"config.yaml", "adapter/adapter_config.json", "metrics.jsonl",
                           "adapter/adapter_model.safetensors", "adapter/weft_provenance.json",
                           "preflight.json", "provenance.json", "log.txt"}) {
    EXPECT_TRUE(fs::exists(job / "run" / name)) << name;
  }
  const auto lines = job.metrics();
  EXPECT_EQ(lines.front().at("update"), 0);  // validation before the first update
  EXPECT_EQ(lines.back().at("update"), outcome.updates);
  EXPECT_LE(Checkpoints(job / "run/checkpoints").list().size(), 2U);
}

TEST(Trainer, PackedRowsSingleRowsAndSmallRowsGiveTheSameUpdates) {
  // One update takes the whole epoch, so only the grouping into rows differs.
  TinyRun job;
  const std::string common = "shuffle: false\nadam_epsilon: 1e-3\n";
  const std::vector<std::string> whole{"tokens_per_update=100000", "num_epochs=4"};
  const auto factors = [&](const std::string& change, std::int64_t row_tokens) {
    std::vector<std::string> overrides = whole;
    overrides.push_back(change);
    std::vector<Prepared> runs = job.prepare_all(common, overrides);
    Prepared& run = runs.front();
    if (row_tokens > 0) run.plan.row_tokens = row_tokens;
    run.stream.emplace(run.data.train, run.updates());
    const Result result = job.run_prepared(std::move(runs)).front();
    EXPECT_FALSE(result.failure);
    return std::pair(lora::read_peft(job / "run/adapter"), job.metrics());
  };
  const auto [packed, packed_metrics] = factors("packing=true", 512);
  const auto [small, small_metrics] = factors("packing=true", 50);
  const auto [single, single_metrics] = factors("packing=false", 0);
  ASSERT_EQ(packed_metrics.size(), 4U);
  for (std::size_t i = 0; i < packed_metrics.size(); ++i) {
    for (const char* key : {"loss", "gradient_norm"}) {
      const double wanted = packed_metrics[i].at(key);
      EXPECT_NEAR(small_metrics[i].at(key).get<double>(), wanted, 1e-5 * wanted) << key << i;
      EXPECT_NEAR(single_metrics[i].at(key).get<double>(), wanted, 1e-5 * wanted) << key << i;
    }
  }
  for (std::size_t i = 0; i < packed.factors.size(); ++i) {
    for (std::size_t j = 0; j < packed.factors[i].b.size(); ++j) {
      EXPECT_NEAR(small.factors[i].b[j], packed.factors[i].b[j], 1e-5);
      EXPECT_NEAR(single.factors[i].b[j], packed.factors[i].b[j], 1e-5);
    }
  }
}

TEST(Trainer, SameSeedGivesTheSameBitsAndAnotherSeedDoesNot) {
  TinyRun job;
  const std::string options = "adapter.lora_dropout=0.1";
  job.run("", {options, "output_dir=" + (job / "a").string()});
  job.run("", {options, "output_dir=" + (job / "b").string()});
  job.run("", {options, "seed=4", "output_dir=" + (job / "c").string()});
  EXPECT_EQ(job.adapter_bytes("a"), job.adapter_bytes("b"));
  EXPECT_EQ(job.metrics("a"), job.metrics("b"));
  EXPECT_NE(job.adapter_bytes("a"), job.adapter_bytes("c"));
}

TEST(Trainer, InterruptedAnywhereAndResumedEqualsTheUninterruptedRun) {
  TinyRun job;
  const std::vector<std::string> options{"adapter.lora_dropout=0.2", "save.every=5u"};
  job.run(kValidation, options);
  const auto wanted = job.metrics();
  const std::string adapter = job.adapter_bytes();
  const std::int64_t total = wanted.back().at("update");
  ASSERT_GT(total, 12);
  for (std::int64_t stop = 1; stop < total; stop += 3) {
    const Outcome first =
        job.run_observed(kValidation, options, Start::kReplace, [&](std::int64_t update) {
          if (update == stop) job.interrupted = true;
        });
    EXPECT_EQ(first.ending, Ending::kInterrupted);
    EXPECT_EQ(first.updates, stop);
    const Outcome second = job.run(kValidation, options, Start::kResume);
    EXPECT_EQ(second.updates, total);
    EXPECT_EQ(job.metrics(), wanted) << "interrupted after update " << stop;
    EXPECT_EQ(job.adapter_bytes(), adapter) << "interrupted after update " << stop;
  }
}

TEST(Trainer, ResumingACompleteRunChangesNothing) {
  TinyRun job;
  job.run(kValidation);
  const auto metrics = job.metrics();
  const std::string adapter = job.adapter_bytes();
  job.run(kValidation, {}, Start::kResume);
  EXPECT_EQ(job.metrics(), metrics);
  EXPECT_EQ(job.adapter_bytes(), adapter);
}

TEST(Trainer, ResumingWithOtherSettingsNamesThem) {
  TinyRun job;
  job.run("", {"max_updates=3"});
  EXPECT_THROWS_WITH(job.run("", {"learning_rate=0.5", "max_updates=3"}, Start::kResume),
                     InputError, "learning_rate was 0.01 and is 0.5", "--force");
  job.folder().write("train.jsonl", tests::tiny_pairs(41));
  EXPECT_THROWS_WITH(job.run("", {"max_updates=3"}, Start::kResume), InputError,
                     "the contents of datasets.0 file 0");
}

TEST(Trainer, ResumingWithMoreUpdatesGoesOn) {
  TinyRun job;
  job.run("lr_scheduler: constant\n", {"max_updates=4"});
  const Outcome outcome = job.run("lr_scheduler: constant\n", {"max_updates=7"}, Start::kResume);
  EXPECT_EQ(outcome.updates, 7);
  const auto resumed = job.metrics();
  job.run("lr_scheduler: constant\n", {"max_updates=7"});
  EXPECT_EQ(job.metrics(), resumed);  // a constant rate does not know how long the run is
}

TEST(Trainer, AbsurdRateStopsWithTheNumbersAndNothingGoodIsLost) {
  TinyRun job;
  EXPECT_THROWS_WITH(job.run("", {"learning_rate=1e30", "warmup=0", "max_grad_norm=0"}),
                     NumericError, "update", "learning_rate");
  const auto last = Checkpoints(job / "run/checkpoints").load_last();
  ASSERT_TRUE(last);
  for (const lora::Factors& factors : last->adapter.factors) {
    for (const float value : factors.a) ASSERT_TRUE(std::isfinite(value));
    for (const float value : factors.b) ASSERT_TRUE(std::isfinite(value));
  }
  EXPECT_FALSE(fs::exists(job / "run/adapter"));
}

TEST(Trainer, EarlyStoppingEndsAndKeepsTheBestAdapter) {
  TinyRun job;
  const Outcome outcome = job.run(
      "validation: {path: valid.jsonl}\neval: {every: 1u}\nearly_stopping: {patience: 3}\n",
      {"learning_rate=0.3", "num_epochs=50", "divergence.ratio=0", "lr_scheduler=constant"});
  EXPECT_EQ(outcome.ending, Ending::kEarlyStopping);
  EXPECT_EQ(outcome.adapter_update, outcome.updates - 3);
  const auto provenance =
      nlohmann::json::parse(tests::slurp(job / "run/adapter/weft_provenance.json"));
  EXPECT_NE(provenance.dump().find("lowest validation loss"), std::string::npos);
}

TEST(Trainer, BestAdapterGivesTheValidationLossThatWasReported) {
  TinyRun job;
  const Outcome outcome = job.run(kValidation);
  const Prepared prepared = job.prepare(kValidation);
  auto decoder = model::Decoder::load(prepared.base->checkpoint, prepared.compute);
  decoder.attach(lora::read_peft(job / "run/adapter"), model::Decoder::Use::kInference);
  model::LossSum sum;
  for (std::size_t i = 0; i < prepared.data.validation.size(); ++i) {
    const data::ExampleView one = prepared.data.validation[i];
    const auto loss = decoder.loss(data::make_row({&one, 1}));
    sum.loss += loss.loss;
    sum.tokens += loss.tokens;
  }
  EXPECT_NEAR(sum.loss / static_cast<double>(sum.tokens), *outcome.best_validation_loss, 1e-5);
}

/// The one run of a configuration in the job's folder.
Prepared prepare_of(const TinyRun& job, const std::string& yaml) {
  job.folder().write("x.yaml", yaml);
  return std::move(prepare(load_runs(job / "x.yaml", {}, {}), {}).front());
}

TEST(Trainer, StartsFromAnExistingAdapterAndTakesItsShape) {
  TinyRun job;
  job.run("", {"max_updates=5", "adapter.r=6", "output_dir=" + (job / "first").string()});
  const Prepared prepared = prepare_of(
      job,
      "base_model: base\noutput_dir: run\ndatasets: [{path: train.jsonl}]\nsequence_len: 64\n"
      "adapter: {init_from: first/adapter}\n");
  EXPECT_EQ(prepared.config.adapter.r, 6);
  EXPECT_EQ(prepared.initial.factors.front().a,
            lora::read_peft(job / "first/adapter").factors.front().a);
  EXPECT_THROWS_WITH(
      (void)job.prepare("", {"adapter.init_from=" + (job / "first/adapter").string()}), ConfigError,
      "adapter.r", "init_from");
}

TEST(Trainer, StartsFromAnAdapterOfItsOwnTokenizerOnly) {
  TinyRun job;
  job.run("", {"max_updates=1", "output_dir=" + (job / "first").string()});
  nlohmann::ordered_json tokenizer = tests::tiny_tokenizer();
  std::swap(tokenizer["model"]["vocab"]["a"], tokenizer["model"]["vocab"]["b"]);
  job.folder().write("base/tokenizer.json", tokenizer.dump());
  const auto prepare_from_first = [&](const std::string& more) {
    return prepare_of(job,
                      "base_model: base\noutput_dir: run\ndatasets: [{path: train.jsonl}]\n"
                      "sequence_len: 64\nadapter: {init_from: first/adapter" +
                          more + "}\n");
  };
  EXPECT_THROWS_WITH((void)prepare_from_first(""), InputError, "tokenizer", "allow_other_base");
  EXPECT_NO_THROW((void)prepare_from_first(", allow_other_base: true"));
}

TEST(Prepare, MemoryLimitIsCheckedBeforeTheWeightsAreRead) {
  TinyRun job;
  const Prepared prepared = job.prepare("memory_limit: 64KiB\n");
  EXPECT_THROWS_WITH(require_memory(prepared), InputError, "64.0 KiB", "program and data",
                     "are needed");
}

TEST(Prepare, DataThatBreaksALimitIsRefused) {
  TinyRun job;
  const Prepared prepared = job.prepare("preflight: {min_examples: 1000}\n");
  EXPECT_THROW(require_sound(prepared), Refused);
}

TEST(Prepare, RowsLongerThanTheModelsContextAreAnError) {
  TinyRun job;
  EXPECT_THROWS_WITH((void)job.prepare("", {"sequence_len=4096", "tokens_per_update=4096"}),
                     ConfigError, "sequence_len", "4096", "512");
}

}  // namespace
}  // namespace weft::train
