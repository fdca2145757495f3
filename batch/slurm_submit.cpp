#include "batch/slurm_submit.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <functional>
#include <map>
#include <optional>
#include <sstream>

#include "batch/command.h"
#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/terminal.h"

namespace weft::batch {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

/// sbatch gives up on a controller that is gone after 20 seconds, and waits longer for a busy one.
constexpr std::chrono::seconds kSubmitPatience{180};
/// Seconds before the time limit at which a job is told to save. Slurm may tell it a minute early.
constexpr std::int64_t kWarning = 120;
/// MaxArraySize of a Slurm that is not told another.
constexpr std::size_t kUsualArray = 1001;
constexpr std::uint64_t kMebibyte = 1U << 20U;

std::size_t largest_array() {
  const CommandResult config = run_command({"scontrol", "show", "config"}, kSubmitPatience);
  std::istringstream lines(config.out);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("MaxArraySize")) continue;
    const std::string number = line.substr(line.find_last_of(" =") + 1);
    const auto size = schema::parse_integer(number);
    if (size && *size > 0) return static_cast<std::size_t>(*size);
  }
  return kUsualArray;
}

std::string quoted(const std::string& text) {
  std::string all = "'";
  for (const char c : text) {
    if (c == '\'') {
      all += "'\\''";
    } else {
      all += c;
    }
  }
  return all + "'";
}

/// What Slurm counts a job with: its plan, and an eighth and 256 MiB more for what the program
/// itself takes; nothing on top of what the file says.
std::uint64_t memory_of(const Batch& batch, const Job& job) {
  if (batch.file.resources.memory || job.memory_bytes == 0) return job.memory_bytes;
  return job.memory_bytes + job.memory_bytes / 8 + 256 * kMebibyte;
}

/// The job that needs most memory.
const Job& largest(const Batch& batch, const SlurmArray& array) {
  return **std::ranges::max_element(array.jobs, {},
                                    [&](const Job* job) { return memory_of(batch, *job); });
}

std::int64_t threads_of(const SlurmArray& array) {
  return (*std::ranges::max_element(array.jobs, {}, [](const Job* j) { return j->threads; }))
      ->threads;
}

/// What of an array does not depend on when it is submitted.
Words resource_words(const Batch& batch, const SlurmArray& array) {
  Words words{"--ntasks=1", fmt::format("--cpus-per-task={}", threads_of(array))};
  std::uint64_t memory = memory_of(batch, largest(batch, array));
  // What cannot be planned yet is taken to be as large as the largest that can.
  if (memory == 0) {
    for (const Job& job : batch.jobs) memory = std::max(memory, memory_of(batch, job));
  }
  if (memory > 0) words.push_back(fmt::format("--mem={}M", (memory + kMebibyte - 1) / kMebibyte));
  std::int64_t warning = kWarning;
  if (const auto minutes = parse_minutes(batch.file.resources.time)) {
    words.push_back(fmt::format("--time={}", *minutes));
    warning = std::min(warning, *minutes * 60 / 4);
  }
  words.push_back(fmt::format("--signal=B:USR1@{}", warning));
  const SlurmSection& slurm = batch.file.slurm;
  if (!slurm.partition.empty()) words.push_back("--partition=" + slurm.partition);
  if (!slurm.account.empty()) words.push_back("--account=" + slurm.account);
  words.insert(words.end(), slurm.extra.begin(), slurm.extra.end());
  return words;
}

Words sbatch_words(const Batch& batch, const SlurmArray& array, const std::string& name,
                   const fs::path& script) {
  Words words{"sbatch", "--parsable", "--job-name=" + name};
  std::string tasks = fmt::format("--array=0-{}", array.jobs.size() - 1);
  if (const auto most = concurrency_of(batch.file)) tasks += fmt::format("%{}", *most);
  std::string log;
  for (const char c : script.parent_path().string()) log += c == '%' ? "%%" : std::string(1, c);
  words.insert(words.end(),
               {tasks, "--requeue", "--open-mode=append", "--output=" + log + "/%A_%a.txt"});
  Words conditions;
  if (!array.after.empty())
    conditions.push_back(fmt::format("afterok:{}", fmt::join(array.after, ":")));
  if (!array.after_any.empty())
    conditions.push_back(fmt::format("afterany:{}", fmt::join(array.after_any, ":")));
  if (!conditions.empty()) {
    words.push_back(fmt::format("--dependency={}", fmt::join(conditions, ",")));
    words.emplace_back("--kill-on-invalid-dep=yes");
  }
  for (std::string& word : resource_words(batch, array)) words.push_back(std::move(word));
  words.push_back(script.string());
  return words;
}

/// weft becomes the batch process, so that Slurm's signals reach it, each once.
std::string script_of(const Batch& batch, const SlurmArray& array) {
  const std::string folder = fs::absolute(batch.folder.path()).lexically_normal().string();
  std::string text = "#!/bin/sh\n# Written by weft batch. Each task of the array runs a job.\n";
  text += "case \"$SLURM_ARRAY_TASK_ID\" in\n";
  for (std::size_t i = 0; i < array.jobs.size(); ++i)
    text += fmt::format("  {}) job={} ;;\n", i, quoted(array.jobs[i]->name));
  text += "esac\n";
  text += fmt::format(
      "exec {} batch task {} \"$job\" --slurm \"${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}\""
      " >>{}/\"$job\"/log.txt 2>&1\n",
      quoted(fs::read_symlink("/proc/self/exe").string()), quoted(folder),
      quoted(folder + "/jobs"));
  return text;
}

/// A name that no other array in Slurm's queue has.
std::string array_name(const Batch& batch, int number) {
  const fs::path folder = fs::absolute(batch.folder.path()).lexically_normal();
  std::string name;
  for (const char c : folder.filename().string())
    name += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '-';
  core::Sha256 digest;
  digest.update(folder.string());
  return fmt::format("weft-{}-{}-{}", name, digest.finish().substr(0, 8), number);
}

bool has(const std::string& text, std::initializer_list<const char*> words) {
  return std::ranges::any_of(
      words, [&](const char* word) { return text.find(word) != std::string::npos; });
}

/// Whether these are the words of a command that the controller has not answered.
bool is_silent(const std::string& words) {
  return has(words, {"ontact slurm controller", "timed out", "no answer"});
}

/// Slurm's own words, with the place of what it refuses.
[[noreturn]] void refuse(const Batch& batch, const SlurmArray& array, const std::string& words) {
  if (is_silent(words)) {
    throw IoError("Slurm does not answer ({}); the same command submits what is missing", words);
  }
  const JobsFile& file = batch.file;
  const auto place = [&](std::string_view key) {
    return file.place_of(key).text(batch.record.file);
  };
  if (has(words, {"artition"})) {
    throw ConfigError("{}: slurm.partition: Slurm refuses it: {}", place("slurm.partition"), words);
  }
  if (has(words, {"ccount"})) {
    throw ConfigError("{}: slurm.account: Slurm refuses it: {}", place("slurm.account"), words);
  }
  if (has(words, {"ime limit"})) {
    throw ConfigError("{}: resources.time: Slurm refuses it: {}", place("resources.time"), words);
  }
  if (has(words, {"node configuration", "emory", "CPU count"})) {
    const Job& job = largest(batch, array);
    const std::uint64_t memory = memory_of(batch, job);
    throw ConfigError("{}: {} needs {} threads and {} of memory, and no node gives them: {}",
                      file.resources.memory ? place("resources.memory") : job.place, job.name,
                      threads_of(array),
                      memory > 0 ? core::human_bytes(memory) : "an unknown amount", words);
  }
  throw ConfigError("{}: Slurm refuses the jobs: {}",
                    place(file.slurm.extra.empty() ? "slurm" : "slurm.extra"), words);
}

/// Puts what is to be run into arrays, in the order in which these can be submitted. `give` submits
/// one, and returns its id.
void give_arrays(const Batch& batch, std::vector<JobView>& views, const SlurmQueue& queue,
                 std::size_t most, const std::function<std::string(const SlurmArray&)>& give) {
  std::map<std::string, std::string> tasks;  // job -> its task
  for (const auto& [job, entry] : queue.entries) {
    if (is_live(entry)) tasks[job] = entry.task;
  }
  const auto is_done = [&](const std::string& name) {
    return std::ranges::any_of(
        views, [&](const JobView& view) { return view.job->name == name && view.reused; });
  };
  /// The tasks that a job waits for; nothing while one of them is not submitted.
  const auto after_of = [&](const Job& job) -> std::optional<Words> {
    Words after;
    for (const std::string& name : job.after) {
      if (is_done(name)) continue;
      if (!tasks.contains(name)) return std::nullopt;
      after.push_back(tasks.at(name));
    }
    std::ranges::sort(after);
    return after;
  };
  Words before;
  for (;;) {
    SlurmArray array;
    for (const JobView& view : views) {
      if (view.reused || view.left_alone || tasks.contains(view.job->name)) continue;
      const std::optional<Words> after = after_of(*view.job);
      if (!after || array.jobs.size() == most) continue;
      if (array.jobs.empty()) array.after = *after;
      if (*after == array.after) array.jobs.push_back(view.job);
    }
    if (array.jobs.empty()) break;
    // A throttle is of one array: what does not fit into it waits for all of it.
    if (concurrency_of(batch.file) && array.after.empty()) array.after_any = before;
    const std::string id = give(array);
    if (array.jobs.size() == most) before = {id};
    for (std::size_t i = 0; i < array.jobs.size(); ++i)
      tasks[array.jobs[i]->name] = fmt::format("{}_{}", id, i);
  }
  for (JobView& view : views) {
    if (view.reused || view.left_alone || tasks.contains(view.job->name)) continue;
    const auto missing = std::ranges::find_if(view.job->after, [&](const std::string& name) {
      return !is_done(name) && !tasks.contains(name);
    });
    view.left_alone = true;
    view.note = fmt::format("waits for {}, which is not to be run", *missing);
  }
}

}  // namespace

void require_slurm() {
  if (has_command("sbatch") && has_command("squeue")) return;
  throw ConfigError(
      "--slurm: there is no sbatch on this machine; run the command where Slurm's commands are, or "
      "without --slurm to use this machine alone");
}

void check_slurm(const Batch& batch, std::vector<JobView>& jobs, const SlurmQueue& queue) {
  give_arrays(batch, jobs, queue, kUsualArray, [&](const SlurmArray& array) -> std::string {
    Words words{"sbatch", "--test-only"};
    for (std::string& word : resource_words(batch, array)) words.push_back(std::move(word));
    words.emplace_back("--wrap=true");
    const CommandResult answer = run_command(words, kSubmitPatience);
    if (answer.status != 0) refuse(batch, array, answer.error);
    return "0";
  });
}

std::vector<std::string> sbatch_commands(const Batch& batch, std::vector<JobView>& jobs,
                                         const SlurmQueue& queue) {
  std::vector<std::string> commands;
  int number = static_cast<int>(read_submissions(batch.folder).size());
  give_arrays(batch, jobs, queue, kUsualArray, [&](const SlurmArray& array) {
    ++number;
    const fs::path script = fs::absolute(batch.folder.slurm()) / fmt::format("{}.sh", number);
    commands.push_back(fmt::format(
        "{}", fmt::join(sbatch_words(batch, array, array_name(batch, number), script), " ")));
    return fmt::format("ARRAY{}", commands.size());
  });
  return commands;
}

std::vector<Submission> submit(const Batch& batch, std::vector<JobView>& jobs,
                               const SlurmQueue& queue) {
  std::vector<Submission> all;
  int number = static_cast<int>(read_submissions(batch.folder).size());
  fs::create_directories(batch.folder.slurm());
  give_arrays(batch, jobs, queue, largest_array(), [&](const SlurmArray& array) {
    Submission made{.number = ++number, .name = array_name(batch, number)};
    for (const Job* job : array.jobs) made.jobs.push_back(job->name);
    const fs::path script = fs::absolute(batch.folder.slurm()) / fmt::format("{}.sh", number);
    core::write_text(script, script_of(batch, array));
    // Known before sbatch answers: whatever ends this program, no job is submitted twice.
    write_submission(batch.folder, made);
    const CommandResult answer =
        run_command(sbatch_words(batch, array, made.name, script), kSubmitPatience);
    if (answer.status != 0) {
      if (!is_silent(answer.error)) fs::remove(record_of(batch.folder, number));
      refuse(batch, array, answer.error);
    }
    made.id = answer.out.substr(0, answer.out.find_first_of(";\n"));
    write_submission(batch.folder, made);
    all.push_back(made);
    return made.id;
  });
  return all;
}

}  // namespace weft::batch
