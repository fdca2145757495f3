#include "merge/verification.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "core/error.h"
#include "merge/certificate.h"
#include "merge/merge.h"
#include "tests/merge/models.h"
#include "tests/support/throws.h"
#include "tests/support/tiny_model.h"

namespace weft::merge {
namespace {

namespace fs = std::filesystem;
using tests::TempDir;

Verification measured(double kl, std::optional<double> limit = kVerificationLimit) {
  Verification found;
  found.text = "held-out.txt";
  found.compute = "f32";
  found.tokens = 100;
  found.kl = kl;
  found.limit = limit;
  return found;
}

TEST(Verification, AcceptsUpToTheLimitAndNeverWhatIsNoNumber) {
  EXPECT_TRUE(measured(1e-3, 1e-3).accepted());
  EXPECT_FALSE(measured(1.001e-3, 1e-3).accepted());
  EXPECT_TRUE(measured(5, std::nullopt).accepted());
  EXPECT_FALSE(measured(std::numeric_limits<double>::quiet_NaN(), std::nullopt).accepted());
  EXPECT_FALSE(measured(std::numeric_limits<double>::infinity(), std::nullopt).accepted());
}

TEST(Verification, OtherTokenIdsAreRefusedWhateverTheModelPredicts) {
  Verification found = measured(0);
  found.other_ids = "token 3 of document 1 is 7 'a' and should be 8 'b'";
  EXPECT_FALSE(found.accepted());
  EXPECT_FALSE(verification_json(found).at("same_ids").get<bool>());
  const TempDir dir;
  dir.write("out.gguf.rejected", "a model");
  EXPECT_THROWS_WITH(refuse(found, dir / "out.gguf"), Refused, "document 1", "out.gguf.rejected");
}

TEST(Verification, RefusingNamesFigureTextAndPlace) {
  const TempDir dir;
  dir.write("out.rejected/config.json", "{}");
  EXPECT_THROWS_WITH(refuse(measured(0.25), dir / "out"), Refused, "2.50e-01", "held-out.txt",
                     "out.rejected");
  EXPECT_NE(tests::slurp(dir / "out.rejected.json").find("2.50e-01"), std::string::npos);
}

/// A tiny model and an adapter, merged with somebody who measures.
class VerifiedMerge : public ::testing::Test {
 protected:
  VerifiedMerge() {
    request.model = tests::write_tiny_model(dir / "base");
    request.adapters = {
        {tests::write_noisy_adapter(
             dir / "adapter", lora::linear_modules(checkpoint::Checkpoint::open(request.model)),
             tests::config_of({"q_proj"}, 4, 8)),
         1}};
    request.out = dir / "out";
  }

  void measure(double kl) {
    request.verify = [this, kl](const fs::path& written) {
      // What is measured is whole and readable, and has not got its name.
      seen = checkpoint::Checkpoint::open(written).tensors().size();
      EXPECT_FALSE(fs::exists(dir / "out"));
      return measured(kl);
    };
  }
  [[nodiscard]] nlohmann::json record(const char* folder) const {
    return nlohmann::json::parse(tests::slurp(dir / folder / "merge.json"));
  }

  TempDir dir;
  MergeRequest request;
  std::size_t seen = 0;
};

TEST_F(VerifiedMerge, WithinTheLimitGetsItsNameAndItsFigures) {
  measure(1e-5);
  const MergeReport report = merge_model(request);
  EXPECT_EQ(seen, report.tensors);
  EXPECT_EQ(record("out")["verification"]["kl"], 1e-5);
  EXPECT_EQ(record("out")["verification"]["accepted"], true);
  EXPECT_FALSE(fs::exists(dir / "out.rejected"));
}

TEST_F(VerifiedMerge, BeyondTheLimitIsKeptUnderTheRejectedNameOnly) {
  measure(0.5);
  EXPECT_THROWS_WITH((void)merge_model(request), Refused, "out.rejected");
  EXPECT_FALSE(fs::exists(dir / "out"));
  EXPECT_EQ(record("out.rejected")["verification"]["accepted"], false);
  EXPECT_NO_THROW((void)verify_certificate(dir / "out.rejected"));
}

TEST_F(VerifiedMerge, AnOutputThatMayBeReplacedStaysWhenTheNewOneIsRejected) {
  (void)merge_model(request);
  const std::string before = tests::slurp(dir / "out" / "merge.json");
  request.overwrite = core::Overwrite::kReplace;
  request.verify = [](const fs::path&) { return measured(0.5); };
  EXPECT_THROW((void)merge_model(request), Refused);
  EXPECT_EQ(tests::slurp(dir / "out" / "merge.json"), before);
}

TEST_F(VerifiedMerge, ARejectedOutputDoesNotBlockTheNextRun) {
  measure(0.5);
  EXPECT_THROW((void)merge_model(request), Refused);
  measure(0.25);
  EXPECT_THROW((void)merge_model(request), Refused);
  EXPECT_EQ(record("out.rejected")["verification"]["kl"], 0.25);
  measure(1e-5);
  std::string told;
  (void)merge_model(request, {}, [&](core::Level, std::string_view text) { told += text; });
  EXPECT_TRUE(fs::exists(dir / "out"));
  EXPECT_THAT(told, testing::HasSubstr("out.rejected' holds what an earlier run found wrong"));
}

TEST_F(VerifiedMerge, WhatWasPutIntoARejectedOutputIsNeverReplaced) {
  measure(0.5);
  EXPECT_THROW((void)merge_model(request), Refused);
  dir.write("out.rejected/notes.md", "what I found");
  seen = 0;
  request.overwrite = core::Overwrite::kReplace;
  EXPECT_THROWS_WITH((void)merge_model(request), InputError, "out.rejected",
                     "is not what weft left there");
  EXPECT_EQ(seen, 0U);
  EXPECT_EQ(tests::slurp(dir / "out.rejected/notes.md"), "what I found");
}

TEST_F(VerifiedMerge, WhatFailsWhileMeasuringLeavesNothing) {
  request.verify = [](const fs::path&) -> Verification { throw IoError("no memory"); };
  EXPECT_THROW((void)merge_model(request), IoError);
  EXPECT_FALSE(fs::exists(dir / "out"));
  EXPECT_FALSE(fs::exists(dir / "out.rejected"));
}

}  // namespace
}  // namespace weft::merge
