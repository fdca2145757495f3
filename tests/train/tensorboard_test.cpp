#include "train/tensorboard.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "core/error.h"
#include "tests/support/temp_dir.h"

namespace weft::train {
namespace {

/// Payloads of a file of TFRecords; fails the test on a wrong checksum.
std::vector<std::string> records_of(const std::string& bytes) {
  const auto masked = [](std::string_view text) {
    const std::uint32_t crc = crc32c(text);
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
  };
  std::vector<std::string> records;
  for (std::size_t at = 0; at < bytes.size();) {
    std::uint64_t size = 0;
    std::uint32_t crc = 0;
    std::memcpy(&size, bytes.data() + at, 8);
    std::memcpy(&crc, bytes.data() + at + 8, 4);
    EXPECT_EQ(crc, masked(std::string_view(bytes).substr(at, 8)));
    records.push_back(bytes.substr(at + 12, size));
    std::memcpy(&crc, bytes.data() + at + 12 + size, 4);
    EXPECT_EQ(crc, masked(records.back()));
    at += 16 + size;
  }
  return records;
}

TEST(Crc32c, HasTheCheckValuesOfRfc3720) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aaU);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43U);
}

TEST(EventFile, StartsWithItsVersionAndFramesEveryScalar) {
  const tests::TempDir folder;
  EventFile file(folder.path(), 1);
  file.scalar("train/loss", 300, 1.5F);
  file.flush();
  const auto records = records_of(tests::slurp(file.path()));
  ASSERT_EQ(records.size(), 2U);
  EXPECT_NE(records[0].find("\x1a\x0d"
                            "brain.Event:2"),
            std::string::npos);
  // step 300 (field 2), then summary { value { tag, simple_value 1.5 } }.
  EXPECT_EQ(records[1].substr(9),
            std::string("\x10\xac\x02\x2a\x13\x0a\x11\x0a\x0atrain/loss\x15\0\0\xc0\x3f", 24));
}

TEST(EventFile, NeverWritesIntoAnEarlierFile) {
  const tests::TempDir folder;
  EventFile first(folder.path(), 1);
  EventFile second(folder.path(), 5);
  EXPECT_NE(first.path(), second.path());
  EXPECT_EQ(records_of(tests::slurp(second.path())).size(), 2U);  // version, session start
}

TEST(EventFile, FolderThatCannotBeWrittenIsAnIoError) {
  EXPECT_THROW(EventFile("/proc/none", 1), IoError);
}

}  // namespace
}  // namespace weft::train
