#include "export/importance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "core/error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"

namespace weft::exporting {
namespace {

using testing::ElementsAre;

ImportanceSums sums_of(std::vector<float> sums, double tokens) {
  return {{{"blk.0.attn_q.weight", {std::move(sums), tokens}}}, "nahuatl.txt", 3, 512};
}

/// A number and a text of the older binary form.
std::string number(std::int32_t value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
std::string text(const std::string& value) {
  return number(static_cast<std::int32_t>(value.size())) + value;
}
std::string floats(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

TEST(Importance, IsReadBackAsMeansOverTheTokens) {
  const tests::TempDir folder;
  write_importance(sums_of({8, 2, 0}, 4), folder / "imatrix.gguf", core::Overwrite::kRefuse);
  const Importance read = Importance::read(folder / "imatrix.gguf");
  EXPECT_THAT(read.find("blk.0.attn_q.weight"), ElementsAre(2.0F, 0.5F, 0.0F));
  EXPECT_TRUE(read.find("blk.1.attn_q.weight").empty());
  EXPECT_EQ(read.dataset(), "nahuatl.txt");
  EXPECT_EQ(read.chunks(), 3);
}

TEST(Importance, OfAMatrixThatNoTokenReachedIsOne) {
  const tests::TempDir folder;
  write_importance(sums_of({0, 0}, 0), folder / "imatrix.gguf", core::Overwrite::kRefuse);
  EXPECT_THAT(Importance::read(folder / "imatrix.gguf").find("blk.0.attn_q.weight"),
              ElementsAre(1.0F, 1.0F));
}

TEST(Importance, TheOlderFormIsReadAndEveryShorterOneRefused) {
  const tests::TempDir folder;
  const std::string whole =
      number(1) + text("blk.0.attn_q.weight") + number(2) + number(2) + floats({6, 1});
  EXPECT_THAT(Importance::read(folder.write("imatrix.dat", whole)).find("blk.0.attn_q.weight"),
              ElementsAre(3.0F, 0.5F));
  for (std::size_t bytes = 1; bytes < whole.size(); ++bytes) {
    const auto file = folder.write("short.dat", whole.substr(0, bytes));
    EXPECT_THROWS_WITH(static_cast<void>(Importance::read(file)), InputError, "short.dat");
  }
}

TEST(Importance, NumbersThatAreNoSumsOfSquaresNameTheMatrix) {
  const tests::TempDir folder;
  for (const float wrong :
       {-1.0F, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    write_importance(sums_of({1, wrong}, 4), folder / "imatrix.gguf", core::Overwrite::kReplace);
    EXPECT_THROWS_WITH(static_cast<void>(Importance::read(folder / "imatrix.gguf")), InputError,
                       "imatrix.gguf", "blk.0.attn_q.weight");
  }
}

}  // namespace
}  // namespace weft::exporting
