#include <fmt/format.h>
#include <fmt/ranges.h>
#include <fnmatch.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <memory>

#include "batch/compose.h"
#include "batch/disk.h"
#include "batch/local.h"
#include "batch/lock.h"
#include "batch/slurm_submit.h"
#include "batch/slurm_task.h"
#include "batch/task.h"
#include "cli/batch_arguments.h"
#include "cli/batch_engine.h"
#include "cli/batch_view.h"
#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "core/cores.h"
#include "core/error.h"
#include "core/file.h"
#include "core/memory.h"
#include "core/stop.h"
#include "core/suggest.h"
#include "core/terminal.h"
#include "export/gguf_model.h"

namespace weft::cli {

Run add_batch(CommandLine& app);

namespace {

namespace fs = std::filesystem;
using batch::Batch;
using batch::Job;
using batch::JobView;
using batch::Status;

batch::Engine open_engine() {
  batch::Engine engine;
  catch_interrupts();
  reinterpret_cast<BatchConfigurations>(torch_symbol("weft_batch_engine"))(core::stop_flag(),
                                                                           engine)
      .rethrow();
  const auto plan = reinterpret_cast<PlanTraining>(torch_symbol("weft_plan_training"));
  engine.plan = [plan](const std::string& config) {
    batch::TrainPlan found;
    plan(config, found).rethrow();
    return found;
  };
  engine.gguf_bytes = [](const fs::path& model, const std::string& type) {
    return exporting::planned_gguf_bytes(model, exporting::find_file_type(type));
  };
  return engine;
}

/// Refuses what no memory of this machine could hold. What other programs hold now may be free
/// later, and the jobs that need it wait (batch/local.h).
void require_room(const std::vector<Job*>& jobs) {
  const std::uint64_t all = core::total_memory();
  const std::uint64_t free = core::available_memory();
  for (const Job* job : jobs) {
    if (job->memory_bytes > all) {
      throw InputError("{}: {} needs {} of memory, and this machine has {}", job->place, job->name,
                       core::human_bytes(job->memory_bytes), core::human_bytes(all));
    }
    if (job->memory_bytes <= free) continue;
    tell("{}: it needs {} of memory, of which {} are free now; it waits for the rest\n", job->name,
         core::human_bytes(job->memory_bytes), core::human_bytes(free));
  }
}

/// The jobs that can be planned now: their inputs do not wait for others.
std::vector<Job*> plannable(Batch& all, const std::vector<JobView>& views) {
  std::vector<Job*> jobs;
  for (std::size_t i = 0; i < views.size(); ++i) {
    const bool waits = std::ranges::any_of(views[i].job->after, [&](const std::string& name) {
      return std::ranges::any_of(
          views, [&](const JobView& v) { return v.job->name == name && !v.reused; });
    });
    if (!views[i].reused && !views[i].left_alone && !waits) jobs.push_back(&all.jobs[i]);
  }
  return jobs;
}

std::string steps_text(const Job& job) {
  std::vector<std::string> names;
  for (const batch::Step& step : job.steps) names.push_back(step.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string disk_text(const JobView& view) {
  if (view.reused || view.left_alone) return "";
  const bool is_known = view.note != "train" || view.job->run_bytes > 0;
  return is_known ? core::human_bytes(view.job->disk_bytes) : "?";
}

std::string plan_table(const std::vector<JobView>& views) {
  core::Table table({"job", "steps", "updates", "memory", "disk", "threads", "now"});
  for (const JobView& view : views) {
    const Job& job = *view.job;
    const std::string now =
        view.reused ? "done before"
        : view.left_alone
            ? "left out: " + view.note
            : "from " + view.note + " on" + (view.replaces.empty() ? "" : "; " + view.replaces);
    table.add({job.name, steps_text(job), job.updates > 0 ? std::to_string(job.updates) : "?",
               job.memory_bytes > 0 ? core::human_bytes(job.memory_bytes) : "?", disk_text(view),
               std::to_string(job.threads), now});
  }
  return table.text();
}

/// "12 jobs: 3 done before (reused), 1 left out, 8 to run".
std::string summary(const std::vector<JobView>& views) {
  const auto reused = std::ranges::count_if(views, &JobView::reused);
  const auto live = std::ranges::count_if(views, &JobView::live);
  const auto left = std::ranges::count_if(views, &JobView::left_alone) - live;
  const auto rest = static_cast<std::ptrdiff_t>(views.size()) - reused - left - live;
  return fmt::format("{} job{}: {} done before (reused), {}{} left out, {} to run", views.size(),
                     views.size() == 1 ? "" : "s", reused,
                     live > 0 ? fmt::format("{} with Slurm already, ", live) : "", left, rest);
}

int check(Batch& all, std::vector<JobView> views, const batch::Engine& engine,
          const batch::SlurmQueue& queue, bool on_slurm) {
  const std::vector<Job*> jobs = plannable(all, views);
  batch::plan_jobs(jobs, engine);
  batch::plan_disk(all, views, engine);
  batch::require_disk(all, views);
  if (on_slurm) {
    batch::check_slurm(all, views, queue);
  } else {
    require_room(jobs);
  }
  print("{}{}\n", plan_table(views), summary(views));
  if (on_slurm) {
    print("Slurm takes the jobs\n");
    return static_cast<int>(ExitCode::kDone);
  }
  const batch::DiskRoom room = batch::disk_room(all.folder.path());
  print("this machine has {} cores and {} of memory free, and {} of disk\n", core::allowed_cores(),
        core::human_bytes(core::available_memory()), core::human_bytes(room.free));
  return static_cast<int>(ExitCode::kDone);
}

int show_commands(const std::vector<JobView>& views) {
  for (const JobView& view : views) {
    if (view.reused || view.left_alone) {
      print("{}: {}\n", view.job->name, view.reused ? "done before" : "left out: " + view.note);
      continue;
    }
    if (!view.replaces.empty()) print("{}: {}\n", view.job->name, view.replaces);
    bool is_missing = false;
    for (const batch::Step& step : view.job->steps) {
      is_missing = is_missing || step.name == view.note;
      print("{}: {}weft {}\n", view.job->name, is_missing ? "" : "(done before) ",
            fmt::format("{}", fmt::join(step.arguments, " ")));
    }
  }
  print("{}\n", summary(views));
  return static_cast<int>(ExitCode::kDone);
}

int show_submissions(const Batch& all, std::vector<JobView> views, const batch::SlurmQueue& queue) {
  for (const JobView& view : views) {
    if (!view.left_alone && !view.replaces.empty())
      print("# {}: {}\n", view.job->name, view.replaces);
  }
  for (const std::string& command : batch::sbatch_commands(all, views, queue))
    print("{}\n", command);
  print("{}\n", summary(views));
  return static_cast<int>(ExitCode::kDone);
}

/// A new attempt: what cancelled or failed before counts no more.
void reset(const Batch& all, const std::vector<JobView>& views) {
  for (const JobView& view : views) {
    if (view.reused || view.left_alone) continue;
    std::error_code ignored;
    fs::remove(all.folder.cancelled(view.job->name), ignored);
    const fs::path file = all.folder.state(view.job->name);
    auto state = batch::read_state(file);
    if (!state || (state->failures == 0 && state->losses == 0 && state->stalls == 0)) continue;
    state->failures = state->losses = state->stalls = 0;
    batch::write_state(file, *state);
  }
}

int conclude(const std::vector<JobView>& views, const batch::BatchFolder& folder) {
  std::vector<std::string> failed;
  bool only_gates = true;
  int cancelled = 0;
  for (const JobView& view : views) {
    if (view.live) continue;
    const bool waits = view.left_alone && view.note.starts_with("waits for");
    const bool is_cancelled = view.status == Status::kInterrupted || view.note == "cancelled";
    cancelled += is_cancelled ? 1 : 0;
    if (!batch::is_failure(view.status) && !waits) continue;
    only_gates = only_gates && view.status == Status::kRefused;
    failed.push_back(view.job->name);
    tell("{}: {}; see {}\n", view.job->name, view.note, folder.log(view.job->name).string());
  }
  print("{}\n", count_of(views));
  if (core::stop_requested()) {
    throw Interrupted("interrupted; all jobs have saved, and the same command goes on from there");
  }
  if (cancelled > 0) {
    tell("weft batch: {} of {} jobs were cancelled; the same command goes on with them\n",
         cancelled, views.size());
  }
  if (failed.empty()) return static_cast<int>(cancelled > 0 ? ExitCode::kFailed : ExitCode::kDone);
  tell("weft batch: {} of {} jobs did not end well; --retry-failed tries them again\n",
       failed.size(), views.size());
  return static_cast<int>(only_gates ? ExitCode::kRefused : ExitCode::kFailed);
}

/// What Slurm has of the batch. To submit, it has to be known.
batch::SlurmQueue ask_slurm(const BatchArguments& a, const batch::BatchFolder& folder) {
  batch::SlurmQueue queue = batch::ask_slurm(folder);
  if (queue.problem.empty()) return queue;
  if (a.slurm && !a.dry_run) {
    throw IoError("Slurm does not say which jobs it has, so that nothing was submitted ({})",
                  queue.problem);
  }
  tell("weft batch: some jobs were submitted to Slurm, which does not say how they stand ({})\n",
       queue.problem);
  return queue;
}

int submit_batch(const BatchArguments& a, const Batch& all, std::vector<JobView> views,
                 const batch::SlurmQueue& queue) {
  const std::vector<batch::Submission> made = batch::submit(all, views, queue);
  std::string ids;
  for (const batch::Submission& one : made) {
    ids += fmt::format("{}{} ({} job{})", ids.empty() ? "" : ", ", one.id, one.jobs.size(),
                       one.jobs.size() == 1 ? "" : "s");
  }
  for (const JobView& view : views) {
    if (view.left_alone) tell("{}: left out: {}\n", view.job->name, view.note);
  }
  print("{}\n", made.empty() ? "nothing to submit" : "submitted as " + ids);
  if (!made.empty()) print("weft batch status {} shows how they stand\n", a.file);
  return static_cast<int>(ExitCode::kDone);
}

int run_batch(const BatchArguments& a) {
  if (a.file.empty())
    throw ConfigError("expected JOBS.yaml, the description of the jobs (docs/batch.md)");
  if (a.slurm) batch::require_slurm();
  const batch::Engine engine = open_engine();
  Batch all = batch::load_batch(a.file, engine, stderr_log("batch"));
  require_match(a.only, all.record.jobs);
  const batch::SlurmQueue queue = ask_slurm(a, all.folder);
  const std::vector<JobView> views = batch::survey(
      all, {.retry_failed = a.retry_failed, .queue = queue, .wanted = [&](const Job& job) {
              return matches(a.only, job.name);
            }});
  if (a.check) return check(all, views, engine, queue, a.slurm);
  if (a.dry_run && a.slurm) return show_submissions(all, views, queue);
  if (a.dry_run) return show_commands(views);
  const auto refuse_second = [&] {
    throw InputError("another weft batch runs the jobs in {}; wait for it, or weft batch cancel {}",
                     all.folder.path().string(), a.file);
  };
  if (batch::is_locked(all.folder.lock())) refuse_second();
  const std::vector<Job*> jobs = plannable(all, views);
  batch::plan_jobs(jobs, engine);
  batch::plan_disk(all, views, engine);
  batch::require_disk(all, views);
  if (a.slurm) {
    std::vector<JobView> asked = views;
    batch::check_slurm(all, asked, queue);
  } else {
    require_room(jobs);
  }
  core::require_writable(all.folder.path(), core::OutputKind::kContents);
  fs::create_directories(all.folder.path());
  const batch::FileLock lock(all.folder.lock());
  if (!lock.held()) refuse_second();
  lock.sign();
  all.folder.write(all.record, all.jobs);
  reset(all, views);
  for (const JobView& view : views) {
    if (!view.left_alone && !view.replaces.empty()) tell("{}: {}\n", view.job->name, view.replaces);
  }
  tell("{}\n", summary(views));
  if (a.slurm) return submit_batch(a, all, views, queue);
  std::vector<JobView> ended;
  {
    BatchView view(all.folder);
    ended = batch::run_locally(all, views, engine, view);
  }
  return conclude(ended, all.folder);
}

int run_task(const BatchArguments& a) {
  catch_interrupts();
  const batch::BatchFolder folder(fs::absolute(a.folder));
  if (a.slurm_task.empty()) return batch::run_task(folder, a.name);
  return batch::run_slurm_task(folder, a.name, a.slurm_task, warned_of_limit);
}

}  // namespace

bool matches(const std::vector<std::string>& patterns, const std::string& name) {
  return patterns.empty() || std::ranges::any_of(patterns, [&](const std::string& pattern) {
           return ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
         });
}

void require_match(const std::vector<std::string>& patterns,
                   const std::vector<std::string>& names) {
  for (const std::string& pattern : patterns) {
    if (std::ranges::any_of(names, [&](const auto& name) { return matches({pattern}, name); }))
      continue;
    const std::string meant = core::nearest(pattern, names);
    throw ConfigError("no job is called '{}'{}", pattern,
                      meant.empty() ? "" : fmt::format("; did you mean '{}'?", meant));
  }
}

Run add_batch(CommandLine& app) {
  const auto a = std::make_shared<BatchArguments>();
  const auto chosen = std::make_shared<Run>([a] { return run_batch(*a); });
  app.description(
      "Runs many jobs that one file describes, each with its steps: train, merge, export, eval.\n"
      "The same command again runs only what is missing (docs/batch.md).");
  app.option("JOBS.yaml", a->file, "Description of the jobs");
  app.flag("--check", a->check,
           "Checks every job as weft train --check does, shows the plan, and runs nothing");
  app.flag("--slurm", a->slurm,
           "Submits the jobs to Slurm as an array and returns; weft batch status tells of them");
  app.flag("--dry-run", a->dry_run, "Shows the commands that would run, and runs nothing");
  app.option("--only", a->only, "Only jobs of this name, as 'nah-*'; may be repeated")
      .type("PATTERN")
      .repeated();
  app.flag("--retry-failed", a->retry_failed, "Tries jobs that failed before once more");
  CommandLine task = app.subcommand(
      "task", "run one job of a batch that was written before, as weft batch itself does");
  task.option("DIR", a->folder, "output_dir of the batch").required();
  task.option("NAME", a->name, "the job").required();
  task.option("--slurm", a->slurm_task, "the task of a Slurm array that this is, as 17_3")
      .type("ID");
  task.when_chosen([a, chosen] { *chosen = [a] { return run_task(*a); }; });
  add_batch_questions(app, a, chosen);
  return [chosen] { return (*chosen)(); };
}

}  // namespace weft::cli
