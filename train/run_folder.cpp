#include "train/run_folder.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/file.h"

namespace weft::train {
namespace {
namespace fs = std::filesystem;

/// What a run and its later evaluation write at the top of the folder.
constexpr std::array kEntries{"config.yaml",   "adapter",        "checkpoints",
                              "metrics.jsonl", "preflight.json", "provenance.json",
                              "log.txt",       "eval",           "report.html"};
constexpr const char* kEventsPrefix = "events.out.tfevents.";

bool is_run_entry(const std::string& name) {
  return name.starts_with(kEventsPrefix) || std::ranges::find(kEntries, name) != kEntries.end();
}

bool is_leftover(const std::string& name) {
  // core::AtomicFile and AtomicDirectory of a killed process: ".adapter.part-123-4d2f01ab".
  return name.starts_with('.') && std::ranges::any_of(kEntries, [&](std::string_view entry) {
           return name.starts_with(fmt::format(".{}.part-", entry)) ||
                  name.starts_with(fmt::format(".{}.old-", entry));
         });
}

void remove_entries(const fs::path& folder, bool (*is_to_go)(const std::string&)) {
  std::error_code error;
  std::vector<fs::path> doomed;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (is_to_go(entry.path().filename().string())) doomed.push_back(entry.path());
  }
  for (const fs::path& path : doomed) {
    fs::remove_all(path, error);
    if (error) throw IoError("cannot remove {}: {}", path.string(), error.message());
  }
}

/// A process killed between the two renames of AtomicDirectory::commit() leaves the old folder
/// aside.
void bring_back(const fs::path& target) {
  std::error_code error;
  if (fs::exists(target, error)) return;
  const std::string prefix = fmt::format(".{}.old-", target.filename().string());
  for (const auto& entry : fs::directory_iterator(target.parent_path(), error)) {
    if (!entry.path().filename().string().starts_with(prefix)) continue;
    fs::rename(entry.path(), target, error);
    return;
  }
}

[[noreturn]] void refuse_unwritable(const fs::path& path, const std::string& reason) {
  throw InputError("output_dir {} cannot be written: {}; choose another folder", path.string(),
                   reason);
}

}  // namespace

RunFolder::RunFolder(fs::path path, Start start) : path_(std::move(path)), start_(start) {
  core::require_writable(path_, core::OutputKind::kContents);
  std::error_code error;
  if (!fs::exists(path_, error)) return;
  const bool has_run = fs::exists(config(), error);
  if (has_run && start == Start::kFresh) {
    throw InputError(
        "{} holds a run already: continue it with --resume, replace it with --force, or "
        "choose another output_dir",
        path_.string());
  }
  // Other files may lie in the folder, but nothing of the names that this run would write.
  for (const auto& entry : fs::directory_iterator(path_, error)) {
    const std::string name = entry.path().filename().string();
    if (has_run || !is_run_entry(name) || fs::is_empty(entry.path(), error)) continue;
    throw InputError(
        "output_dir {} holds no run, but '{}', which a run would write; move it away, or "
        "choose another folder",
        path_.string(), name);
  }
  continues_ = has_run && start == Start::kResume;
}

RunFolder::~RunFolder() {
  if (claim_ >= 0) ::close(claim_);
  if (begun_) return;
  std::error_code ignored;
  for (fs::path made = path_; created_ > 0 && fs::remove(made, ignored); --created_) {
    made = made.parent_path();
  }
}

void RunFolder::claim() {
  std::error_code error;
  for (fs::path there = path_; !there.empty() && !fs::exists(there, error);
       there = there.parent_path()) {
    ++created_;
  }
  fs::create_directories(path_, error);
  if (error) refuse_unwritable(path_, error.message());
  claim_ = ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (claim_ < 0) refuse_unwritable(path_, std::strerror(errno));
  if (::flock(claim_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    throw InputError("another weft is writing to {}; wait for it, or choose another output_dir",
                     path_.string());
  }
}

void RunFolder::begin() {
  bring_back(adapter());
  remove_entries(path_, is_leftover);
  if (!continues_) remove_entries(path_, is_run_entry);
  std::error_code error;
  fs::create_directories(checkpoints(), error);
  if (error) throw IoError("cannot create {}: {}", checkpoints().string(), error.message());
  begun_ = true;
}

void RunFolder::note(std::string_view line) const noexcept {
  if (!begun_) return;
  try {
    std::ofstream stream(path_ / "log.txt", std::ios::app);
    stream << fmt::format("{:%Y-%m-%d %H:%M:%S} ", fmt::localtime(std::time(nullptr))) << line
           << '\n';
  } catch (...) {
    // Losing a line of the log must not lose the run.
  }
}

}  // namespace weft::train
