#include "batch/disk.h"

#include <sys/stat.h>

#include <algorithm>
#include <limits>
#include <map>

#include "checkpoint/checkpoint.h"
#include "core/error.h"
#include "core/terminal.h"

namespace weft::batch {
namespace {

namespace fs = std::filesystem;

/// An evaluation's results, about.
constexpr std::uint64_t kEvaluationBytes = std::uint64_t{1} << 20;

/// The value of an option of the step's command; empty where it has none.
std::string option(const Step& step, const std::string& name) {
  const auto found = std::ranges::find(step.arguments, name);
  if (found == step.arguments.end() || found + 1 == step.arguments.end()) return "";
  return *(found + 1);
}

std::uint64_t bytes_on_disk(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    const auto bytes = fs::file_size(path, error);
    return error ? 0 : bytes;
  }
  std::uint64_t all = 0;
  for (auto at = fs::recursive_directory_iterator(path, error);
       !error && at != fs::recursive_directory_iterator(); at.increment(error)) {
    std::error_code ignored;
    if (at->is_regular_file(ignored)) all += at->file_size(ignored);
  }
  return all;
}

/// What weft merge makes of a model.
std::uint64_t merged_bytes(const fs::path& model, const std::string& dtype) {
  const auto base = checkpoint::Checkpoint::open(model);
  std::uint64_t all = 0;
  for (const checkpoint::TensorInfo& tensor : base.tensors()) {
    const auto elements = static_cast<std::uint64_t>(tensor.elements());
    const bool is_plain = tensor.storage <= checkpoint::Storage::kBF16 ||
                          tensor.storage == checkpoint::Storage::kOther;
    if (dtype == "f32") {
      all += 4 * elements;
    } else if (dtype == "f16" || dtype == "bf16" || !is_plain) {
      all += 2 * elements;
    } else {
      all += tensor.bytes;
    }
  }
  return all;
}

class DiskPlanner {
 public:
  explicit DiskPlanner(const Engine& engine) : engine_(engine) {}

  std::uint64_t bytes_of(const Job& job, const Step& step) {
    if (step.name == "train") return job.run_bytes;
    if (step.name == "merge") return merged(job, option(step, "--dtype"));
    if (step.name == "eval") return kEvaluationBytes;
    const std::string to = option(step, "--to");
    std::string type = option(step, "--type");
    if (to == "peft") return job.adapter_bytes;
    if (to == "gguf-lora") return type == "f16" ? job.adapter_bytes / 2 : job.adapter_bytes;
    return gguf(base_of(job), type.empty() ? "q8_0" : type);
  }

 private:
  /// The base, whose tensors those of the merged model are.
  static std::string base_of(const Job& job) {
    for (const Step& step : job.steps) {
      if (step.name != "train" && !option(step, "--model").empty()) return option(step, "--model");
    }
    return "";
  }

  std::uint64_t merged(const Job& job, const std::string& dtype) {
    const std::string base = base_of(job);
    return known({base, dtype}, [&] { return merged_bytes(base, dtype); });
  }

  std::uint64_t gguf(const std::string& base, const std::string& type) {
    return known({base, "gguf " + type},
                 [&] { return engine_.gguf_bytes ? engine_.gguf_bytes(base, type) : 0; });
  }

  /// Each model is read once. What is wrong with it is told by the step that reads it.
  std::uint64_t known(const std::pair<std::string, std::string>& what,
                      const std::function<std::uint64_t()>& find) {
    const auto found = known_.find(what);
    if (found != known_.end()) return found->second;
    std::uint64_t bytes = 0;
    try {
      bytes = find();
    } catch (const Error&) {
      bytes = 0;
    }
    return known_[what] = bytes;
  }

  const Engine& engine_;
  std::map<std::pair<std::string, std::string>, std::uint64_t> known_;
};

bool is_to_run(const JobView& view) { return !view.reused && !view.left_alone; }

}  // namespace

DiskRoom disk_room(const fs::path& path) {
  std::error_code error;
  fs::path place = fs::absolute(path, error).lexically_normal();
  while (!fs::exists(place, error) && place.has_relative_path()) place = place.parent_path();
  struct stat found {};
  const fs::space_info space = fs::space(place, error);
  // Some network file systems tell no sizes.
  if (error || space.capacity == 0 || ::stat(place.c_str(), &found) != 0)
    return {.device = 0, .free = std::numeric_limits<std::uint64_t>::max()};
  return {.device = static_cast<std::uint64_t>(found.st_dev), .free = space.available};
}

void plan_disk(Batch& batch, const std::vector<JobView>& views, const Engine& engine) {
  DiskPlanner planner(engine);
  for (const JobView& view : views) {
    if (!is_to_run(view)) continue;
    Job& job = *std::ranges::find(batch.jobs, view.job->name, &Job::name);
    job.disk_bytes = 0;
    bool is_missing = false;
    for (const Step& step : job.steps) {
      is_missing = is_missing || step.name == view.note;
      if (!is_missing) continue;
      std::uint64_t there = 0;
      // A run that is replaced stays until the new one stands.
      if (step.name == "train" && view.replaces.empty()) {
        there = bytes_on_disk(batch.folder.run(job.name));
      } else if (step.name != "train") {
        for (const std::string& output : step.outputs) there += bytes_on_disk(output);
      }
      const std::uint64_t bytes = planner.bytes_of(job, step);
      job.disk_bytes += bytes - std::min(bytes, there);
    }
  }
}

void require_disk(const Batch& batch, const std::vector<JobView>& views,
                  const std::function<DiskRoom(const fs::path&)>& room) {
  struct Sum {
    std::uint64_t bytes = 0, free = 0;
    std::size_t jobs = 0;
    std::string first;  ///< A job.
  };
  std::map<std::uint64_t, Sum> systems;
  for (const JobView& view : views) {
    if (!is_to_run(view)) continue;
    const DiskRoom there = room(batch.folder.job(view.job->name));
    Sum& sum = systems[there.device];
    sum.bytes += view.job->disk_bytes;
    sum.free = there.free;
    if (sum.jobs++ == 0) sum.first = view.job->name;
  }
  for (const auto& [device, sum] : systems) {
    if (sum.bytes <= sum.free) continue;
    throw ConfigError(
        "{}: output_dir: {} will write about {} to the file system of {}, and {} are free there; "
        "make room, choose another output_dir, or write less (save.keep, steps, --only)",
        batch.file.place_of("output_dir").text(batch.record.file),
        sum.jobs == 1 ? sum.first : fmt::format("{} jobs", sum.jobs), core::human_bytes(sum.bytes),
        batch.folder.job(sum.first).string(), core::human_bytes(sum.free));
  }
}

}  // namespace weft::batch
