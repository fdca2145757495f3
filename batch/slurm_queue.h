#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "batch/folder.h"

/// What of a batch is with Slurm. The states that jobs write themselves (state.h) are the truth;
/// Slurm is asked, once for all jobs, only what no job can write: that it waits, or is gone.
namespace weft::batch {

/// One array that was submitted, kept in OUTPUT_DIR/slurm/N.json.
struct Submission {
  int number = 0;
  std::string name{};               ///< Of the array in Slurm's queue, where nothing else has it.
  std::string id{};                 ///< "17"; empty until sbatch has answered.
  std::vector<std::string> jobs{};  ///< Task i runs jobs[i].
};

/// In the order in which they were submitted.
[[nodiscard]] std::vector<Submission> read_submissions(const BatchFolder& folder);
[[nodiscard]] std::filesystem::path record_of(const BatchFolder& folder, int number);
void write_submission(const BatchFolder& folder, const Submission& submission);

/// What squeue says of a task.
struct QueueEntry {
  std::string task;    ///< "17_3"
  std::string state;   ///< "PENDING"
  std::string reason;  ///< Of waiting: "Resources"
};

/// Whether it waits, runs, or comes to its end just now.
[[nodiscard]] bool is_live(const QueueEntry& entry);

struct SlurmQueue {
  std::map<std::string, QueueEntry> entries;     ///< By job: of its newest submission.
  std::map<std::string, std::string> submitted;  ///< By job: the task, or what is known of it.
  std::string problem;                           ///< Why Slurm did not answer; empty: it did.

  [[nodiscard]] const QueueEntry* find(const std::string& job) const;
  [[nodiscard]] bool is_live(const std::string& job) const;
};

/// One squeue for all that was submitted; nothing is asked where nothing was.
[[nodiscard]] SlurmQueue ask_slurm(const BatchFolder& folder);

/// How a job stands, of what it wrote and what Slurm says together.
struct Standing {
  JobState state;    ///< As it was written, with the status of both.
  std::string note;  ///< Why, where that is worth a line.
};

/// `queue`: of the batch. Where Slurm did not answer, the job stands as it wrote.
[[nodiscard]] Standing stand(const BatchFolder& folder, const std::string& job,
                             const SlurmQueue& queue);

}  // namespace weft::batch
