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
#include "core/set_aside.h"

namespace weft::train {
namespace {
namespace fs = std::filesystem;

/// What a run and its later evaluation write at the top of the folder.
constexpr std::array kEntries{"config.yaml",   "adapter",        "checkpoints",
                              "metrics.jsonl", "preflight.json", "provenance.json",
                              "log.txt",       "eval",           "report.html"};
constexpr const char* kEventsPrefix = "events.out.tfevents.";

using core::kSetAside;
using core::kSettingAside;
constexpr const char* kOutdated = ".weft-outdated";  // the old run, no longer wanted

bool is_run_entry(const std::string& name) {
  return name.starts_with(kEventsPrefix) || std::ranges::find(kEntries, name) != kEntries.end();
}

bool is_leftover(const std::string& name) {
  if (name == kOutdated) return true;
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

void rename_or_fail(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) {
    throw IoError("cannot move {} to {}: {}", from.string(), to.string(), error.message());
  }
}

/// The entries of the run in `from`, config.yaml, by which a run is known, at last.
void move_run(const fs::path& from, const fs::path& to) {
  std::vector<fs::path> names;
  for (const auto& entry : fs::directory_iterator(from)) {
    if (is_run_entry(entry.path().filename().string())) names.push_back(entry.path().filename());
  }
  std::ranges::sort(names, {}, [](const fs::path& name) { return name == "config.yaml"; });
  for (const fs::path& name : names) rename_or_fail(from / name, to / name);
}

void set_aside(const fs::path& folder) {
  fs::create_directory(folder / kSettingAside);
  move_run(folder, folder / kSettingAside);
  rename_or_fail(folder / kSettingAside, folder / kSetAside);
}

/// Puts back what was set aside, in whole or in part, in place of what a new run left.
void undo_replacement(const fs::path& folder) {
  if (fs::exists(folder / kSetAside)) {
    remove_entries(folder, is_run_entry);
    rename_or_fail(folder / kSetAside, folder / kSettingAside);
  }
  if (fs::exists(folder / kSettingAside)) {
    move_run(folder / kSettingAside, folder);
    fs::remove(folder / kSettingAside);
  }
}

[[noreturn]] void refuse_unwritable(const fs::path& path, const std::string& reason) {
  throw InputError("output_dir {} cannot be written: {}; choose another folder", path.string(),
                   reason);
}

}  // namespace

RunFolder::RunFolder(fs::path path, Start start) : path_(std::move(path)), start_(start) {
  judge();
}

void RunFolder::judge() {
  core::require_writable(path_, core::OutputKind::kContents);
  std::error_code error;
  if (!fs::exists(path_, error)) return;
  const bool comes_back =
      fs::exists(path_ / kSetAside, error) || fs::exists(path_ / kSettingAside, error);
  const bool has_run = comes_back || fs::exists(config(), error);
  if (has_run && start_ == Start::kFresh) {
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
  continues_ = has_run && start_ == Start::kResume;
}

RunFolder::~RunFolder() {
  if (replaces_) {
    try {
      undo_replacement(path_);
    } catch (const std::exception&) {
      // The next claim() tries again.
    }
  }
  if (claim_ >= 0) ::close(claim_);
  if (begun_) return;
  std::error_code ignored;
  for (fs::path made = path_; created_ > 0 && fs::remove(made, ignored); --created_) {
    made = made.parent_path();
  }
}

void RunFolder::claim(const core::Log& log) {
  std::error_code error;
  for (fs::path there = path_; !there.empty() && !fs::exists(there, error);
       there = there.parent_path()) {
    ++created_;
  }
  fs::create_directories(path_, error);
  if (error) refuse_unwritable(path_, error.message());
  claim_ = ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (claim_ < 0) refuse_unwritable(path_, std::strerror(errno));
  if (::flock(claim_, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) {
      throw InputError("another weft is writing to {}; wait for it, or choose another output_dir",
                       path_.string());
    }
    core::tell(log, core::Level::kWarning,
               fmt::format("{} cannot be locked ({}); make sure that no other weft writes there",
                           path_.string(), std::strerror(errno)));
  }
  undo_replacement(path_);
  judge();
}

void RunFolder::begin() {
  bring_back(adapter());
  remove_entries(path_, is_leftover);
  begun_ = true;
  if (continues_ || !fs::exists(config())) return;
  replaces_ = true;
  set_aside(path_);
}

void RunFolder::settle() {
  if (!replaces_) return;
  rename_or_fail(path_ / kSetAside, path_ / kOutdated);
  replaces_ = false;
  std::error_code ignored;  // What stays is removed by the next begin().
  fs::remove_all(path_ / kOutdated, ignored);
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
