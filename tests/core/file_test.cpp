#include "core/file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "core/error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"

namespace weft::core {
namespace {

namespace fs = std::filesystem;
using tests::slurp;
using tests::TempDir;

std::size_t entries(const fs::path& folder) {
  return static_cast<std::size_t>(
      std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

TEST(MappedFile, HoldsTheBytesOfTheFile) {
  const TempDir dir;
  const MappedFile file(dir.write("a", "some bytes"));
  ASSERT_EQ(10U, file.bytes().size());
  EXPECT_EQ(std::byte{'s'}, file.bytes()[0]);
}

TEST(MappedFile, AnEmptyFileIsAnEmptySpan) {
  const TempDir dir;
  EXPECT_TRUE(MappedFile(dir.write("a", "")).bytes().empty());
}

TEST(MappedFile, ReleasedPagesAreStillReadable) {
  const TempDir dir;
  const MappedFile file(dir.write("a", std::string(100'000, 'x')));
  file.release(file.bytes());
  for (const std::byte byte : file.bytes()) ASSERT_EQ(std::byte{'x'}, byte);
}

TEST(MappedFile, MovingKeepsTheBytes) {
  const TempDir dir;
  MappedFile first(dir.write("a", "first"));
  MappedFile second(dir.write("b", "second"));
  second = std::move(first);
  EXPECT_EQ(5U, second.bytes().size());
  EXPECT_EQ(dir / "a", second.path());
}

TEST(MappedFile, AMissingFileIsTheUsersMistake) {
  const TempDir dir;
  EXPECT_THROWS_WITH(MappedFile(dir / "none"), InputError, "no such file", "none");
}

TEST(MappedFile, ADirectoryIsNoFile) {
  const TempDir dir;
  EXPECT_THROWS_WITH(MappedFile(dir.path()), InputError, "found a directory");
}

TEST(RequireWritable, LetsPassWhatCanBeWrittenAndLeavesNothing) {
  const TempDir dir;
  dir.write("file", "old");
  EXPECT_NO_THROW(require_writable(dir / "new", OutputKind::kFile, Overwrite::kRefuse));
  EXPECT_NO_THROW(require_writable(dir / "file", OutputKind::kFile));
  EXPECT_NO_THROW(require_writable(dir / "a/b/out/", OutputKind::kFolder, Overwrite::kRefuse));
  EXPECT_NO_THROW(require_writable(dir.path(), OutputKind::kContents));
  EXPECT_NO_THROW(require_writable("name", OutputKind::kFile, Overwrite::kRefuse));
  EXPECT_EQ(1U, entries(dir.path()));
  EXPECT_EQ("old", slurp(dir / "file"));
}

TEST(RequireWritable, NamesWhatIsInTheWay) {
  const TempDir dir;
  dir.write("file", "old");
  const auto refused = [&](const fs::path& path, OutputKind kind, const char* text) {
    EXPECT_THROWS_WITH(require_writable(path, kind), InputError, path.c_str(), text);
  };
  refused(dir.path(), OutputKind::kFile, "is a folder");
  refused(dir / "file", OutputKind::kFolder, "is a file");
  refused(dir / "file", OutputKind::kContents, "is a file");
  refused(dir / "file/below", OutputKind::kFolder, "cannot be written");
  refused(dir / "missing/out", OutputKind::kFile, "there is no folder");
  EXPECT_FALSE(fs::exists(dir / "missing"));
  for (const OutputKind kind : {OutputKind::kFile, OutputKind::kFolder, OutputKind::kContents}) {
    refused("/proc/weft-out", kind, "cannot be written");
  }
  EXPECT_THROWS_WITH(require_writable(dir / "file", OutputKind::kFile, Overwrite::kRefuse),
                     InputError, "exists already", "--force");
}

TEST(AtomicFile, AppearsOnCommitOnly) {
  const TempDir dir;
  AtomicFile file(dir / "out");
  file.write("text");
  EXPECT_FALSE(fs::exists(dir / "out"));
  file.commit();
  EXPECT_EQ("text", slurp(dir / "out"));
  EXPECT_EQ(4U, file.size());
  EXPECT_EQ(1U, entries(dir.path()));
}

TEST(AtomicFile, WithoutCommitNothingChangesAndNothingIsLeft) {
  const TempDir dir;
  dir.write("out", "old");
  { AtomicFile(dir / "out").write("new"); }
  EXPECT_EQ("old", slurp(dir / "out"));
  EXPECT_EQ(1U, entries(dir.path()));
}

TEST(AtomicFile, ReplacesWithoutHarmToAReaderOfTheOldFile) {
  const TempDir dir;
  const MappedFile old(dir.write("out", "old bytes"));
  write_text(dir / "out", "x");
  EXPECT_EQ(std::byte{'o'}, old.bytes()[0]);
  EXPECT_EQ(std::byte{'s'}, old.bytes()[8]);
  EXPECT_EQ("x", slurp(dir / "out"));
}

TEST(AtomicFile, MakesTheFoldersOfItsTarget) {
  const TempDir dir;
  write_text(dir / "a/b/out", "x");
  EXPECT_EQ("x", slurp(dir / "a/b/out"));
}

TEST(AtomicFile, AFolderThatCannotBeMadeIsNamed) {
  const TempDir dir;
  dir.write("a", "a file");
  EXPECT_THROWS_WITH(write_text(dir / "a/out", "x"), IoError, "cannot create folder", "/a");
}

TEST(AtomicFile, AFullDiskLeavesTheOldFile) {
  const TempDir dir;
  dir.write("out", "old");
  // A limit on the size of files stands for the full disk: write() fails with EFBIG.
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      write_text(dir / "out", std::string(10'000, 'x'));
    } catch (const IoError& error) {
      const std::string text = error.what();
      ::_exit(text.find("cannot write") != std::string::npos &&
                      text.find("/out: ") != std::string::npos
                  ? 7
                  : 8);
    }
    ::_exit(9);
  }
  int status = 0;
  ASSERT_EQ(child, ::waitpid(child, &status, 0));
  EXPECT_EQ(7, WEXITSTATUS(status));
  EXPECT_EQ("old", slurp(dir / "out"));
  EXPECT_EQ(1U, entries(dir.path()));
}

TEST(AtomicDirectory, AppearsWholeOnCommit) {
  const TempDir dir;
  AtomicDirectory out(dir / "out", Overwrite::kRefuse);
  write_text(out.path() / "a/b", "x");
  EXPECT_FALSE(fs::exists(dir / "out"));
  out.commit();
  EXPECT_EQ("x", slurp(dir / "out/a/b"));
  EXPECT_EQ(1U, entries(dir.path()));
}

TEST(AtomicDirectory, WithoutCommitNothingIsLeft) {
  const TempDir dir;
  {
    const AtomicDirectory out(dir / "out", Overwrite::kRefuse);
    write_text(out.path() / "a", "x");
  }
  EXPECT_EQ(0U, entries(dir.path()));
}

TEST(AtomicDirectory, RefusesAnExistingTargetBeforeAnyWork) {
  const TempDir dir;
  dir.write("out/a", "old");
  EXPECT_THROWS_WITH(AtomicDirectory(dir / "out", Overwrite::kRefuse), InputError, "exists already",
                     "--force");
  EXPECT_EQ(1U, entries(dir.path()));
}

TEST(AtomicDirectory, ReplacesTheOldFolderAsAWhole) {
  const TempDir dir;
  dir.write("out/old", "old");
  AtomicDirectory out(dir / "out", Overwrite::kReplace);
  write_text(out.path() / "new", "new");
  EXPECT_EQ("old", slurp(dir / "out/old"));
  out.commit();
  EXPECT_FALSE(fs::exists(dir / "out/old"));
  EXPECT_EQ("new", slurp(dir / "out/new"));
  EXPECT_EQ(1U, entries(dir.path()));
}

TEST(AtomicDirectory, NeverReplacesAFile) {
  const TempDir dir;
  dir.write("out", "a file");
  EXPECT_THROWS_WITH(AtomicDirectory(dir / "out", Overwrite::kReplace), InputError, "is a file");
}

TEST(AtomicDirectory, ATrailingSlashNamesTheSameFolder) {
  const TempDir dir;
  AtomicDirectory out(dir / "out/", Overwrite::kRefuse);
  out.commit();
  EXPECT_TRUE(fs::is_directory(dir / "out"));
}

TEST(ReadText, RefusesMoreThanItsLimit) {
  const TempDir dir;
  const fs::path file = dir.write("a", "12345");
  EXPECT_EQ("12345", read_text(file, 5));
  EXPECT_THROWS_WITH((void)read_text(file, 4), InputError, "has 5 bytes", "at most 4");
}

}  // namespace
}  // namespace weft::core
