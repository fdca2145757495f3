#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weft::batch {

/// How a job or a step stands.
enum class Status : std::uint8_t {
  kWaiting,
  kQueued,  ///< In Slurm's queue.
  kRunning,
  kDone,
  kInterrupted,  ///< Asked to stop; it goes on from where it saved.
  kPreempted,    ///< Slurm took its node for another job.
  kCancelled,
  kTimedOut,    ///< Slurm ended it at its time limit.
  kLost,        ///< Its process ended without a word, or was killed.
  kNodeFailed,  ///< Slurm lost its node.
  kVanished,    ///< It has not ended, and Slurm does not know it any more.
  kOutOfMemory,
  kShortOfMemory,  ///< Exit status 75: other programs held the memory that it needs.
  kFailed,
  kWrongInput,  ///< Exit status 2.
  kRefused      ///< Exit status 3: a gate or a check said no.
};
[[nodiscard]] std::string_view word(Status status);
[[nodiscard]] bool is_failure(Status status);

/// What lies in the folder of a training run.
struct HeldRun {
  std::string key{};                       ///< key_of() of the step that made it.
  std::vector<std::string> ingredients{};  ///< ingredients_of() that step; empty: not known.
  bool done = false;
};

struct StepState {
  std::string name{};
  std::string key{};  ///< key_of() when it was begun.
  Status status = Status::kWaiting;
  int exit = 0;        ///< Exit status; 128 + signal where one ended it.
  double seconds = 0;  ///< Of all its runs with this key.
  std::uint64_t peak_bytes = 0;
  std::string error{};  ///< The last line of its log, where it failed.
  // Of training alone, whose run may be another one than that which was attempted last (held.h).
  HeldRun held{};
  std::vector<std::string> attempted{};  ///< ingredients_of() when it was begun.
  std::string replacing{};  ///< mark_of_run() of the run that the attempt replaces; else empty.
};

/// state.json of a job, written by the process that runs it.
struct JobState {
  Status status = Status::kWaiting;
  std::vector<StepState> steps{};
  std::string host{};
  std::int64_t pid = 0;
  std::int64_t parent = 0;         ///< The process that started it: a weft batch, a shell.
  std::string started{}, ended{};  ///< UTC
  std::int64_t failures = 0;       ///< Retries that failed steps have used.
  std::int64_t losses = 0;
  std::string slurm{};      ///< The task of an array that ran it last, "17_3"; empty: none did.
  bool requeued = false;    ///< It gave itself back to Slurm near its time limit.
  std::string mark{};       ///< How far it was when it last began on Slurm.
  std::int64_t stalls = 0;  ///< Turns on Slurm, one after another, that brought it no further.

  [[nodiscard]] StepState& step(const std::string& name);
  [[nodiscard]] const StepState* find(const std::string& name) const;
  /// Why the job is not done; empty where nothing failed.
  [[nodiscard]] std::string error() const;
};

/// Nothing where there is no such file yet. InputError for one that cannot be read, with what to
/// do.
[[nodiscard]] std::optional<JobState> read_state(const std::filesystem::path& file);
/// Atomically. Throws IoError.
void write_state(const std::filesystem::path& file, const JobState& state);

/// "2026-11-23T10:00:00Z"
[[nodiscard]] std::string utc_now();

}  // namespace weft::batch
