#include "data/token_cache.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>

#include "core/error.h"
#include "core/parallel.h"
#include "data/examples.h"
#include "data/token_file.h"
#include "tests/data/tiny_tokenizer.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"

namespace weft::data {
namespace {
namespace fs = std::filesystem;
using ::testing::HasSubstr;
using weft::tests::slurp;
using weft::tests::TempDir;

/// 9000 rows, more than a batch; every 100th is longer than the limit, every 50th repeats.
std::string many_rows() {
  std::string text;
  for (int i = 0; i < 9000; ++i) {
    const std::string answer = i % 50 == 0 ? "same" : fmt::format("answer {}", i);
    const std::string prompt =
        i % 100 == 7 ? std::string(80, 'x') : (i % 50 == 0 ? "p:" : fmt::format("p{}:", i));
    text += nlohmann::json{{"prompt", prompt}, {"completion", answer}}.dump() + "\n";
  }
  return text;
}

class TokenCacheTest : public ::testing::Test {
 protected:
  void SetUp() override {
    core::set_thread_count(2);
    config_.path = {folder_.write("a/train.jsonl", many_rows())};
    options_.sequence_len = 64;
  }
  void TearDown() override { core::set_thread_count(0); }

  [[nodiscard]] fs::path cache() const { return folder_ / "cache"; }

  TokenisedData tokenise(const std::optional<fs::path>& folder) {
    TokenCache one(folder);
    return tokenise(one);
  }

  TokenisedData tokenise(TokenCache& one) {
    lines_.clear();
    const std::vector<DatasetConfig> datasets{config_};
    const std::vector<std::vector<SourceFile>> files{source_files(config_)};
    return one.tokenise(
        {datasets, files, tiny_.tokenizer, nullptr, options_},
        [&](core::Level level, std::string_view line) {
          lines_.push_back(fmt::format("{} {}", level == core::Level::kWarning ? 'W' : 'I', line));
        });
  }

  /// Lines of the last tokenise() without those on the cache itself.
  [[nodiscard]] std::vector<std::string> findings() const {
    std::vector<std::string> said;
    for (const std::string& line : lines_) {
      if (!line.starts_with("I tokens ")) said.push_back(line);
    }
    return said;
  }

  [[nodiscard]] std::vector<fs::path> entries() const {
    std::vector<fs::path> all;
    for (const auto& entry : fs::directory_iterator(cache())) all.push_back(entry.path());
    return all;
  }

  [[nodiscard]] std::string said() const {
    std::string all;
    for (const std::string& line : lines_) all += line + "\n";
    return all;
  }

  TempDir folder_;
  DatasetConfig config_;
  PromptOptions options_;
  tests::TinyTokenizer tiny_{{.merges = {{"a", "n"}, {"an", "s"}}}};
  std::vector<std::string> lines_;
};

void expect_equal(const ExampleTable& a, const ExampleTable& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    ASSERT_TRUE(std::ranges::equal(a[i].tokens, b[i].tokens)) << i;
    ASSERT_TRUE(std::ranges::equal(a[i].supervised, b[i].supervised)) << i;
  }
}

TEST_F(TokenCacheTest, GivesTheExamplesOfLoadExamplesAndTheirFindings) {
  for (const bool shuffled : {false, true}) {
    if (shuffled) config_.shuffle_seed = 5;
    if (shuffled) config_.limit = 700;
    const PromptBuilder builder(tiny_.tokenizer, nullptr, options_);
    const Examples loaded = load_examples({config_}, builder);
    const std::string found = to_json(inspect_examples(loaded, tiny_.tokenizer)).dump();
    for (int run = 0; run < 3; ++run) {
      const TokenisedData data = tokenise(run < 2 ? std::optional(cache()) : std::nullopt);
      expect_equal(data.examples, loaded.examples);
      EXPECT_EQ(to_json(data.preflight).dump(), found);
    }
    EXPECT_GT(inspect_examples(loaded, tiny_.tokenizer).prompts.dropped, 5);
  }
}

TEST_F(TokenCacheTest, LaterRunReportsTheSameWithoutTokenising) {
  const TokenisedData first = tokenise(cache());
  const auto found = findings();
  EXPECT_THAT(said(), HasSubstr("kept in"));
  ASSERT_EQ(entries().size(), 1U);
  const TokenisedData second = tokenise(cache());
  EXPECT_THAT(said(), HasSubstr("taken from"));
  EXPECT_EQ(findings(), found);
  EXPECT_GE(found.size(), 2U);  // the type that was read, and what was left out
  EXPECT_EQ(to_text(second.preflight), to_text(first.preflight));
  EXPECT_EQ(second.largest_id, first.largest_id);
  expect_equal(first.examples, second.examples);
}

TEST_F(TokenCacheTest, AMovedFileIsTakenFromTheCacheAndReportedWhereItIs) {
  const TokenisedData first = tokenise(cache());
  fs::create_directories(folder_ / "b");
  fs::rename(folder_ / "a/train.jsonl", folder_ / "b/train.jsonl");
  config_.path = {folder_ / "b/train.jsonl"};
  const TokenisedData second = tokenise(cache());
  EXPECT_THAT(said(), HasSubstr("taken from"));
  EXPECT_EQ(second.preflight.sample_origin, (folder_ / "b/train.jsonl").string() + ":1");
  EXPECT_THAT(said(), HasSubstr((folder_ / "b/train.jsonl").string()));
  EXPECT_EQ(said().find((folder_ / "a/train.jsonl").string()), std::string::npos);
}

TEST_F(TokenCacheTest, WhateverTokensDependOnMakesAnotherFile) {
  (void)tokenise(cache());
  std::size_t files = 1;
  const auto expect_another = [&](const char* what) {
    (void)tokenise(cache());
    EXPECT_EQ(entries().size(), ++files) << what;
  };
  options_.sequence_len = 32;
  expect_another("an option");
  config_.limit = 100;
  expect_another("a key of the dataset");
  folder_.write("a/train.jsonl", many_rows() + "{\"prompt\":\"p\",\"completion\":\"q\"}\n");
  expect_another("contents");
  tiny_ = tests::TinyTokenizer({.merges = {{"a", "n"}}});
  expect_another("the tokenizer");
}

TEST_F(TokenCacheTest, ATemplateThatPrintsTheDateKeepsTheRunsDayAndTellsIt) {
  config_.path = {folder_.write("d.jsonl", R"({"instruction": "q", "output": "a"})")};
  const std::string body = "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}";
  const std::vector<DatasetConfig> datasets{config_};
  const std::vector<std::vector<SourceFile>> files{source_files(config_)};
  const auto tokens = [&](const std::string& source, const char* day) {
    text::ChatTemplate chat(source, tiny_.tokenizer.special_tokens());
    chat.set_date(day);
    TokenCache one(cache());
    const TokenisedData data =
        one.tokenise({datasets, files, tiny_.tokenizer, &chat, options_}, {});
    return std::pair(
        std::vector<std::int32_t>(data.examples[0].tokens.begin(), data.examples[0].tokens.end()),
        data.preflight);
  };
  const auto [first, plan] = tokens("{{ strftime_now('%d %b %Y') }}" + body, "2026-11-29");
  EXPECT_THAT(tiny_.tokenizer.decode(first), HasSubstr("29 Nov 2026"));
  EXPECT_EQ(plan.template_date, "2026-11-29");
  EXPECT_THAT(to_text(plan), HasSubstr("date        2026-11-29, which the chat template prints"));
  const auto [next_day, unused] = tokens("{{ strftime_now('%d %b %Y') }}" + body, "2026-11-30");
  EXPECT_THAT(tiny_.tokenizer.decode(next_day), HasSubstr("30 Nov 2026"));
  EXPECT_EQ(entries().size(), 2U);
  const auto [again, same] = tokens("{{ strftime_now('%d %b %Y') }}" + body, "2026-11-29");
  EXPECT_EQ(again, first);
  const auto [timeless, none] = tokens(body, "2026-11-29");
  EXPECT_EQ(none.template_date, "");
  (void)tokens(body, "2026-11-30");
  EXPECT_EQ(entries().size(), 3U) << "a template without a date has one file for all days";
}

TEST_F(TokenCacheTest, DataFromAPipeIsRefusedByNameAndNotHalfRead) {
  const fs::path pipe = folder_ / "pipe.jsonl";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  config_.path = {pipe};
  EXPECT_THROWS_WITH((void)source_files(config_), InputError, "pipe.jsonl: is no regular file",
                     "save it to a file");
  config_.shuffle_seed = 1;
  EXPECT_THROWS_WITH((void)load_samples(config_), InputError, "shuffle_seed reads data twice");
}

TEST_F(TokenCacheTest, AFolderWhoseNameIsNoUtf8IsReadAndKept) {
  const fs::path folder = folder_ / "caf\xE9";
  fs::create_directories(folder);
  std::ofstream(folder / "t.jsonl") << R"({"text": "abc"})"
                                    << "\nnonsense\n";
  config_.path = {folder / "t.jsonl"};
  config_.on_bad_row = OnBadRow::kSkip;
  const TokenisedData first = tokenise(folder / "cache");
  const TokenisedData second = tokenise(folder / "cache");
  EXPECT_THAT(said(), HasSubstr("taken from"));
  EXPECT_EQ(to_text(second.preflight), to_text(first.preflight));
  expect_equal(first.examples, second.examples);
}

TEST_F(TokenCacheTest, AddingAFileTokenisesOnlyThatOne) {
  const auto rows = [](int from, int to) {
    std::string text;
    for (int i = from; i < to; ++i) {
      text +=
          nlohmann::json{{"prompt", fmt::format("p{}:", i % 40)}, {"completion", "a"}, {"id", i}}
              .dump() +
          "\n";
    }
    return text;
  };
  config_.path = {folder_.write("one.jsonl", rows(0, 30)), folder_.write("two.jsonl", rows(30, 70)),
                  folder_.write("empty.jsonl", "\n")};
  (void)tokenise(cache());
  EXPECT_EQ(entries().size(), 3U);
  config_.path.push_back(folder_.write("three.jsonl", rows(70, 90) + std::string(90, 'x')));
  config_.on_bad_row = OnBadRow::kSkip;
  (void)tokenise(cache());
  EXPECT_EQ(entries().size(), 7U) << "on_bad_row bears on what is kept";
  config_.path.insert(config_.path.begin(), folder_.write("zero.jsonl", rows(5, 12)));
  const TokenisedData data = tokenise(cache());
  EXPECT_EQ(entries().size(), 8U);
  EXPECT_THAT(said(), HasSubstr("tokens taken from " + cache().string() + " (4 files"));
  EXPECT_THAT(said(), HasSubstr("tokens kept in " + cache().string()));

  // The same as reading everything at once, whatever the pieces.
  const PromptBuilder builder(tiny_.tokenizer, nullptr, options_);
  const Examples loaded = load_examples({config_}, builder);
  expect_equal(data.examples, loaded.examples);
  EXPECT_EQ(to_json(data.preflight).dump(),
            to_json(inspect_examples(loaded, tiny_.tokenizer, {.max_duplicate_share = 1})).dump());
  EXPECT_GT(data.preflight.duplicates, 20) << "repeats across files are found";
  EXPECT_EQ(data.preflight.unused.at("id"), 97);
  const TokenisedData uncached = tokenise(std::nullopt);
  expect_equal(uncached.examples, data.examples);

  config_.path = {folder_ / "empty.jsonl"};
  EXPECT_THROWS_WITH((void)tokenise(cache()), InputError, "empty.jsonl: there are no rows in it");
}

TEST_F(TokenCacheTest, ADamagedOrCutFileIsMadeAgainWithOneLine) {
  const TokenisedData good = tokenise(cache());
  const fs::path file = entries().front();
  const std::string bytes = slurp(file);
  const auto spoil = [&](std::string other) {
    fs::remove(file);  // what is mapped stays as it is
    std::ofstream(file, std::ios::binary) << other;
  };
  for (const std::size_t at : {0UL, 8UL, 100UL, bytes.size() / 2, bytes.size() - 80}) {
    std::string other = bytes;
    other[at] = static_cast<char>(other[at] ^ 1);
    spoil(other);
    expect_equal(tokenise(cache()).examples, good.examples);
    EXPECT_THAT(said(),
                HasSubstr(fmt::format("W {} cannot be used and is made again", file.string())));
    EXPECT_EQ(slurp(file), bytes) << at;
  }
  for (const std::size_t size : {0UL, 50UL, bytes.size() / 2, bytes.size() - 1}) {
    spoil(bytes.substr(0, size));
    expect_equal(tokenise(cache()).examples, good.examples);
    EXPECT_THAT(said(), HasSubstr("is made again"));
    EXPECT_EQ(slurp(file), bytes) << size;
  }
}

TEST_F(TokenCacheTest, AFolderThatCannotBeWrittenGivesOneWarning) {
  folder_.write("file", "");
  TokenCache one(folder_ / "file/below");
  const TokenisedData kept = tokenise(cache());
  const TokenisedData data = tokenise(one);
  EXPECT_THAT(said(), HasSubstr("W tokens are not kept for the next run"));
  expect_equal(data.examples, kept.examples);
  options_.sequence_len = 40;
  (void)tokenise(one);
  EXPECT_EQ(said().find("not kept"), std::string::npos) << "said once";
}

TEST_F(TokenCacheTest, BadRowsAreAnErrorEveryTimeAndKeepNothing) {
  folder_.write("a/train.jsonl", "{\"prompt\":\"p\",\"completion\":\"q\"}\nnot json\n");
  for (int run = 0; run < 2; ++run) {
    EXPECT_THROWS_WITH((void)tokenise(cache()), InputError, "train.jsonl:2");
    EXPECT_TRUE(!fs::exists(cache()) || entries().empty());
  }
}

TEST_F(TokenCacheTest, OldFilesAndThoseOfKilledProcessesGoAndForeignOnesStay) {
  fs::create_directories(cache());
  const auto old = fs::file_time_type::clock::now() - std::chrono::hours(24 * 31);
  const auto put = [&](const std::string& name, bool is_old) {
    std::ofstream(cache() / name) << "x";
    if (is_old) fs::last_write_time(cache() / name, old);
  };
  const std::string digits = "0123456789abcdef0123456789abcdef";
  put(digits + ".tokens", true);
  put(fmt::format("1{}.tokens", digits.substr(1)), false);
  put(fmt::format(".{}.tokens.part-12-0badcafe", digits), true);
  put("notes.tokens", true);
  put("data.csv", true);
  (void)tokenise(cache());
  EXPECT_FALSE(fs::exists(cache() / (digits + ".tokens")));
  EXPECT_FALSE(fs::exists(cache() / fmt::format(".{}.tokens.part-12-0badcafe", digits)));
  EXPECT_TRUE(fs::exists(cache() / fmt::format("1{}.tokens", digits.substr(1))));
  EXPECT_TRUE(fs::exists(cache() / "notes.tokens"));
  EXPECT_TRUE(fs::exists(cache() / "data.csv"));
}

TEST_F(TokenCacheTest, TheLongestUnusedGoBeyondTheLimit) {
  fs::create_directories(cache());
  const auto put = [&](char digit, std::chrono::hours age) {
    const fs::path file = cache() / (std::string(32, digit) + ".tokens");
    std::ofstream{file};
    fs::resize_file(file, kMostTokenBytes / 2);  // without blocks on the disk
    fs::last_write_time(file, fs::file_time_type::clock::now() - age);
    return file;
  };
  const fs::path oldest = put('1', std::chrono::hours(30));
  const fs::path newer = put('2', std::chrono::hours(3));
  (void)tokenise(cache());
  EXPECT_FALSE(fs::exists(oldest));
  EXPECT_TRUE(fs::exists(newer));
  EXPECT_EQ(entries().size(), 2U);
}

TEST_F(TokenCacheTest, SeveralProcessesAtOnceAgree) {
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      core::set_thread_count(1);
      ::_exit(tokenise(cache()).examples.size() > 8000 ? 0 : 1);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = -1;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  ASSERT_EQ(entries().size(), 1U) << "one file, and nothing half-written";
  (void)tokenise(cache());
  EXPECT_THAT(said(), HasSubstr("taken from"));
}

}  // namespace
}  // namespace weft::data
