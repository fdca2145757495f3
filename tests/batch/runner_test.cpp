// Jobs as child processes: this program plays weft, whose steps end as a test wants them to end.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <string>
#include <thread>

#include "batch/local.h"
#include "batch/task.h"
#include "core/file.h"
#include "tests/batch/batch_files.h"

namespace weft::tests {
namespace {

namespace fs = std::filesystem;
using batch::JobState;
using batch::JobView;
using batch::Status;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;

constexpr const char* kEndings = "endings.txt";

/// The first word of the job's list of endings, which is taken off it; "0" where none is left.
std::string next_ending(const fs::path& job) {
  std::istringstream words(fs::exists(job / kEndings) ? core::read_text(job / kEndings) : "");
  std::string first = "0";
  std::string rest;
  words >> first;
  std::getline(words, rest, '\0');
  core::write_text(job / kEndings, rest);
  return first;
}

/// weft train CONFIG: ends with the next status of the list. "wait" first waits until the file
/// `go` is in the folder of the batch, 20 seconds at most.
int play_training(const fs::path& config) {
  const fs::path job = config.parent_path();
  std::string ending = next_ending(job);
  if (ending == "wait") {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!fs::exists(job.parent_path().parent_path() / "go")) {
      if (std::chrono::steady_clock::now() > until) return 1;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    ending = next_ending(job);
  }
  if (ending == "0") fs::create_directories(job / "run/adapter");
  return std::atoi(ending.c_str());
}

int play(const std::vector<std::string>& words) {
  if (words[0] == "train") return play_training(words[1]);
  if (words[0] != "batch") return 1;
  return batch::run_task(batch::BatchFolder(words[2]), words[3]);
}

/// Notes what is told of jobs, and does something when it hears it.
struct Listener : batch::Watcher {
  void on_change(const JobView& job, const std::string& what) override {
    told.push_back(job.job->name + ": " + what);
    if (on_told) on_told(told.back());
  }
  void on_tick(const std::vector<JobView>&) override {}
  std::vector<std::string> told;
  std::function<void(const std::string&)> on_told;
};

class BatchRunner : public ::testing::Test {
 protected:
  /// Jobs of these names whose trainings end like this, one attempt after another.
  std::vector<JobView> run(const std::vector<std::pair<std::string, std::string>>& jobs,
                           const std::string& more) {
    std::string text = "jobs: [";
    for (const auto& [name, endings] : jobs) text += "{name: " + name + "}, ";
    batch_.emplace(files_.load(text + "]\n" + more));
    batch_->folder.write(batch_->record, batch_->jobs);
    for (const auto& [name, endings] : jobs)
      core::write_text(batch_->folder.job(name) / kEndings, endings);
    return run_locally(*batch_, survey(*batch_, {}), files_.engine(), listener_,
                       {.least = std::chrono::milliseconds(50)});
  }
  [[nodiscard]] JobState state(const std::string& name) const {
    return batch_->folder.state_now(name);
  }

  BatchFiles files_;
  Listener listener_;
  std::optional<batch::Batch> batch_;
};

TEST_F(BatchRunner, AJobThatIsShortOfMemoryIsTriedAgainUpToTheLimit) {
  const auto ended = run({{"one", "75 75 0"}}, "retries: {lost: 2}\n");
  EXPECT_EQ(ended.front().status, Status::kDone);
  EXPECT_EQ(state("one").losses, 2);
  EXPECT_THAT(listener_.told, Contains(HasSubstr("again when there is more memory free")));
}

TEST_F(BatchRunner, AJobThatStaysShortOfMemoryFailsAndTheSameCommandTriesItAgain) {
  const auto ended = run({{"one", "75 75"}}, "retries: {lost: 1}\n");
  EXPECT_EQ(ended.front().status, Status::kShortOfMemory);
  EXPECT_TRUE(is_failure(ended.front().status));
  EXPECT_FALSE(survey(*batch_, {}).front().left_alone);
}

TEST_F(BatchRunner, AJobThatIsShortOfMemoryWaitsForAnotherToEndWhichCountsAsNoRetry) {
  // `small` runs while `large` finds no memory twice; it is let go when `large` waits.
  listener_.on_told = [&](const std::string& what) {
    if (what.starts_with("large") && what.find("more memory") != std::string::npos)
      core::write_text(files_ / "runs/go", "");
  };
  const auto ended =
      run({{"small", "wait 0"}, {"large", "75 0"}}, "concurrency: 2\nretries: {lost: 0}\n");
  EXPECT_EQ(ended[0].status, Status::kDone);
  EXPECT_EQ(ended[1].status, Status::kDone);
  EXPECT_EQ(state("large").losses, 0);
}

TEST_F(BatchRunner, WrongInputAndAGateThatSaidNoAreNeverTriedAgain) {
  const auto ended = run({{"wrong", "2 0"}, {"gate", "3 0"}}, "retries: {failed: 5, lost: 5}\n");
  EXPECT_EQ(ended[0].status, Status::kWrongInput);
  EXPECT_EQ(ended[1].status, Status::kRefused);
  EXPECT_TRUE(survey(*batch_, {})[1].left_alone);
}

}  // namespace
}  // namespace weft::tests

int main(int count, char** arguments) {
  const std::vector<std::string> words(arguments + 1, arguments + count);
  if (!words.empty() && !words[0].starts_with("--")) return weft::tests::play(words);
  ::testing::InitGoogleMock(&count, arguments);
  return RUN_ALL_TESTS();
}
