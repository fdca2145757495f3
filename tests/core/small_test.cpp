#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <barrier>
#include <functional>
#include <numeric>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/cores.h"
#include "core/device_name.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/parallel.h"
#include "core/philox.h"
#include "core/stop.h"
#include "core/suggest.h"
#include "core/terminal.h"
#include "tests/support/temp_dir.h"

namespace weft::core {
namespace {

TEST(Terminal, OneLineHasNothingThatMovesTheCursor) {
  EXPECT_EQ(one_line("a\x1b[2J\nb\xC2\x9B\x7F\xC3\xA9"), "a [2J b  \xC3\xA9");
  EXPECT_EQ(one_line("a\tb\xFF", '?'), "a?b\xEF\xBF\xBD");
}

TEST(DeviceName, IsCpuOrCudaWithOrWithoutANumber) {
  EXPECT_EQ(device_name_fault("cpu"), std::nullopt);
  EXPECT_FALSE(gpu_index("cpu"));
  EXPECT_EQ(gpu_index("cuda"), 0);
  EXPECT_EQ(gpu_index("cuda:127"), 127);
  for (const char* const name : {"", "CPU", "cpu:0", "cuda:", "cuda:-1", "cuda:128", "cuda:1x",
                                 "cuda 1", "cuda:99999999999", "tpu"}) {
    EXPECT_THAT(device_name_fault(name).value_or(""),
                ::testing::HasSubstr("is not cpu, cuda or cuda:N"))
        << name;
  }
}

TEST(Stop, IsAskedOfTheFlagThatIsSharedFromThenOn) {
  std::atomic<bool>& own = stop_flag();
  std::atomic<bool> shared{false};
  use_stop_flag(shared);
  own = true;
  EXPECT_FALSE(stop_requested());
  shared = true;
  EXPECT_TRUE(stop_requested());
  EXPECT_THROW(leave_if_stopped("testing"), Interrupted);
  own = false;
  use_stop_flag(own);
  EXPECT_FALSE(stop_requested());
}

// FIPS 180-2, appendix B.
TEST(Hash, GivesThePublishedVectors) {
  EXPECT_EQ("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", sha256(""));
  EXPECT_EQ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", sha256("abc"));
  EXPECT_EQ("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
            sha256(std::string(1'000'000, 'a')));
}

TEST(Hash, PiecesAndFilesGiveTheSameDigest) {
  const tests::TempDir dir;
  Sha256 hash;
  hash.update("a");
  hash.update("");
  hash.update("bc");
  EXPECT_EQ(sha256("abc"), hash.finish());
  EXPECT_EQ(sha256("abc"), sha256_file(dir.write("f", "abc")));
  EXPECT_EQ(sha256(""), sha256_file(dir.write("empty", "")));
}

/// Exit status of this program when it runs `test` alone, in a process of its own.
int status_alone(const std::string& test) {
  const std::string filter = "--gtest_filter=" + test;
  const pid_t child = ::fork();
  if (child == 0) {
    ::execl("/proc/self/exe", "test_core", filter.c_str(), "--gtest_also_run_disabled_tests",
            "--gtest_brief=1", nullptr);
    ::_exit(127);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

// Under AddressSanitizer: what OpenSSL keeps for a thread was lost when its own clearing at exit()
// came before the end of the threads of parallel_for.
TEST(Hash, ThreadsThatEndWithTheProcessLoseNothing) {
  EXPECT_EQ(0, status_alone("Hash.DISABLED_OnThreadsThatAreOlderThanTheFirstDigest"));
}

TEST(Hash, DISABLED_OnThreadsThatAreOlderThanTheFirstDigest) {  // run by the test above
  set_thread_count(2);
  const auto on_both = [](const std::function<void()>& work) {
    std::barrier<> both(2);
    parallel_for(2, 1, [&](std::int64_t, std::int64_t) {
      both.arrive_and_wait();
      work();
    });
  };
  on_both([] {});
  on_both([] { EXPECT_EQ(64U, sha256("abc").size()); });
}

TEST(Suggest, CountsTheEditsBetweenWords) {
  EXPECT_EQ(0U, edit_distance("rank", "rank"));
  EXPECT_EQ(3U, edit_distance("kitten", "sitting"));
  EXPECT_EQ(1U, edit_distance("lora_aplha", "lora_alpha"));  // A swap is one edit.
  EXPECT_EQ(4U, edit_distance("", "rank"));
  EXPECT_EQ(3U, edit_distance("ca", "abc"));
}

TEST(Suggest, NamesTheNearestWordOrNone) {
  const std::vector<std::string> words{"learning_rate", "lora_alpha", "r"};
  EXPECT_EQ("learning_rate", nearest("learnig_rate", words));
  EXPECT_EQ("lora_alpha", nearest("loraalpha", words));
  EXPECT_EQ("", nearest("datasets", words));
  EXPECT_EQ("", nearest("x", std::vector<std::string>{}));
}

class Parallel : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override { set_thread_count(GetParam()); }
  void TearDown() override { set_thread_count(0); }
};

TEST_P(Parallel, CoversEveryIndexOnce) {
  for (const std::int64_t count : {0, 1, 2, 7, 100, 1001}) {
    for (const std::int64_t grain : {1, 3, 1000}) {
      std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
      parallel_for(count, grain, [&](std::int64_t begin, std::int64_t end) {
        EXPECT_LT(begin, end);
        EXPECT_TRUE(end - begin >= grain || end == count);
        for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
      });
      for (const auto& times : seen) ASSERT_EQ(1, times.load()) << count << " by " << grain;
    }
  }
}

TEST_P(Parallel, RethrowsWhatABodyThrows) {
  EXPECT_THROW(parallel_for(100, 1,
                            [](std::int64_t begin, std::int64_t) {
                              if (begin == 0) throw InputError("a fault");
                            }),
               InputError);
}

INSTANTIATE_TEST_SUITE_P(Threads, Parallel, ::testing::Values(1, 2, 3, 8));

TEST(ParallelFor, UsesAsManyThreadsAsAreSet) {
  set_thread_count(3);
  std::atomic<int> calls{0};
  parallel_for(300, 1, [&](std::int64_t, std::int64_t) { ++calls; });
  EXPECT_EQ(3, calls.load());
  set_thread_count(0);
  EXPECT_GE(thread_count(), 1);
}

TEST(ParallelFor, RunsOnTheThreadsThatAreGiven) {
  set_thread_count(3);
  static std::int64_t parts_run = 0;
  use_runner([](std::int64_t parts, const std::function<void(std::int64_t)>& run) {
    for (std::int64_t part = parts; part-- > 0;) run(part);
    parts_run = parts;
  });
  std::vector<int> seen(10);
  parallel_for(10, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i)
      ++seen[i];
  });
  use_runner(nullptr);
  set_thread_count(0);
  EXPECT_EQ(parts_run, 3);
  EXPECT_THAT(seen, ::testing::Each(1));
}

TEST(Terminal, ScalesBytesAndCounts) {
  EXPECT_EQ("0 B", human_bytes(0));
  EXPECT_EQ("1023 B", human_bytes(1023));
  EXPECT_EQ("1.00 KiB", human_bytes(1024));
  EXPECT_EQ("93.8 MiB", human_bytes(98'362'432));
  EXPECT_EQ("999", human_count(999));
  EXPECT_EQ("134.5 M", human_count(134'515'008));
}

TEST(Terminal, SaysHowLongSomethingTakes) {
  EXPECT_EQ("0.0 s", human_duration(-1));
  EXPECT_EQ("12.3 s", human_duration(12.34));
  EXPECT_EQ("1 min 00 s", human_duration(60));
  EXPECT_EQ("3 min 05 s", human_duration(185));
  EXPECT_EQ("1 h 02 min", human_duration(3725));
}

TEST(Terminal, DurationsDoNotRoundUpToSixtySeconds) {
  EXPECT_EQ("1 min 00 s", human_duration(59.97));
}

TEST(Terminal, CountsColumnsNotBytes) {
  EXPECT_EQ(7, display_width("náhuatl"));
  EXPECT_EQ(7, display_width("na\u0301huatl"));  // A combining mark takes no column.
  EXPECT_EQ(4, display_width("日本"));
  EXPECT_EQ(2, display_width("\xff\xfe"));  // Malformed bytes show as one replacement each.
}

TEST(Terminal, AlignsNumbersRightAndTextLeft) {
  Table table({"stage", "loss"});
  table.add({"base", "2.5"});
  table.add({"náhuatl", "12.25"});
  EXPECT_EQ(
      "stage     loss\n"
      "──────────────\n"
      "base       2.5\n"
      "náhuatl  12.25\n",
      table.text());
}

TEST(Terminal, ARowOfAnotherWidthIsAMistake) {
  Table table({"a", "b"});
  EXPECT_THROW(table.add({"1"}), std::logic_error);
}

TEST(Cores, AreThoseOfTheAffinityMask) {
  cpu_set_t before;
  CPU_ZERO(&before);
  ASSERT_EQ(::sched_getaffinity(0, sizeof before, &before), 0);
  EXPECT_LE(allowed_cores(), CPU_COUNT(&before));
  EXPECT_GE(allowed_cores(), 1);
  // The answer is kept, so a process of its own gives the one for a narrower mask.
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &before) && CPU_COUNT(&one) == 0) CPU_SET(cpu, &one);
  }
  ASSERT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(0, status_alone("Cores.DISABLED_OneIsAllowed"));
  ::sched_setaffinity(0, sizeof before, &before);
}

TEST(Cores, DISABLED_OneIsAllowed) {  // run by the test above, on one core
  EXPECT_EQ(allowed_cores(), 1);
}

TEST(Cores, QuotaOfAContainerCounts) {
  const tests::TempDir dir;
  const auto member = dir.write("cgroup", "0::/slice/job\n");
  EXPECT_EQ(group_cores(member, dir / "fs"), 0);
  dir.write("fs/slice/job/cpu.max", "max 100000\n");
  EXPECT_EQ(group_cores(member, dir / "fs"), 0);
  dir.write("fs/slice/cpu.max", "250000 100000\n");
  EXPECT_EQ(group_cores(member, dir / "fs"), 3);  // two and a half
  dir.write("fs/slice/job/cpu.max", "50000 100000\n");
  EXPECT_EQ(group_cores(member, dir / "fs"), 1);
  const auto old = dir.write("cgroup1", "4:cpu,cpuacct:/docker/x\n3:memory:/docker/x\n");
  dir.write("fs/cpu/docker/x/cpu.cfs_quota_us", "400000\n");
  dir.write("fs/cpu/docker/x/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(group_cores(old, dir / "fs"), 4);
  EXPECT_EQ(group_cores(dir / "nothing", dir / "fs"), 0);
}

// Known answers of Random123 (kat_vectors, philox4x32 10).
TEST(Philox, GivesTheKnownAnswers) {
  EXPECT_THAT(philox({0, 0}, {0, 0, 0, 0}),
              ::testing::ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(philox({0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}),
              ::testing::ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(philox({0xa4093822, 0x299f31d0}, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
              ::testing::ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

}  // namespace
}  // namespace weft::core
