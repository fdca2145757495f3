// Killed at random moments: what was there before, or what was to be written, and nothing between.
//
// WEFT_KILLS=200 WEFT_SEED=7 build/release/bin/test_train_command --gtest_filter='Kill.*'

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <random>

#include "core/hash.h"
#include "tests/cli/train_command.h"
#include "tests/support/running.h"

namespace weft::tests {
namespace {
namespace fs = std::filesystem;

std::uint64_t number_from(const char* variable, std::uint64_t otherwise) {
  const char* text = std::getenv(variable);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

/// Digest of every file below a path, by its name there; of a file, its own.
std::map<std::string, std::string> digests(const fs::path& path) {
  std::map<std::string, std::string> all;
  if (fs::is_regular_file(path)) all[""] = core::sha256(slurp(path));
  if (!fs::is_directory(path)) return all;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    // merge.json says how long it took.
    if (!entry.is_regular_file() || entry.path().filename() == "merge.json") continue;
    all[fs::relative(entry.path(), path).string()] = core::sha256(slurp(entry.path()));
  }
  return all;
}

/// Names in a folder that weft made for itself.
std::vector<std::string> leftovers(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with('.')) names.push_back(name);
  }
  return names;
}

class Kill : public TrainCommand {
 protected:
  Kill() {
    write_tiny_model(job_ / "base", {.hidden = 64, .layers = 4, .intermediate = 192});
    write_config("save: {every: 2u}\nvalidation: {path: valid.jsonl}\neval: {every: 4u}\n");
    job_.folder().write("text.txt", "tlaxcalli, atl; in xochitl in cuicatl.\nin calli tepetl\n");
    random_.seed(number_from("WEFT_SEED", 1));
  }

  static constexpr const char* kOld = "seed=11";
  static constexpr const char* kNew = "seed=12";

  [[nodiscard]] std::vector<std::string> weft(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), weft_program());
    return arguments;
  }
  [[nodiscard]] std::vector<std::string> training(const char* seed, const char* start) const {
    return command({start, "--set", seed, "--set", "max_updates=10"});
  }
  [[nodiscard]] std::vector<std::string> merging(bool force) const {
    std::vector<std::string> all = weft({"merge", "--model", (job_ / "base").string(), "--adapter",
                                         (job_ / "adapter").string(), "--out",
                                         (job_ / "merged").string(), "--max-shard-size", "60KB"});
    if (force) all.emplace_back("--force");
    return all;
  }
  [[nodiscard]] std::vector<std::string> exporting(bool force) const {
    std::vector<std::string> all = weft({"export", "--model", (job_ / "base").string(), "--adapter",
                                         (job_ / "adapter").string(), "--to", "gguf", "--type",
                                         "f32", "--out", (job_ / "model.gguf").string()});
    if (force) all.emplace_back("--force");
    return all;
  }
  [[nodiscard]] std::vector<std::string> evaluating() const {
    return weft({"eval", "--model", (job_ / "base").string(), "--text",
                 (job_ / "text.txt").string(), "--ledger", (job_ / "weft.db").string()});
  }

  static Finished finish(const std::vector<std::string>& arguments) {
    Finished done = run_process(arguments);
    EXPECT_EQ(done.status, 0) << done.err;
    return done;
  }

  /// Runs `arguments` and ends them at a random moment of the `seconds` that they take; false when
  /// they were done before.
  bool kill(const std::vector<std::string>& arguments, double seconds) {
    static constexpr int kSignals[] = {SIGKILL, SIGKILL, SIGKILL, SIGTERM, SIGINT, SIGHUP};
    const double delay = std::uniform_real_distribution<>(0, 1.1 * seconds)(random_);
    const int signal = kSignals[std::uniform_int_distribution<>(0, 5)(random_)];
    Running run(arguments);
    std::this_thread::sleep_for(std::chrono::duration<double>(delay));
    if (run.ended()) return false;
    run.signal(signal);
    const int status = run.wait();
    told_ = fmt::format("signal {} after {:.0f} ms, status {}", signal, delay * 1000, status);
    const bool expected =
        status == 128 + SIGKILL || status == 128 + signal || status == 130 || status == 0;
    EXPECT_TRUE(expected) << told_ << ": " << run.err();
    return status != 0;
  }

  std::mt19937_64 random_;
  std::string told_;
};

TEST_F(Kill, AtRandomMomentsLosesNothingAndLeavesNothingHalfWritten) {
  const std::uint64_t kills = number_from("WEFT_KILLS", 20);
  const fs::path run = job_ / "run";
  // What everything is when nobody disturbs it.
  const double train_seconds = finish(training(kOld, "--force")).seconds;
  const std::string old_adapter = job_.adapter_bytes();
  fs::copy(run / "adapter", job_ / "adapter", fs::copy_options::recursive);
  finish(training(kNew, "--force"));
  const std::string new_adapter = job_.adapter_bytes();
  ASSERT_NE(old_adapter, new_adapter);
  const double merge_seconds = finish(merging(false)).seconds;
  const auto merged = digests(job_ / "merged");
  ASSERT_GT(merged.size(), 4U);
  const double export_seconds = finish(exporting(false)).seconds;
  const auto exported = digests(job_ / "model.gguf");
  const double eval_seconds = finish(evaluating()).seconds;

  std::map<std::string, int> hits;
  for (std::uint64_t i = 0; hits["all"] < static_cast<int>(kills) && i < 10 * kills; ++i) {
    SCOPED_TRACE(fmt::format("round {}", i));
    bool hit = false;
    std::string what;
    switch (i % 6) {
      case 0: {  // A new run, and what goes on from it.
        what = "train";
        fs::remove_all(run);
        hit = kill(training(kOld, "--resume"), train_seconds);
        finish(training(kOld, "--resume"));
        EXPECT_EQ(job_.adapter_bytes(), old_adapter) << told_;
        break;
      }
      case 1: {  // A run that replaces another: one of the two is there, whole.
        what = "train --force";
        finish(training(kOld, "--resume"));
        hit = kill(training(kNew, "--force"), train_seconds);
        const Finished old_goes_on = run_process(training(kOld, "--resume"));
        if (old_goes_on.status == 0) {
          EXPECT_EQ(job_.adapter_bytes(), old_adapter) << told_;
        } else {
          EXPECT_EQ(old_goes_on.status, 2) << told_ << ": " << old_goes_on.err;
          finish(training(kNew, "--resume"));
          EXPECT_EQ(job_.adapter_bytes(), new_adapter) << told_;
        }
        EXPECT_THAT(leftovers(run), ::testing::IsEmpty()) << told_;
        fs::remove_all(run);
        break;
      }
      case 2: {
        what = "merge";
        fs::remove_all(job_ / "merged");
        hit = kill(merging(false), merge_seconds);
        if (fs::exists(job_ / "merged")) {
          EXPECT_EQ(digests(job_ / "merged"), merged) << told_;
        }
        finish(merging(fs::exists(job_ / "merged")));
        EXPECT_EQ(digests(job_ / "merged"), merged) << told_;
        break;
      }
      case 3: {
        what = "merge --force";
        hit = kill(merging(true), merge_seconds);
        EXPECT_EQ(digests(job_ / "merged"), merged) << told_;
        finish(merging(true));
        EXPECT_THAT(leftovers(job_ / "merged"), ::testing::IsEmpty()) << told_;
        break;
      }
      case 4: {
        what = "export";
        const bool force = i % 4 == 0;
        if (!force) fs::remove(job_ / "model.gguf");
        hit = kill(exporting(force), export_seconds);
        if (force || fs::exists(job_ / "model.gguf")) {
          EXPECT_EQ(digests(job_ / "model.gguf"), exported) << told_;
        }
        finish(exporting(fs::exists(job_ / "model.gguf")));
        EXPECT_EQ(digests(job_ / "model.gguf"), exported) << told_;
        break;
      }
      default: {
        what = "eval";
        hit = kill(evaluating(), eval_seconds);
        finish(evaluating());
        finish(weft({"ledger", "list", "--ledger", (job_ / "weft.db").string(), "--json"}));
      }
    }
    if (hit) {
      ++hits[what];
      ++hits["all"];
    }
    if (HasFailure()) break;
  }
  EXPECT_THAT(leftovers(job_.folder().path()), ::testing::IsEmpty());
  for (const char* what : {"train", "train --force", "merge", "merge --force", "export", "eval"}) {
    EXPECT_GT(hits[what], 0) << what << " was never hit";
  }
}

}  // namespace
}  // namespace weft::tests
