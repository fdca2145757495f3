#include "batch/folder.h"

#include <fmt/format.h>

#include "batch/lock.h"
#include "checkpoint/json_file.h"
#include "core/error.h"
#include "core/file.h"

namespace weft::batch {
namespace fs = std::filesystem;

namespace {

constexpr int kFolderFormat = 1;

void make_folders(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw IoError("cannot make the folder {}: {}", path.string(), error.message());
}

void write_if_changed(const fs::path& file, const std::string& text) {
  std::error_code error;
  if (fs::exists(file, error) && core::read_text(file) == text) return;
  core::write_text(file, text);
}

BatchRecord read_record(const fs::path& file) {
  const nlohmann::json json = checkpoint::read_json_object(file);
  try {
    BatchRecord record;
    if (json.at("format").get<int>() > kFolderFormat) {
      throw InputError("{} is of a newer weft than this one", file.string());
    }
    json.at("file").get_to(record.file);
    json.at("jobs").get_to(record.jobs);
    json.at("threads").get_to(record.threads);
    if (json.contains("retries")) {
      json.at("retries").at("failed").get_to(record.retries.failed);
      json.at("retries").at("lost").get_to(record.retries.lost);
    }
    return record;
  } catch (const nlohmann::json::exception& problem) {
    throw InputError("{} is no record of a batch ({}); choose another output_dir, or move it away",
                     file.string(), problem.what());
  }
}

}  // namespace

std::optional<BatchRecord> BatchFolder::read(const std::string& jobs_file) const {
  std::error_code error;
  if (!fs::exists(path_, error)) return std::nullopt;
  if (!fs::is_directory(path_, error)) {
    throw InputError("output_dir {} is no folder; choose another", path_.string());
  }
  if (!fs::exists(record(), error)) {
    for (const auto& entry : fs::directory_iterator(path_, error)) {
      if (entry.path().filename() == "batch.lock") continue;
      throw InputError(
          "output_dir {} holds no batch, but '{}'; choose another folder, or move it away",
          path_.string(), entry.path().filename().string());
    }
    return std::nullopt;
  }
  BatchRecord found = read_record(record());
  // A description that was moved or renamed keeps its folder.
  const bool is_other = found.file != jobs_file && fs::exists(found.file, error) &&
                        !fs::equivalent(found.file, jobs_file, error);
  if (is_other) {
    throw InputError("output_dir {} holds the batch of {}; choose another folder", path_.string(),
                     found.file);
  }
  return found;
}

BatchRecord BatchFolder::read() const { return read_record(record()); }

void BatchFolder::write(const BatchRecord& record_now, const std::vector<Job>& jobs) const {
  make_folders(path_);
  const nlohmann::ordered_json json{
      {"format", kFolderFormat},
      {"file", record_now.file},
      {"threads", record_now.threads},
      {"retries", {{"failed", record_now.retries.failed}, {"lost", record_now.retries.lost}}},
      {"jobs", record_now.jobs}};
  write_if_changed(path_ / "batch.yaml", core::read_text(record_now.file));
  for (const Job& job : jobs) write_job(job);
  write_if_changed(record(),
                   json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

void BatchFolder::write_job(const Job& job) const {
  const fs::path folder = this->job(job.name);
  make_folders(folder);
  write_if_changed(folder / "config.yaml", job.config);
  if (!job.eval_config.empty()) write_if_changed(folder / "eval.yaml", job.eval_config);
  nlohmann::ordered_json json = to_json(job);
  // A job that is not planned now keeps what was planned before.
  std::error_code error;
  if (job.updates == 0 && fs::exists(description(job.name), error)) {
    try {
      const Job before = read_job(description(job.name));
      json["updates"] = before.updates;
      if (job.memory_bytes == 0) json["memory_bytes"] = before.memory_bytes;
    } catch (const InputError&) {
      // Written anew.
    }
  }
  write_if_changed(description(job.name),
                   json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

JobState BatchFolder::state_now(const std::string& name) const {
  JobState now = read_state(state(name)).value_or(JobState{});
  if (now.status != Status::kRunning || !now.slurm.empty() || is_locked(job_lock(name))) return now;
  now.status = Status::kLost;
  for (StepState& step : now.steps) {
    if (step.status != Status::kRunning) continue;
    step.status = Status::kLost;
    step.error = "its process ended without a word";
  }
  return now;
}

std::string BatchFolder::other_runner(const std::string& name) const {
  const JobState now = state_now(name);
  if (now.status != Status::kRunning || !now.slurm.empty()) return "";
  if (now.parent != 0 && now.parent == holder_of(lock())) return "";
  return fmt::format("process {} on {}", now.pid, now.host);
}

}  // namespace weft::batch
