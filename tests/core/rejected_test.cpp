#include "core/rejected.h"

#include <gtest/gtest.h>

#include <fstream>

#include "core/error.h"
#include "core/output_claim.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"

namespace weft::core {
namespace {

namespace fs = std::filesystem;
using tests::TempDir;

/// A folder as a run leaves it that found its result wrong.
void leave_rejected(const TempDir& dir) {
  dir.write("out.rejected/config.json", "{}");
  dir.write("out.rejected/part/weights", "0123");
  note_rejected(dir / "out", "KL 0.5");
}

TEST(Rejected, TheNameStandsBesideTheTarget) {
  EXPECT_EQ(rejected_path("a/out"), fs::path("a/out.rejected"));
  EXPECT_EQ(rejected_path("a/out/"), fs::path("a/out.rejected"));
  EXPECT_EQ(rejected_note_path("model.gguf"), fs::path("model.gguf.rejected.json"));
}

TEST(Rejected, AResultAsItWasLeftMayBeReplaced) {
  const TempDir dir;
  EXPECT_NO_THROW(require_rejected_replaceable(dir / "out"));
  leave_rejected(dir);
  EXPECT_NO_THROW(require_rejected_replaceable(dir / "out"));
  EXPECT_NO_THROW(require_rejected_replaceable(dir / "out/"));
  fs::remove_all(dir / "out.rejected");
  EXPECT_NO_THROW(require_rejected_replaceable(dir / "out"));
}

TEST(Rejected, AFileThatWasAddedChangedOrTakenAwayKeepsTheWhole) {
  const auto refused_after = [](const auto& change) {
    const TempDir dir;
    leave_rejected(dir);
    change(dir);
    EXPECT_THROWS_WITH(require_rejected_replaceable(dir / "out"), InputError, "out.rejected",
                       "move it away");
  };
  refused_after([](const TempDir& dir) { dir.write("out.rejected/part/mine", ""); });
  refused_after([](const TempDir& dir) { fs::create_directory(dir / "out.rejected/empty"); });
  refused_after([](const TempDir& dir) { fs::remove(dir / "out.rejected/config.json"); });
  refused_after([](const TempDir& dir) {  // The same size, another time.
    const fs::path file = dir / "out.rejected/part/weights";
    const auto before = fs::last_write_time(file);
    dir.write("out.rejected/part/weights", "9876");
    fs::last_write_time(file, before + std::chrono::milliseconds(1));
  });
  refused_after([](const TempDir& dir) {
    fs::remove_all(dir / "out.rejected");
    fs::create_directory_symlink(dir.path(), dir / "out.rejected");
  });
  refused_after([](const TempDir& dir) { fs::remove(dir / "out.rejected.json"); });
}

TEST(Rejected, ANoteThatIsNotWeftsIsKept) {
  const TempDir dir;
  dir.write("out.rejected.json", R"({"format": "mine"})");
  EXPECT_THROWS_WITH(require_rejected_replaceable(dir / "out"), InputError, "out.rejected.json",
                     "is not weft's");
  dir.write("out.rejected.json", "{");
  EXPECT_THROWS_WITH(require_rejected_replaceable(dir / "out"), InputError, "is not weft's");
}

TEST(Rejected, ThePlaceOfARejectedResultIsNoInput) {
  const TempDir dir;
  dir.write("out.rejected/config.json", "{}");
  note_rejected(dir / "out", "KL 0.5");
  const std::vector<fs::path> inputs{dir / "out.rejected"};
  const Output output{.path = dir / "out", .kind = OutputKind::kFolder, .may_be_rejected = true};
  EXPECT_THROWS_WITH(claim_output(output, inputs, Overwrite::kReplace), InputError,
                     "would be replaced");
}

}  // namespace
}  // namespace weft::core
