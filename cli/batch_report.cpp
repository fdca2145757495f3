#include <fmt/format.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "batch/command.h"
#include "batch/jobs_file.h"
#include "batch/local.h"
#include "batch/lock.h"
#include "batch/progress.h"
#include "batch/report.h"
#include "batch/slurm_queue.h"
#include "batch/task.h"
#include "cli/batch_arguments.h"
#include "cli/batch_view.h"
#include "cli/output.h"
#include "core/error.h"
#include "core/file.h"

namespace weft::cli {
namespace {

namespace fs = std::filesystem;
using batch::Job;
using batch::JobView;
using batch::Status;

/// A batch as it lies on the disk.
struct Written {
  batch::JobsFile file;
  batch::BatchFolder folder;
  std::vector<std::string> names;
};

Written open_batch(const BatchArguments& a) {
  batch::JobsFile file = batch::load_jobs_file(a.file);
  batch::BatchFolder folder(file.output_dir);
  const auto record = folder.read(fs::absolute(a.file).lexically_normal().string());
  if (!record) {
    throw InputError("there is no batch in {} yet; weft batch {} runs it", folder.path().string(),
                     a.file);
  }
  require_match(a.only, record->jobs);
  std::vector<std::string> names;
  for (const std::string& name : record->jobs) {
    if (matches(a.only, name)) names.push_back(name);
  }
  return {std::move(file), std::move(folder), std::move(names)};
}

/// Who runs a job that no weft batch has started, or an earlier one that is gone.
std::string note_of_other(const batch::BatchFolder& folder, const std::string& name) {
  const std::string other = folder.other_runner(name);
  if (other.empty()) return "";
  return fmt::format("{} runs it{}", other,
                     batch::is_locked(folder.lock())
                         ? "; the weft batch that runs now waits for its end"
                         : ", and no weft batch looks after it");
}

int show_status(const BatchArguments& a) {
  const Written written = open_batch(a);
  std::vector<Job> jobs;
  for (const std::string& name : written.names)
    jobs.push_back(batch::read_job(written.folder.description(name)));
  const batch::SlurmQueue queue = batch::ask_slurm(written.folder);
  std::vector<JobView> views;
  auto json = nlohmann::ordered_json::array();
  for (const Job& job : jobs) {
    const auto [state, note] = batch::stand(written.folder, job.name, queue);
    JobView& view = views.emplace_back(JobView{.job = &job, .status = state.status});
    if (!state.steps.empty()) view.step = state.steps.back().name;
    for (const batch::StepState& step : state.steps) {
      if (step.status != Status::kDone) view.step = step.name;
    }
    view.note = note.empty() ? note_of_other(written.folder, job.name) : note;
    json.push_back({{"job", job.name},
                    {"status", batch::word(state.status)},
                    {"step", view.step},
                    {"error", view.note},
                    {"log", written.folder.log(job.name).string()}});
    if (const batch::QueueEntry* entry = queue.find(job.name)) {
      json.back()["slurm"] = {
          {"task", entry->task}, {"state", entry->state}, {"reason", entry->reason}};
    }
  }
  if (!queue.problem.empty()) {
    tell("weft batch: Slurm does not answer ({}); shown is what the jobs wrote last\n",
         queue.problem);
  }
  if (a.json) {
    print("{}\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    return static_cast<int>(ExitCode::kDone);
  }
  print("{}{}\n", status_table(written.folder, views), count_of(views));
  for (const JobView& view : views) {
    if (!view.note.empty()) print("{}: {}\n", view.job->name, view.note);
  }
  if (batch::is_locked(written.folder.lock())) print("a weft batch runs them now\n");
  return static_cast<int>(ExitCode::kDone);
}

int show_log(const BatchArguments& a) {
  const Written written = open_batch(a);
  require_match({a.name}, written.names);
  for (const std::string& name : written.names) {
    if (!matches({a.name}, name)) continue;
    const fs::path log = written.folder.log(name);
    constexpr std::uint64_t kTail = std::uint64_t{4} << 20;
    const std::string text = batch::tail_of(log, kTail);
    std::size_t from = text.size();
    for (int line = 0; line <= a.lines && from > 0 && from != std::string::npos; ++line)
      from = from == 0 ? 0 : text.rfind('\n', from - 1);
    print("== {}\n{}", log.string(),
          from == std::string::npos ? text : text.substr(from + (from > 0)));
  }
  return static_cast<int>(ExitCode::kDone);
}

/// Asks Slurm to end tasks. They get SIGTERM, and save.
void cancel_tasks(const std::vector<std::string>& tasks) {
  constexpr std::size_t kAtOnce = 500;
  for (std::size_t from = 0; from < tasks.size(); from += kAtOnce) {
    std::vector<std::string> words{"scancel"};
    for (std::size_t i = from; i < std::min(tasks.size(), from + kAtOnce); ++i)
      words.push_back(tasks[i]);
    const batch::CommandResult answer = batch::run_command(words, std::chrono::seconds(180));
    if (answer.status != 0) throw IoError("Slurm has not cancelled the jobs ({})", answer.error);
  }
}

int cancel(const BatchArguments& a) {
  const Written written = open_batch(a);
  const batch::SlurmQueue queue = batch::ask_slurm(written.folder);
  std::vector<std::string> tasks;
  int asked = 0;
  for (const std::string& name : written.names) {
    // Written before the state is read: a job that begins in between finds it.
    core::write_text(written.folder.cancelled(name), "");
    const batch::JobState state = written.folder.state_now(name);
    if (state.status == Status::kDone && !queue.is_live(name)) {
      std::error_code ignored;
      fs::remove(written.folder.cancelled(name), ignored);
      continue;
    }
    if (queue.is_live(name)) tasks.push_back(queue.find(name)->task);
    if (!state.slurm.empty()) continue;
    // The lock says that the process lives, so that the number is not somebody else's by now.
    if (state.status != Status::kRunning || state.pid <= 0) continue;
    if (state.host != batch::host_name()) {
      tell("{}: it runs on {}, where it has to be cancelled; nothing was sent to it\n", name,
           state.host);
      continue;
    }
    if (::kill(static_cast<pid_t>(state.pid), SIGTERM) == 0) ++asked;
  }
  cancel_tasks(tasks);
  if (!queue.problem.empty()) {
    throw IoError(
        "Slurm does not answer ({}); jobs that it begins from now on end at once, those "
        "that run go on until the same command is run again",
        queue.problem);
  }
  if (!queue.submitted.empty()) {
    print("{} job{} cancelled that Slurm had\n", tasks.size(), tasks.size() == 1 ? " is" : "s are");
    if (asked == 0) return static_cast<int>(ExitCode::kDone);
  }
  print("{} running job{} asked to save and end; what waits is not begun; weft batch {} goes on\n",
        asked, asked == 1 ? " is" : "s are", a.file);
  return static_cast<int>(ExitCode::kDone);
}

int report(const BatchArguments& a) {
  const Written written = open_batch(a);
  if (!a.html.empty()) {
    core::require_writable(a.html, core::OutputKind::kFile,
                           a.force ? core::Overwrite::kReplace : core::Overwrite::kRefuse);
  }
  const batch::BatchReport found =
      batch::make_report(written.folder, written.names,
                         written.file.ledger.value_or(written.folder.path() / "weft.db"));
  if (!a.html.empty()) {
    core::write_text(a.html, batch::to_html(found));
    tell("weft batch: report {}\n", a.html);
    return static_cast<int>(ExitCode::kDone);
  }
  print("{}", a.markdown ? batch::to_markdown(found) : batch::to_text(found));
  return static_cast<int>(ExitCode::kDone);
}

}  // namespace

void add_batch_questions(CommandLine& app, const std::shared_ptr<BatchArguments>& a,
                         const std::shared_ptr<Run>& chosen) {
  const auto add = [&](const char* name, const char* what, int (*run)(const BatchArguments&)) {
    CommandLine command = app.subcommand(name, what);
    command.option("JOBS.yaml", a->file, "description of the jobs").required();
    command.when_chosen([a, run, chosen] { *chosen = [a, run] { return run(*a); }; });
    return command;
  };
  const auto add_only = [&](CommandLine command) {
    command.option("--only", a->only, "only jobs of this name, as 'nah-*'; may be repeated")
        .type("PATTERN")
        .repeated();
  };
  CommandLine status = add("status", "show how all jobs stand", show_status);
  status.flag("--json", a->json, "print JSON instead of a table");
  add_only(status);
  CommandLine logs = add("logs", "show the end of a job's log", show_log);
  logs.option("NAME", a->name, "the job, or a pattern").required();
  logs.option("--lines", a->lines, "lines at most").at_least(1).with_default_shown();
  add_only(add("cancel", "ask running jobs to save and end, and begin no others", cancel));
  CommandLine compare = add("report", "compare what came of all jobs", report);
  compare.flag("--markdown", a->markdown, "as Markdown");
  compare.option("--html", a->html, "as one page with the curves of all runs").type("FILE");
  compare.flag("--force", a->force, "overwrite the page");
  add_only(compare);
}

}  // namespace weft::cli
