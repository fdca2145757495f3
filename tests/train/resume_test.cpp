// A run that goes on: with what, and what it must not touch.

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "core/error.h"
#include "tests/support/throws.h"
#include "tests/train/tiny_run.h"

namespace weft::train {
namespace {
namespace fs = std::filesystem;
using ::testing::HasSubstr;
using tests::TinyRun;

/// The contents of every file in a folder.
std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> all;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) all[entry.path().string()] = tests::slurp(entry.path());
  }
  return all;
}

TEST(Resume, AdaptersOfExpertsGoOnToTheSameBits) {
  TinyRun job({.experts = 3});
  const std::string yaml = "lr_scheduler: constant\nsave: {every: 2u}\n";
  const auto with = [](std::string updates,
                       const char* stacks = "gate_up_proj,mlp.experts.down_proj") {
    return std::vector<std::string>{
        std::move(updates), "adapter.target_modules=[]",
        fmt::format("adapter.target_parameters=[mlp.experts.{}]", stacks)};
  };
  job.run(yaml, with("max_updates=6"));
  const std::string whole = job.adapter_bytes();
  job.run(yaml, with("max_updates=4"));
  EXPECT_NE(job.adapter_bytes(), whole);
  job.run(yaml, with("max_updates=6"), Start::kResume);
  EXPECT_EQ(job.adapter_bytes(), whole);
  EXPECT_THROWS_WITH(job.run(yaml, with("max_updates=7", "down_proj"), Start::kResume), InputError,
                     "adapter.target_parameters");
  auto dropping = with("max_updates=2");
  dropping.emplace_back("adapter.lora_dropout=0.1");
  EXPECT_THROWS_WITH(job.run(yaml, dropping), ConfigError, "lora_dropout: 0.1");
  // An adapter that training starts from brings its stacks with it.
  fs::copy(job / "run/adapter", job / "first", fs::copy_options::recursive);
  std::string own = job.yaml("adapter: {init_from: first}\n");
  own.erase(own.find("adapter: {r: 4"), own.find("num_epochs") - own.find("adapter: {r: 4"));
  job.folder().write("own.yaml", own);
  const auto prepare_from = [&](const std::vector<std::string>& changes) {
    return train::prepare(train::load_runs(job / "own.yaml", changes, {}), {}).size();
  };
  EXPECT_EQ(prepare_from({}), 1U);
  EXPECT_THROWS_WITH((void)prepare_from({"adapter.lora_dropout=0.1"}), ConfigError,
                     "lora_dropout: 0.1");
}

TEST(Resume, WithMoreUpdatesKeepsTheBestAdapter) {
  TinyRun job;
  const std::string yaml =
      "validation: {path: valid.jsonl}\neval: {every: 4u}\nsave: {every: 2u}\n"
      "lr_scheduler: constant\ndivergence: {ratio: 0}\n";
  // What is learned makes these answers less and less likely, so that the first adapters are best.
  job.folder().write("valid.jsonl",
                     "{\"prompt\": \"say 1:\", \"completion\": \"ZQXJ KWVY 9876\"}\n"
                     "{\"prompt\": \"say 2:\", \"completion\": \"QQQQ ZZZZ 4321\"}\n");
  const std::vector<std::string> options{"warmup=0", "learning_rate=0.05"};
  const auto with = [&](const char* updates) {
    auto all = options;
    all.emplace_back(updates);
    return all;
  };
  const Outcome whole = job.run(yaml, with("max_updates=16"));
  const auto metrics = job.metrics();
  const std::string adapter = job.adapter_bytes();
  ASSERT_LT(whole.adapter_update, 16) << "the run must get worse in the end";
  // The first part ends with an evaluation at an update that is a multiple of save.every.
  job.run(yaml, with("max_updates=8"));
  const auto last = Checkpoints(job / "run/checkpoints").load_last();
  EXPECT_EQ(last->evaluation, (Due{8, false}));
  EXPECT_GE(last->early_stopping.at("best_update").get<int>(), 4);
  const Outcome second = job.run(yaml, with("max_updates=16"), Start::kResume);
  EXPECT_EQ(second.adapter_update, whole.adapter_update);
  EXPECT_EQ(second.best_validation_loss, whole.best_validation_loss);
  EXPECT_EQ(second.first_validation_loss, whole.first_validation_loss);
  EXPECT_EQ(job.adapter_bytes(), adapter);
  EXPECT_EQ(job.metrics(), metrics);
}

TEST(Resume, ARefusedOneChangesNothing) {
  TinyRun job;
  job.run("", {"max_updates=3"});
  const auto before = contents(job / "run");
  EXPECT_THROWS_WITH(job.run("", {"learning_rate=0.5", "max_updates=6"}, Start::kResume),
                     InputError, "learning_rate");
  EXPECT_EQ(contents(job / "run"), before);
  // Refused last of all: by the state itself, when the model is loaded already.
  const fs::path state = job / "run/checkpoints/000003/state.json";
  auto json = nlohmann::json::parse(tests::slurp(state));
  json["data"]["rows"]["fingerprint"] = "another";
  job.folder().write("run/checkpoints/000003/state.json", json.dump());
  const auto damaged = contents(job / "run");
  EXPECT_THROWS_WITH(job.run("", {"max_updates=6"}, Start::kResume), InputError, "resume");
  EXPECT_EQ(contents(job / "run"), damaged);
}

TEST(Resume, GoesOnWithoutTheMetricsFile) {
  TinyRun job;
  job.run("lr_scheduler: constant\n", {"max_updates=6"});
  const std::string adapter = job.adapter_bytes();
  job.run("lr_scheduler: constant\n", {"max_updates=3"});
  fs::remove(job / "run/metrics.jsonl");
  job.run("lr_scheduler: constant\n", {"max_updates=6"}, Start::kResume);
  EXPECT_EQ(job.adapter_bytes(), adapter);
  EXPECT_EQ(job.metrics().front().at("update"), 4);
  EXPECT_THAT(job.told, ::testing::Contains(HasSubstr("metrics.jsonl has 0 bytes")));
}

TEST(Resume, KeepsTheRowsWhateverTheMemoryLimitSays) {
  TinyRun job;
  const std::string yaml = "lr_scheduler: constant\n";
  job.run(yaml, {"max_updates=6"});
  const std::string adapter = job.adapter_bytes();
  job.run(yaml, {"max_updates=3"});
  const std::int64_t rows = Checkpoints(job / "run/checkpoints").load_last()->row_tokens;
  EXPECT_GT(rows, 64);
  const auto shorter = job.prepare(yaml, {"memory_limit=250MiB", "gradient_checkpointing=none"});
  EXPECT_LE(shorter.plan.row_tokens, rows);
  job.run(yaml, {"max_updates=6", "memory_limit=1GiB"}, Start::kResume);
  EXPECT_EQ(job.adapter_bytes(), adapter);
  EXPECT_EQ(Checkpoints(job / "run/checkpoints").load_last()->row_tokens, rows);
}

TEST(MemoryLimit, GivesTheSameRowsHoweverMuchTheProcessHolds) {
  TinyRun job;
  const auto rows = [&] { return job.prepare("", {"memory_limit=244MiB"}).plan.row_tokens; };
  const std::int64_t before = rows();
  const std::vector<char> ballast(std::size_t{200} << 20, 'x');  // as a warm cache, or other runs
  EXPECT_EQ(ballast[ballast.size() / 2], 'x');
  EXPECT_EQ(rows(), before);
}

TEST(Resume, DoesNotNeedTheAdapterThatTheRunStartedFrom) {
  TinyRun job;
  job.run("", {"max_updates=2", "output_dir=" + (job / "first").string()});
  const std::string yaml =
      "base_model: base\noutput_dir: second\ndatasets: [{path: train.jsonl}]\nsequence_len: 64\n"
      "tokens_per_update: 128\ntoken_cache: false\nlr_scheduler: constant\nseed: 5\n"
      "adapter: {init_from: first/adapter}\n";
  const auto run = [&](const char* updates, Start start) {
    job.folder().write("second.yaml", yaml);
    auto described = load_runs(job / "second.yaml", {updates}, {});
    std::deque<RunFolder> folders;
    folders.emplace_back(described.front().config.output_dir, start).claim();
    auto states = last_states(folders, {});
    auto prepared = prepare(std::move(described), {}, std::move(states));
    Observer observer;
    (void)train::train({{prepared.front(), folders.front(), observer}}, job.interrupted, {});
    return tests::slurp(job / "second/adapter/adapter_model.safetensors");
  };
  // PEFT writes the names of target modules in no order.
  const fs::path described = job / "first/adapter/adapter_config.json";
  auto config = nlohmann::json::parse(tests::slurp(described));
  config["target_modules"] = {"up_proj", "down_proj", "v_proj",   "q_proj",
                              "o_proj",  "k_proj",    "gate_proj"};
  job.folder().write("first/adapter/adapter_config.json", config.dump());
  const std::string whole = run("max_updates=5", Start::kReplace);
  run("max_updates=2", Start::kReplace);
  fs::remove_all(job / "first");
  EXPECT_EQ(run("max_updates=5", Start::kResume), whole);
}

TEST(Resume, OverMidnightKeepsTheDateThatTheTemplatePrints) {
  TinyRun job;
  job.folder().write("date.jinja",
                     "{{ strftime_now('%d %b %Y') }}\n{% for m in messages %}{{ m.role }}: "
                     "{{ m.content }}{{ eos_token }}\n{% endfor %}");
  std::string rows;
  for (int i = 0; i < 20; ++i) {
    rows += fmt::format(
        R"({{"messages": [{{"role": "user", "content": "say {}"}}, {{"role": "assistant", "content": "atl {}"}}]}})"
        "\n",
        i, i % 7);
  }
  job.folder().write("train.jsonl", rows);
  const std::string yaml = "chat_template: date.jinja\nlr_scheduler: constant\n";
  job.run(yaml, {"max_updates=6", "date=2024-02-29"});
  const std::string whole = job.adapter_bytes();
  job.run(yaml, {"max_updates=3", "date=2024-02-29"});
  job.run(yaml, {"max_updates=6"}, Start::kResume);  // on whatever day this test runs
  EXPECT_EQ(job.adapter_bytes(), whole);
  EXPECT_THAT(tests::slurp(job / "run/config.yaml"), HasSubstr("2024-02-29"));
  EXPECT_THROWS_WITH(job.run(yaml, {"max_updates=7", "date=2024-03-01"}, Start::kResume),
                     InputError, "date of the chat template was 2024-02-29 and is 2024-03-01");
  EXPECT_THROWS_WITH((void)job.prepare(yaml, {"date=2024-02-30"}), ConfigError, "2024-02-30");
}

TEST(Trainer, FactorsThatAreNotFiniteAreNeverSavedOverGoodOnes) {
  TinyRun job;
  // A rate beyond the range of float: the loss of update 1 is fine, the step is not.
  EXPECT_THROWS_WITH(job.run("save: {every: 1u, keep: 1}\n",
                             {"learning_rate=1e39", "warmup=0", "max_grad_norm=0"}),
                     NumericError, "no longer finite", "learning_rate");
  const auto last = Checkpoints(job / "run/checkpoints").load_last();
  ASSERT_TRUE(last);
  EXPECT_EQ(last->update, 0);
  EXPECT_FALSE(fs::exists(job / "run/adapter"));
}

TEST(Config, AnEpsilonThatIsNoFloatIsRefused) {
  TinyRun job;
  EXPECT_THROWS_WITH((void)job.prepare("adam_epsilon: 1e-46\n"), ConfigError, "adam_epsilon");
}

TEST(Replace, InterruptedBeforeTheFirstUpdateKeepsTheOldRun) {
  TinyRun job;
  job.run("", {"max_updates=3"});
  const auto before = contents(job / "run");
  // Raised while the validation loss at the start is measured.
  job.folder().write("tiny.yaml", job.yaml("validation: {path: valid.jsonl}\n"));
  auto described = load_runs(job / "tiny.yaml", {"seed=9"}, {});
  {
    std::deque<RunFolder> folders;
    folders.emplace_back(described.front().config.output_dir, Start::kReplace).claim();
    auto runs = prepare(std::move(described), {});
    struct Raises : Observer {
      explicit Raises(std::atomic<bool>& f) : flag(f) {}
      void on_evaluation(const EvaluationReport&) override { flag = true; }
      std::atomic<bool>& flag;
    } observer(job.interrupted);
    job.interrupted = false;
    const auto results =
        train::train({{runs.front(), folders.front(), observer}}, job.interrupted, {});
    EXPECT_EQ(results.front().outcome.ending, Ending::kInterrupted);
    EXPECT_TRUE(folders.front().replaces());
  }
  EXPECT_EQ(contents(job / "run"), before);
}

}  // namespace
}  // namespace weft::train
