#include "checkpoint/digest_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/support/temp_dir.h"

namespace weft::checkpoint {
namespace {
namespace fs = std::filesystem;

class Digests : public testing::Test {
 protected:
  Digests() {
    write(DigestStore::kLeastBytes, 'x');
    tensors_.push_back({.name = "w",
                        .shape = {static_cast<std::int64_t>(DigestStore::kLeastBytes)},
                        .storage = Storage::kOther,
                        .storage_name = "I8",
                        .bytes = DigestStore::kLeastBytes,
                        .file = file_});
  }

  void write(std::uint64_t size, char c) {
    std::ofstream(file_, std::ios::binary) << std::string(size, c);
  }
  /// As if the file had been there for a while: waiting is what ctime cannot be spared.
  static void settle() { ::usleep(4'200'000); }

  std::string get() {
    const int before = computed_;
    bool kept = false;
    std::string digest = DigestStore(dir_ / "digests")
                             .get(
                                 tensors_,
                                 [&] {
                                   ++computed_;
                                   return std::string(64, static_cast<char>('a' + computed_));
                                 },
                                 &kept);
    EXPECT_EQ(kept, computed_ == before);
    return digest;
  }

  tests::TempDir dir_;
  fs::path file_ = dir_ / "weights";
  std::vector<TensorInfo> tensors_;
  int computed_ = 0;
};

TEST_F(Digests, AreComputedOnceForAFileThatDoesNotChange) {
  const std::string first = get();
  EXPECT_EQ(get(), std::string(64, 'c')) << "a file of this second is not trusted";
  EXPECT_NE(get(), first);
  settle();
  const std::string kept = get();
  const int before = computed_;
  EXPECT_EQ(get(), kept);
  EXPECT_EQ(computed_, before);
  // The same size and the same time of change, as rsync -t and tar leave it: ctime tells.
  struct stat status {};
  ASSERT_EQ(::stat(file_.c_str(), &status), 0);
  write(DigestStore::kLeastBytes, 'y');
  const timespec times[2] = {status.st_atim, status.st_mtim};
  ASSERT_EQ(::utimensat(AT_FDCWD, file_.c_str(), times, 0), 0);
  EXPECT_NE(get(), kept);
  // A damaged entry is nothing.
  settle();
  const std::string again = get();
  for (const auto& entry : fs::directory_iterator(dir_ / "digests")) {
    std::ofstream(entry.path()) << "short";
  }
  EXPECT_NE(get(), again);
}

TEST_F(Digests, OfSmallModelsAndWithoutAFolderAreNotKept) {
  EXPECT_NE(DigestStore(std::nullopt).get(tensors_, [] { return std::string("one"); }), "");
  tensors_.front().bytes = 1000;
  (void)get();
  (void)get();
  EXPECT_EQ(computed_, 2);
  EXPECT_FALSE(fs::exists(dir_ / "digests"));
}

}  // namespace
}  // namespace weft::checkpoint
