#include "batch/slurm_queue.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <sstream>

#include "batch/command.h"
#include "checkpoint/json_file.h"
#include "core/error.h"
#include "core/file.h"

namespace weft::batch {
namespace {

namespace fs = std::filesystem;

/// squeue itself gives up on a controller that is gone after about ten seconds.
constexpr std::chrono::seconds kQueuePatience{60};

Submission read_submission(const fs::path& file, int number) {
  const nlohmann::json json = checkpoint::read_json_object(file);
  try {
    return {.number = number,
            .name = json.at("name"),
            .id = json.at("id"),
            .jobs = json.at("jobs").get<std::vector<std::string>>()};
  } catch (const nlohmann::json::exception& problem) {
    throw InputError("{} is no record of a submission ({})", file.string(), problem.what());
  }
}

bool is_one_of(const std::string& word, std::initializer_list<std::string_view> words) {
  return std::ranges::find(words, word) != words.end();
}

/// "weft-x-1|17_3|PENDING|Resources"
std::array<std::string, 4> fields_of(const std::string& line) {
  std::array<std::string, 4> fields;
  std::istringstream stream(line);
  for (std::string& field : fields) std::getline(stream, field, '|');
  return fields;
}

void read_answer(const std::string& text, const std::vector<Submission>& submissions,
                 SlurmQueue& queue) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const auto [name, task, state, reason] = fields_of(line);
    const auto of = std::ranges::find(submissions, name, &Submission::name);
    const std::size_t index = task.find('_');
    if (of == submissions.end() || index == std::string::npos) continue;
    const auto at = schema::parse_integer(task.substr(index + 1)).value_or(-1);
    if (at < 0 || at >= static_cast<std::int64_t>(of->jobs.size())) continue;
    const std::string& job = of->jobs[static_cast<std::size_t>(at)];
    const auto newest = std::ranges::find_if(
        submissions.rbegin(), submissions.rend(),
        [&](const Submission& one) { return std::ranges::count(one.jobs, job) > 0; });
    if (newest->name == name) queue.entries[job] = {task, state, reason};
  }
}

/// What Slurm says of a job that waits for its turn.
void stand_pending(const QueueEntry& entry, bool same_task, Standing& standing) {
  const JobState& state = standing.state;
  const std::string again = fmt::format("Slurm starts {} again", entry.task);
  const bool held = entry.reason.find("eld") != std::string::npos;
  if (same_task && state.status == Status::kRunning) {
    standing.state.status = Status::kNodeFailed;
    standing.note = "it ended without a word; " + again;
  } else if (same_task && state.status == Status::kInterrupted && !state.requeued) {
    standing.state.status = Status::kPreempted;
    standing.note = "it has saved; " + again;
  } else {
    standing.state.status = Status::kQueued;
    const bool is_usual = is_one_of(entry.reason, {"None", "Priority", "Resources", "BeginTime",
                                                   "JobArrayTaskLimit", "Dependency"});
    if (!is_usual) standing.note = fmt::format("{} waits: {}", entry.task, entry.reason);
  }
  if (held) standing.note = fmt::format("{} is held: scontrol release {}", entry.task, entry.task);
}

Status status_of_state(const std::string& state) {
  if (is_one_of(state, {"CANCELLED", "REVOKED"})) return Status::kCancelled;
  if (is_one_of(state, {"TIMEOUT", "DEADLINE"})) return Status::kTimedOut;
  if (is_one_of(state, {"NODE_FAIL", "BOOT_FAIL"})) return Status::kNodeFailed;
  if (state == "PREEMPTED") return Status::kPreempted;
  if (state == "OUT_OF_MEMORY") return Status::kOutOfMemory;
  if (state == "FAILED") return Status::kLost;
  return Status::kVanished;
}

/// Slurm says that the task has ended, and the job is not done.
void stand_ended(const QueueEntry& entry, bool same_task, Standing& standing) {
  const Status own = standing.state.status;
  const bool has_said_why = same_task && (is_failure(own) || own == Status::kInterrupted);
  const Status status = status_of_state(entry.state);
  if (has_said_why && (is_failure(own) || is_one_of(entry.state, {"FAILED", "COMPLETED"}))) return;
  standing.state.status = status;
  standing.note = fmt::format("Slurm says of {}: {}", entry.task, entry.state);
  if (status == Status::kLost) standing.note += " (it was killed before it could say why)";
  if (status == Status::kCancelled && entry.reason.starts_with("Dependency"))
    standing.note = "a job that it waits for did not end well";
}

}  // namespace

fs::path record_of(const BatchFolder& folder, int number) {
  return folder.slurm() / fmt::format("{}.json", number);
}

std::vector<Submission> read_submissions(const BatchFolder& folder) {
  std::vector<Submission> all;
  std::error_code error;
  for (int number = 1; fs::exists(record_of(folder, number), error); ++number)
    all.push_back(read_submission(record_of(folder, number), number));
  return all;
}

void write_submission(const BatchFolder& folder, const Submission& submission) {
  const nlohmann::ordered_json json{
      {"name", submission.name}, {"id", submission.id}, {"jobs", submission.jobs}};
  core::write_text(record_of(folder, submission.number),
                   json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

bool is_live(const QueueEntry& entry) {
  return !is_one_of(entry.state, {"COMPLETED", "FAILED", "OUT_OF_MEMORY", "TIMEOUT", "DEADLINE",
                                  "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "CANCELLED", "REVOKED"});
}

const QueueEntry* SlurmQueue::find(const std::string& job) const {
  const auto found = entries.find(job);
  return found == entries.end() ? nullptr : &found->second;
}

bool SlurmQueue::is_live(const std::string& job) const {
  const QueueEntry* entry = find(job);
  return entry != nullptr && batch::is_live(*entry);
}

SlurmQueue ask_slurm(const BatchFolder& folder) {
  SlurmQueue queue;
  const std::vector<Submission> submissions = read_submissions(folder);
  if (submissions.empty()) return queue;
  std::vector<std::string> names;
  for (const Submission& one : submissions) {
    names.push_back(one.name);
    for (std::size_t i = 0; i < one.jobs.size(); ++i) {
      queue.submitted[one.jobs[i]] =
          one.id.empty() ? "a task of " + one.name : fmt::format("{}_{}", one.id, i);
    }
  }
  if (!has_command("squeue")) {
    queue.problem = "there is no squeue on this machine";
    return queue;
  }
  const CommandResult answer =
      run_command({"squeue", "--noheader", "--array", "--states=all",
                   fmt::format("--name={}", fmt::join(names, ",")), "--format=%j|%i|%T|%r"},
                  kQueuePatience);
  if (answer.status != 0) {
    queue.problem =
        answer.error.empty() ? fmt::format("squeue ended with {}", answer.status) : answer.error;
    return queue;
  }
  read_answer(answer.out, submissions, queue);
  return queue;
}

Standing stand(const BatchFolder& folder, const std::string& job, const SlurmQueue& queue) {
  Standing standing{.state = folder.state_now(job), .note = ""};
  standing.note = standing.state.error();
  const auto submitted = queue.submitted.find(job);
  const Status own = standing.state.status;
  if (submitted == queue.submitted.end() || !queue.problem.empty()) return standing;
  const QueueEntry* entry = queue.find(job);
  // What a process of this machine runs is not what was submitted once.
  if (own == Status::kRunning && standing.state.slurm.empty()) return standing;
  const bool same_task = entry != nullptr && standing.state.slurm == entry->task;
  if (entry != nullptr && entry->state == "PENDING") {
    stand_pending(*entry, same_task, standing);
  } else if (own == Status::kDone) {
    return standing;
  } else if (entry != nullptr && is_live(*entry)) {
    if (entry->state == "COMPLETING" && same_task) return standing;
    standing.state.status = Status::kRunning;
    standing.note.clear();
  } else if (entry != nullptr) {
    stand_ended(*entry, same_task, standing);
  } else if (fs::exists(folder.cancelled(job))) {
    standing.state.status = Status::kCancelled;
  } else if (own == Status::kRunning || own == Status::kWaiting) {
    standing.state.status = Status::kVanished;
    standing.note = fmt::format("Slurm does not know {} any more", submitted->second);
  }
  return standing;
}

}  // namespace weft::batch
