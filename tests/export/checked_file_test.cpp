#include "export/checked_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <vector>

#include "core/error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"

namespace weft::exporting {
namespace {

namespace fs = std::filesystem;

void write(const CheckedFile& file, std::string_view bytes) {
  std::ofstream(file.path(), std::ios::binary) << bytes;
}

TEST(CheckedFile, HasNoNameBeforeItIsAccepted) {
  const tests::TempDir folder;
  CheckedFile file(folder / "model.gguf", {}, core::Overwrite::kRefuse);
  write(file, "right");
  file.check([] {});
  EXPECT_FALSE(fs::exists(folder / "model.gguf"));
  file.accept();
  EXPECT_EQ(tests::slurp(folder / "model.gguf"), "right");
  EXPECT_FALSE(fs::exists(folder / "model.gguf.rejected"));
}

TEST(CheckedFile, FoundWrongIsKeptUnderTheRejectedNameOnly) {
  const tests::TempDir folder;
  folder.write("model.gguf", "earlier");
  {
    CheckedFile file(folder / "model.gguf", {}, core::Overwrite::kReplace);
    write(file, "damaged");
    EXPECT_THROWS_WITH(file.check([] { throw NumericError("'blk.0.attn_q.weight' differs"); }),
                       NumericError, "blk.0.attn_q.weight", "model.gguf.rejected");
  }
  EXPECT_EQ(tests::slurp(folder / "model.gguf"), "earlier");
  EXPECT_EQ(tests::slurp(folder / "model.gguf.rejected"), "damaged");
  EXPECT_THAT(tests::slurp(folder / "model.gguf.rejected.json"),
              testing::HasSubstr("'blk.0.attn_q.weight' differs"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 3);
}

TEST(CheckedFile, AFileOfTheUsersThatIsCalledUncheckedIsKept) {
  const tests::TempDir folder;
  folder.write("model.gguf.unchecked", "mine");
  {
    CheckedFile file(folder / "model.gguf", {}, core::Overwrite::kRefuse);
    write(file, "half");
  }
  EXPECT_EQ(tests::slurp(folder / "model.gguf.unchecked"), "mine");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
}

TEST(CheckedFile, AFileThatIsReadIsNotReplaced) {
  const tests::TempDir folder;
  const std::vector<fs::path> inputs{folder.write("base/model.safetensors", "w").parent_path()};
  EXPECT_THROWS_WITH(
      CheckedFile(folder / "base/model.safetensors", inputs, core::Overwrite::kReplace), InputError,
      "lies in the input");
}

TEST(CheckedFile, WhatFailsOtherwiseLeavesNothing) {
  const tests::TempDir folder;
  try {
    CheckedFile file(folder / "model.gguf", {}, core::Overwrite::kRefuse);
    write(file, "half");
    file.check([] { throw IoError("the disk is gone"); });
  } catch (const IoError&) {
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(CheckedFile, AFileOfTheUsersThatIsCalledRejectedIsNeverReplaced) {
  const tests::TempDir folder;
  folder.write("model.gguf.rejected", "to be looked at");
  EXPECT_THROWS_WITH(CheckedFile(folder / "model.gguf", {}, core::Overwrite::kReplace), InputError,
                     "model.gguf.rejected", "is not what weft left there");
}

TEST(CheckedFile, ARejectedFileIsReplacedByTheNextRejectedOne) {
  const tests::TempDir folder;
  for (const std::string_view bytes : {"first", "second"}) {
    CheckedFile file(folder / "model.gguf", {}, core::Overwrite::kRefuse);
    write(file, bytes);
    EXPECT_THROW(file.check([] { throw NumericError("differs"); }), NumericError);
    EXPECT_EQ(tests::slurp(folder / "model.gguf.rejected"), bytes);
  }
}

}  // namespace
}  // namespace weft::exporting
