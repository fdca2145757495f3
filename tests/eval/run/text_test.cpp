#include "eval/run/text.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "eval/statistics/spread.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"

namespace weft::eval {
namespace {

using tests::TempDir;

TEST(ReadDocuments, TakesATextFileAsOneDocumentByteForByte) {
  const TempDir folder;
  const std::string text = " line\r\n\n\ttlaxcalli \U0001F33D\n";
  EXPECT_EQ(read_documents(folder.write("a.txt", text)), std::vector<std::string>{text});
  EXPECT_EQ(read_documents(folder.write("notes", "\xEF\xBB\xBF" + text)),
            std::vector<std::string>{text});  // the byte-order mark is no text
}

TEST(ReadDocuments, TakesJsonlAsOneDocumentALine) {
  const TempDir folder;
  const auto path = folder.write("a.jsonl",
                                 "{\"text\": \"uno\\n\", \"id\": 1}\r\n\n{\"text\": \"\"}\n"
                                 "{\"id\": 2, \"text\": \"n\\u00e1huatl\"}");
  EXPECT_EQ(read_documents(path), (std::vector<std::string>{"uno\n", "", "náhuatl"}));
}

TEST(ReadDocuments, LimitSpreadsOverTheFile) {
  const TempDir folder;
  std::string lines;
  for (int i = 0; i < 10; ++i) lines += fmt::format("{{\"text\": \"{}\"}}\n", i);
  const auto path = folder.write("a.jsonl", lines);
  EXPECT_EQ(read_documents(path, 3), (std::vector<std::string>{"0", "3", "6"}));
  EXPECT_EQ(read_documents(path, 50).size(), 10U);
}

TEST(ReadDocuments, NamesFileAndLineOfWhatIsWrong) {
  const TempDir folder;
  EXPECT_THROWS_WITH((void)read_documents(folder / "absent.txt"), InputError, "absent.txt");
  EXPECT_THROWS_WITH(
      (void)read_documents(folder.write("b.jsonl", "{\"text\": \"a\"}\n{\"text\": 3}")), InputError,
      "b.jsonl:2", "text");
  EXPECT_THROWS_WITH((void)read_documents(folder.write("c.jsonl", "\n{\"text\": ")), InputError,
                     "c.jsonl:2", "JSON");
  EXPECT_THROWS_WITH((void)read_documents(folder.write("d.txt", "a\nn\xE1huatl")), InputError,
                     "d.txt", "UTF-8");
  EXPECT_THROWS_WITH((void)read_documents(folder.write("e.txt", "")), InputError, "no text");
  EXPECT_THROWS_WITH((void)read_documents(folder.write("f.jsonl", "{\"text\": \"\"}\n")),
                     InputError, "no text");
}

TEST(WindowPass, ReadsOneTokenBehindWhatItPredicts) {
  const std::vector<std::int32_t> tokens{10, 11, 12, 13, 14};
  constexpr std::int32_t kNone = data::kNoTarget;
  const Pass first = window_pass(tokens, 99, {.begin = 0, .end = 3, .context = 1});
  EXPECT_EQ(first.tokens, (std::vector<std::int32_t>{99, 10, 11}));
  EXPECT_EQ(first.targets, (std::vector<std::int32_t>{10, 11, 12}));
  const Pass last = window_pass(tokens, 99, {.begin = 3, .end = 5, .context = 2});
  EXPECT_EQ(last.tokens, (std::vector<std::int32_t>{11, 12, 13}));
  EXPECT_EQ(last.targets, (std::vector<std::int32_t>{kNone, 13, 14}));
}

TEST(ItemsWithLosses, SumThePassesOfEachItem) {
  const RollingText text{.passes = {{}, {}, {}},
                         .item_of_pass = {0, 0, 2},
                         .items = {{.bytes = 7}, {.bytes = 0}, {.bytes = 4}}};
  const std::vector<PassLoss> losses{{3, 1.5}, {2, 0.25}, {4, 8}};
  const std::vector<Item> items = items_with_losses(text, losses);
  ASSERT_EQ(items.size(), 3U);
  EXPECT_EQ(items[0].tokens, 5);
  EXPECT_EQ(items[0].loss, 1.75);
  EXPECT_EQ(items[0].bytes, 7);
  EXPECT_EQ(items[1].tokens, 0);
  EXPECT_EQ(items[2].loss, 8);
}

TEST(Spread, IsEvenAndAscending) {
  EXPECT_EQ(spread(4, std::nullopt), (std::vector<std::size_t>{0, 1, 2, 3}));
  EXPECT_EQ(spread(10, 4), (std::vector<std::size_t>{0, 2, 5, 7}));
  EXPECT_EQ(spread(0, 4), std::vector<std::size_t>{});
}

}  // namespace
}  // namespace weft::eval
