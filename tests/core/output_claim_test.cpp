#include "core/output_claim.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"

namespace weft::core {
namespace {

namespace fs = std::filesystem;
using tests::TempDir;

constexpr auto kForce = Overwrite::kReplace;

TEST(OutputClaim, AnOutputThatIsHoldsOrLiesInAnInputIsRefusedWithForceToo) {
  const TempDir dir;
  dir.write("all/base/model.safetensors", "weights");
  const std::vector<fs::path> inputs{dir / "all/base"};
  for (const auto& out : {dir / "all/base", dir / "all", dir / "all/base/"}) {
    EXPECT_THROWS_WITH(claim_output({out, OutputKind::kFolder}, inputs, kForce), InputError,
                       "would be replaced", "all/base");
  }
  EXPECT_THROWS_WITH(
      claim_output({dir / "all/base/model.safetensors", OutputKind::kFile}, inputs, kForce),
      InputError, "lies in the input");
  EXPECT_THROWS_WITH(
      claim_output({dir / "all/base/merged", OutputKind::kFolder}, inputs, Overwrite::kRefuse),
      InputError, "lies in the input");
  EXPECT_NO_THROW(claim_output({dir / "all/base2", OutputKind::kFolder}, inputs, kForce));
}

TEST(OutputClaim, TryingAFolderMakesNoNameThatAKilledProcessCouldLeave) {
  const TempDir dir;
  const int nameless = ::open(dir.path().c_str(), O_TMPFILE | O_WRONLY, 0600);
  if (nameless < 0) GTEST_SKIP() << "the file system has no files without a name";
  ::close(nameless);
  const int watch = ::inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  ASSERT_GE(::inotify_add_watch(watch, dir.path().c_str(), IN_CREATE), 0);
  claim_output({dir / "out", OutputKind::kFolder}, {}, kForce);
  alignas(inotify_event) char events[4096];
  EXPECT_LT(::read(watch, events, sizeof events), 0) << "a name was made in the folder";
  ::close(watch);
}

TEST(LeftBehind, FilesThatOnlyTriedAFolderAreRemovedAndAUsersStay) {
  const TempDir dir;
  dir.write(".weft-Ab12Cd", "");
  dir.write(".weft-Zz99Zz", "mine");
  dir.write(".weft-notes-of-mine", "");
  remove_left_behind(dir / "config.yaml");
  EXPECT_FALSE(fs::exists(dir / ".weft-Ab12Cd"));
  EXPECT_TRUE(fs::exists(dir / ".weft-Zz99Zz"));
  EXPECT_TRUE(fs::exists(dir / ".weft-notes-of-mine"));
}

TEST(OutputClaim, LinksAndOtherSpellingsAreTheSamePlace) {
  const TempDir dir;
  dir.write("base/config.json", "{}");
  fs::create_directory_symlink(dir / "base", dir / "link");
  const std::vector<fs::path> inputs{dir / "link"};
  for (const auto& out : {dir / "base", dir / "base/../base", dir / "link/"}) {
    EXPECT_THROWS_WITH(claim_output({out, OutputKind::kFolder}, inputs, kForce), InputError,
                       "would be replaced");
  }
}

TEST(OutputClaim, AFolderThatTheInputsLinksLeadToIsNotReplaced) {
  const TempDir dir;  // As the cache of the hub keeps models.
  dir.write("blobs/0badcafe", "weights");
  fs::create_directories(dir / "snapshots/1");
  fs::create_symlink(dir / "blobs/0badcafe", dir / "snapshots/1/model.safetensors");
  const std::vector<fs::path> inputs{dir / "snapshots/1"};
  EXPECT_THROWS_WITH(claim_output({dir / "blobs", OutputKind::kFolder}, inputs, kForce), InputError,
                     "would be replaced");
}

TEST(OutputClaim, AnInputFileIsNotReplaced) {
  const TempDir dir;
  const std::vector<fs::path> inputs{dir.write("text.txt", "atl"), fs::path()};
  EXPECT_THROWS_WITH(claim_output({dir / "text.txt", OutputKind::kFile}, inputs, kForce),
                     InputError, "text.txt");
  EXPECT_NO_THROW(claim_output({dir / "other.txt", OutputKind::kFile}, inputs, kForce));
}

TEST(OutputClaim, TwoOutputsInOnePlaceAreRefused) {
  const TempDir dir;
  fs::create_directory(dir / "out");
  const std::vector<Output> outputs{{dir / "out", OutputKind::kFolder},
                                    {dir / "out/undo", OutputKind::kFile, "--undo"}};
  EXPECT_THROWS_WITH(claim_outputs(outputs, {}, kForce), InputError, "--undo", "--out");
}

/// The number of a process that has ended.
pid_t ended_process() {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
  return child;
}

TEST(LeftBehind, WhatAKilledProcessLeftOfATargetIsRemovedByTheNext) {
  const TempDir dir;
  const std::string file = fmt::format(".out.part-{}-0badcafe", ended_process());
  const std::string folder =
      fmt::format(".out.part-{}-0badcaff/model.safetensors", ended_process());
  dir.write(file, "half");
  dir.write(folder, "half");
  dir.write(".out.part-mine", "the user's own");
  dir.write(fmt::format(".other.part-{}-0badcafe", ended_process()), "of another target");
  write_text(dir / "out", "whole");
  EXPECT_FALSE(fs::exists(dir / file));
  EXPECT_FALSE(fs::exists((dir / folder).parent_path()));
  EXPECT_TRUE(fs::exists(dir / ".out.part-mine"));
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 3);
}

TEST(LeftBehind, WhatIsStillBeingWrittenStays) {
  const TempDir dir;
  const fs::path own = dir.write(fmt::format(".out.part-{}-0badcafe", ::getpid()), "half");
  write_text(dir / "out", "whole");
  EXPECT_TRUE(fs::exists(own));  // This process lives.
  // Of a process of another machine only the lock is known.
  const std::string name = fmt::format(".out.part-{}-0badcafe/x", ended_process());
  const fs::path folder = dir.write(name, "half").parent_path();
  const int lock = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY);
  ASSERT_EQ(::flock(lock, LOCK_EX), 0);
  write_text(dir / "out", "whole");
  EXPECT_TRUE(fs::exists(folder));
  ::close(lock);
  write_text(dir / "out", "whole");
  EXPECT_FALSE(fs::exists(folder));
}

TEST(AtomicDirectory, AFolderThatIsKeptIsThereForTheNextProcess) {
  const TempDir dir;
  fs::path staging;
  {
    AtomicDirectory folder(dir / "out", Overwrite::kRefuse);
    staging = folder.path();
    write_text(staging / "done", "1");
    folder.keep();
  }
  EXPECT_TRUE(fs::exists(staging / "done"));
  EXPECT_FALSE(fs::exists(dir / "out"));
}

}  // namespace
}  // namespace weft::core
