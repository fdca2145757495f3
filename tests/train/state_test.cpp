#include "train/state.h"

#include <sys/resource.h>

#include <csignal>
#include <filesystem>

#include "core/error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"

namespace weft::train {
namespace {
namespace fs = std::filesystem;

/// A state of an adapter of two modules, with numbers that bf16 could not hold.
TrainState make_state(std::int64_t update, std::int64_t width = 4) {
  lora::AdapterConfig config;
  config.r = 2;
  config.lora_alpha = 4;
  config.target_modules.names = {"q_proj", "v_proj"};
  config.base_model_name_or_path = "base";
  TrainState state;
  state.update = update;
  state.adapter.config = config;
  float next = 0.1F + static_cast<float>(update);
  const auto fill = [&](std::int64_t size) {
    std::vector<float> values(static_cast<std::size_t>(size));
    for (float& value : values) value = next = next * 1.000123F;
    return values;
  };
  for (const char* name : {"q_proj", "v_proj"}) {
    lora::Factors factors;
    factors.target.module = {std::string("model.layers.0.self_attn.") + name, width, width};
    factors.target.rank = 2;
    factors.target.alpha = 4;
    factors.target.scale = lora::scale(4, 2, false);
    factors.a = fill(2 * width);
    factors.b = fill(2 * width);
    state.adapter.factors.push_back(factors);
    for (int i = 0; i < 2; ++i) state.moments.push_back({fill(2 * width), fill(2 * width)});
  }
  state.optimizer_updates = update;
  state.tokens = 12345;
  state.seconds = 1.0 / 3;
  state.metrics_bytes = 77;
  state.data = {{"epoch", 1}};
  state.guard = {{"recent", {1.0 / 3}}, {"lowest", 0.1}};
  state.early_stopping = {
      {"best_loss", 0.1}, {"best_update", 3}, {"reference_loss", 0.1}, {"without_gain", 1}};
  state.fingerprint = {{"seed", "42"}};
  return state;
}

TEST(Checkpoints, LastIsReadBackBitForBit) {
  const tests::TempDir temp;
  const Checkpoints checkpoints(temp / "checkpoints");
  checkpoints.save(make_state(7), 0);
  const TrainState saved = make_state(12);
  checkpoints.save(saved, 0);
  const auto loaded = checkpoints.load_last();
  ASSERT_TRUE(loaded);
  EXPECT_EQ(loaded->update, 12);
  EXPECT_EQ(loaded->seconds, saved.seconds);
  EXPECT_EQ(loaded->guard, saved.guard);
  EXPECT_EQ(loaded->data, saved.data);
  EXPECT_EQ(loaded->fingerprint, saved.fingerprint);
  ASSERT_EQ(loaded->adapter.factors.size(), 2U);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(loaded->adapter.factors[i].a, saved.adapter.factors[i].a);
    EXPECT_EQ(loaded->adapter.factors[i].b, saved.adapter.factors[i].b);
  }
  ASSERT_EQ(loaded->moments.size(), 4U);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(loaded->moments[i].first, saved.moments[i].first);
    EXPECT_EQ(loaded->moments[i].second, saved.moments[i].second);
  }
}

TEST(Checkpoints, OldestGoAfterTheNewOneIsThere) {
  const tests::TempDir temp;
  const Checkpoints checkpoints(temp / "checkpoints");
  for (const std::int64_t update : {0, 5, 1'000'000, 10}) checkpoints.save(make_state(update), 2);
  // By number, not by name or time.
  EXPECT_EQ(checkpoints.list(), (std::vector<std::int64_t>{10, 1'000'000}));
}

TEST(Checkpoints, NoneIsNothingAndLeftoversDoNotCount) {
  const tests::TempDir temp;
  const Checkpoints checkpoints(temp / "checkpoints");
  EXPECT_FALSE(checkpoints.load_last());
  temp.write("checkpoints/.000005.part-12/state.json", "{}");
  EXPECT_FALSE(checkpoints.load_last());
  checkpoints.remove_leftovers();
  EXPECT_TRUE(fs::is_empty(temp / "checkpoints"));
}

TEST(Checkpoints, DamagedStateNamesTheFile) {
  const tests::TempDir temp;
  const Checkpoints checkpoints(temp / "checkpoints");
  checkpoints.save(make_state(5), 0);
  temp.write("checkpoints/000005/state.json", "{\"format\": 1");
  EXPECT_THROWS_WITH((void)checkpoints.load_last(), InputError, "000005", "state.json is damaged",
                     "remove that folder", "from its beginning");
  temp.write("checkpoints/000005/state.json", "{\"format\": 99}");
  EXPECT_THROWS_WITH((void)checkpoints.load_last(), InputError, "newer weft");
}

TEST(Checkpoints, DamagedNumbersAreRefusedByNameAndTheWayOutIsTold) {
  const tests::TempDir temp;
  const Checkpoints checkpoints(temp / "checkpoints");
  checkpoints.save(make_state(4), 0);
  checkpoints.save(make_state(5), 0);
  const auto whole = nlohmann::json::parse(tests::slurp(temp / "checkpoints/000005/state.json"));
  const std::vector<std::pair<std::string, nlohmann::json>> damages{
      {"update", -3},        {"update", "five"},     {"tokens", -1},
      {"tokens", 1.5},       {"row_tokens", -1},     {"guard", nlohmann::json::object()},
      {"guard", 3},          {"early_stopping", {}}, {"data", nullptr},
      {"fingerprint", "no"}, {"seconds", -1},        {"evaluated", -2}};
  for (const auto& [key, value] : damages) {
    auto damaged = whole;
    damaged[key] = value;
    temp.write("checkpoints/000005/state.json", damaged.dump());
    EXPECT_THROWS_WITH((void)checkpoints.load_last(), InputError, "000005", "state.json",
                       "goes on from update 4");
  }
  fs::remove_all(temp / "checkpoints/000005");
  EXPECT_EQ(checkpoints.load_last()->update, 4);
}

TEST(Checkpoints, OfTheFirstFormatAreReadWithDefaults) {
  const tests::TempDir temp;
  const Checkpoints checkpoints(temp / "checkpoints");
  checkpoints.save(make_state(5), 0);
  auto old = nlohmann::json::parse(tests::slurp(temp / "checkpoints/000005/state.json"));
  old["format"] = 1;
  for (const char* key :
       {"row_tokens", "first_validation_loss", "first_figure", "suites_measured", "suites_due"}) {
    old.erase(key);
  }
  temp.write("checkpoints/000005/state.json", old.dump());
  const auto loaded = checkpoints.load_last();
  ASSERT_TRUE(loaded);
  EXPECT_EQ(loaded->row_tokens, 0);
  EXPECT_EQ(loaded->suites, Due{});
}

TEST(Checkpoints, FactorsOfAnotherRankAreRefusedInsteadOfCrashing) {
  const TrainState state = make_state(5);
  std::vector<lora::Target> targets;
  for (const auto& factors : state.adapter.factors) targets.push_back(factors.target);
  EXPECT_NO_THROW(require_factors_of(state, targets, "checkpoints/000005"));
  targets[1].rank = 64;
  EXPECT_THROWS_WITH(require_factors_of(state, targets, "checkpoints/000005"), InputError,
                     "checkpoints/000005", "v_proj", "rank 2", "rank 64");
  targets.pop_back();
  EXPECT_THROWS_WITH(require_factors_of(state, targets, "checkpoints/000005"), InputError,
                     "2 layers", "trains 1");
}

TEST(Checkpoints, MomentsOfAnotherShapeAreRefused) {
  const tests::TempDir temp;
  const Checkpoints checkpoints(temp / "checkpoints");
  checkpoints.save(make_state(5, 4), 0);
  checkpoints.save(make_state(6, 8), 0);
  fs::copy_file(temp / "checkpoints/000005/optimizer.safetensors",
                temp / "checkpoints/000006/optimizer.safetensors",
                fs::copy_options::overwrite_existing);
  EXPECT_THROWS_WITH((void)checkpoints.load_last(), InputError, "first_moment", "[2, 8]", "[2, 4]");
}

TEST(Checkpoints, FullDiskIsAnIoErrorAndTheLastOneStays) {
  const tests::TempDir temp;
  const Checkpoints checkpoints(temp / "checkpoints");
  checkpoints.save(make_state(5), 1);
  // A limit on the size of files stands for the full disk: writes fail in the same way.
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = before;
  small.rlim_cur = 4096;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_THROW(checkpoints.save(make_state(6, 1024), 1), IoError);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(checkpoints.list(), (std::vector<std::int64_t>{5}));
  EXPECT_EQ(checkpoints.load_last()->update, 5);
}

TEST(Difference, NamesWhatChangedAndPassesWhatMay) {
  const Fingerprint then{{"learning_rate", "0.1"}, {"save.keep", "2"}, {"data a", "x"}};
  Fingerprint now = then;
  EXPECT_EQ(difference(then, now, {}), "");
  now["learning_rate"] = "0.2";
  now["save.keep"] = "5";
  now.erase("data a");
  now["data b"] = "y";
  const std::string text = difference(then, now, {"save"});
  EXPECT_NE(text.find("learning_rate was 0.1 and is 0.2"), std::string::npos);
  EXPECT_NE(text.find("data a was x and is not there"), std::string::npos);
  EXPECT_NE(text.find("data b was not there and is y"), std::string::npos);
  EXPECT_EQ(text.find("save"), std::string::npos);
}

}  // namespace
}  // namespace weft::train
