// weft inspect on a run's folder, as docs/run_folder.md describes it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/hash.h"
#include "tests/support/model_files.h"
#include "tests/support/process.h"

namespace weft::tests {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::string_view kConfig = "seed: 3\n";

class InspectRun : public ::testing::Test {
 protected:
  void SetUp() override {
    run_.write("config.yaml", kConfig);
    run_.write("preflight.json", R"({"updates": 8})");
    run_.write("provenance.json",
               nlohmann::json{{"program", "weft 0.1"},
                              {"started", "2026-01-02T03:04:05Z"},
                              {"base", {{"path", "/models/m"}, {"weights", "w1"}}},
                              {"data", {{"datasets.0", {{{"path", "a.csv"}, {"sha256", "d1"}}}}}},
                              {"config", core::sha256(kConfig)}}
                   .dump());
    // The loss at the start is lower, but of no adapter that was trained.
    run_.write("metrics.jsonl",
               "{\"update\":0,\"validation_loss\":1.0,\"best\":false}\n"
               "{\"update\":5,\"loss\":2.5}\n"
               "{\"update\":5,\"validation_loss\":2.25,\"best\":true}\n"
               "{\"update\":6,\"loss\":2.4}\n"
               "{\"update\":6,\"validation_loss\":2.75,\"best\":false}\n"
               "{\"update\":7,\"lo");
    run_.write("checkpoints/000006/state.json", "{}");
    run_.write("checkpoints/000005/state.json", "{}");
    run_.write("checkpoints/.000007.part-17/state.json", "{}");
    run_.write("adapter/adapter_config.json", "{}");
    run_.write("adapter/weft_provenance.json",
               R"({"format": 1, "more": {"update": 5, "chosen": "lowest validation loss"}})");
  }

  [[nodiscard]] nlohmann::json json() const {
    const Finished done = run_weft({"inspect", run_.path().string(), "--json"});
    EXPECT_EQ(done.status, 0) << done.err;
    return nlohmann::json::parse(done.out);
  }

  TempDir run_;
};

TEST_F(InspectRun, TellsHowFarItIsAndWhatItMade) {
  const nlohmann::json json = this->json();
  EXPECT_EQ(json["kind"], "run");
  EXPECT_EQ(json["updates"]["done"], 6);
  EXPECT_EQ(json["updates"]["total"], 8);
  EXPECT_EQ(json["last_update"]["loss"], 2.4);
  EXPECT_EQ(json["best_validation"]["validation_loss"], 2.25);
  EXPECT_EQ(json["evaluations"], 3);
  EXPECT_EQ(json["provenance"]["base"]["weights"], "w1");
  EXPECT_EQ(json["config"]["sha256"], core::sha256(kConfig));
  EXPECT_EQ(json["config"]["edited"], false);
  EXPECT_EQ(json["adapter"]["update"], 5);
  ASSERT_EQ(json["checkpoints"].size(), 2U);
  EXPECT_EQ(json["checkpoints"][0]["update"], 5);
  EXPECT_EQ(json["checkpoints"][1]["bytes"], 2);
  EXPECT_GT(json["bytes"], 400);

  const Finished table = run_weft({"inspect", run_.path().string()});
  for (const char* part : {"6 of 8", "2.4000", "2.2500", "at update 5", "000006", "a.csv",
                           "weft 0.1", "lowest validation loss"}) {
    EXPECT_THAT(table.out, HasSubstr(part));
  }
  EXPECT_THAT(table.out, Not(HasSubstr("edited")));
}

TEST_F(InspectRun, SaysThatTheConfigurationWasEdited) {
  run_.write("config.yaml", "seed: 4\n");
  EXPECT_EQ(json()["config"]["edited"], true);
  EXPECT_THAT(run_weft({"inspect", run_.path().string()}).out, HasSubstr("edited since"));
}

TEST_F(InspectRun, OneThatHasJustBegunIsNoFault) {
  for (const char* name : {"provenance.json", "preflight.json", "metrics.jsonl", "adapter"}) {
    std::filesystem::remove_all(run_ / name);
  }
  const nlohmann::json json = this->json();
  EXPECT_EQ(json["updates"]["done"], 0);
  EXPECT_TRUE(json["updates"]["total"].is_null());
  EXPECT_TRUE(json["adapter"].is_null());
  EXPECT_TRUE(json["config"]["edited"].is_null());
}

TEST_F(InspectRun, ABrokenLineOfTheMetricsHasItsPlace) {
  run_.write("metrics.jsonl", "{\"update\":1,\"loss\":2.5}\n{\"update\":2,\"loss\":\"low\"}\n");
  const Finished done = run_weft({"inspect", run_.path().string()});
  EXPECT_EQ(done.status, 2);
  EXPECT_THAT(done.err, HasSubstr("metrics.jsonl:2"));
}

TEST(InspectAdapter, TheNormOfAnExpertAdapterCountsEveryExpert) {
  const TempDir dir;
  dir.write("a/adapter_config.json",
            R"({"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": [],)"
            R"("target_parameters": ["mlp.experts.down_proj"]})");
  // Two experts of rank 1: A = (1, 2), (3, 4); B has the experts fastest: (1, 10), (2, 20).
  const std::string key = "base_model.model.mlp.experts.";
  dir.write("a/adapter_model.safetensors",
            safetensors_bytes(
                R"({")" + key + R"(lora_A.weight":{"dtype":"F32","shape":[2,2],)" +
                    R"("data_offsets":[0,16]},")" + key +
                    R"(lora_B.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[16,32]}})",
                bytes_of(std::vector<float>{1, 2, 3, 4, 1, 10, 2, 20})));
  const Finished done = run_weft({"inspect", (dir / "a").string(), "--json"});
  ASSERT_EQ(done.status, 0) << done.err;
  const double norm = nlohmann::json::parse(done.out)["modules"][0]["update_norm"];
  // 2 sqrt(|B_1|^2 |A_1|^2 + |B_2|^2 |A_2|^2) = 2 sqrt(5 * 5 + 500 * 25)
  EXPECT_NEAR(norm, 2 * std::sqrt(25.0 + 12500.0), 1e-4);
}

}  // namespace
}  // namespace weft::tests
