#include "merge/resume.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/version.h"

namespace weft::merge {
namespace {

namespace fs = std::filesystem;

constexpr const char* kJournal = "resume.json";
constexpr const char* kLock = "resume.lock";

/// An open file with an exclusive lock, or -1 when another process holds it or it is not there.
int locked(const fs::path& path, int flags) {
  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC | flags, 0644);
  if (file < 0 || ::flock(file, LOCK_EX | LOCK_NB) == 0) return file;
  ::close(file);
  return -1;
}

/// Changes whenever the file is written to or replaced.
std::string identity(const fs::path& path) {
  struct stat found {};
  if (::stat(path.c_str(), &found) != 0) return fmt::format("{}: absent\n", path.string());
  return fmt::format("{}: {} {} {} {}.{} {}.{}\n", fs::absolute(path).string(), found.st_dev,
                     found.st_ino, found.st_size, found.st_mtim.tv_sec, found.st_mtim.tv_nsec,
                     found.st_ctim.tv_sec, found.st_ctim.tv_nsec);
}

std::string digest_of(const ResumeKey& key, std::span<const checkpoint::Shard> shards) {
  core::Sha256 hash;
  hash.update(fmt::format("weft {}\n{}\n", core::kVersion, key.parameters));
  for (const fs::path& file : key.files) hash.update(identity(file));
  for (const checkpoint::Shard& shard : shards) {
    hash.update(shard.file + "\n");
    for (const checkpoint::TensorPlan& tensor : shard.tensors) {
      hash.update(
          fmt::format("{} {} {}\n", tensor.name, tensor.dtype, fmt::join(tensor.shape, "x")));
    }
  }
  return hash.finish();
}

nlohmann::json json_of(const FoldedTensor& tensor) {
  nlohmann::json keys = nlohmann::json::array();
  for (const UsedKey& key : tensor.keys) keys.push_back({key.adapter, key.key});
  return {{"name", tensor.name},
          {"rank", tensor.rank},
          {"base_norm", tensor.base_norm},
          {"update_norm", tensor.update_norm},
          {"largest_error", tensor.largest_error},
          {"changed", tensor.changed},
          {"dtype", tensor.dtype},
          {"rounding", tensor.rounding},
          {"retained", tensor.retained},
          {"device", tensor.device},
          {"keys", std::move(keys)}};
}

FoldedTensor folded_of(const nlohmann::json& json) {
  FoldedTensor tensor;
  json.at("name").get_to(tensor.name);
  json.at("rank").get_to(tensor.rank);
  json.at("base_norm").get_to(tensor.base_norm);
  json.at("update_norm").get_to(tensor.update_norm);
  json.at("largest_error").get_to(tensor.largest_error);
  json.at("changed").get_to(tensor.changed);
  json.at("dtype").get_to(tensor.dtype);
  json.at("rounding").get_to(tensor.rounding);
  json.at("retained").get_to(tensor.retained);
  json.at("device").get_to(tensor.device);
  for (const auto& key : json.at("keys")) {
    tensor.keys.push_back({key.at(0), key.at(1), tensor.name});
  }
  return tensor;
}

bool is_as_recorded(const fs::path& path, const WrittenFile& file) {
  std::error_code error;
  return fs::file_size(path, error) == file.bytes && !error &&
         core::sha256_file(path) == file.sha256;
}

/// Folders that merges into `out` have left beside it (core::AtomicDirectory), but for `own`.
std::vector<fs::path> left_behind(const fs::path& out, const fs::path& own) {
  std::vector<fs::path> folders;
  const std::string beginning = own.filename().string();
  const std::string prefix =
      fmt::format(".{}.part-", (out.has_filename() ? out : out.parent_path()).filename().string());
  std::error_code error;
  const fs::path parent = own.has_parent_path() ? own.parent_path() : fs::path(".");
  for (const fs::directory_entry& entry : fs::directory_iterator(parent, error)) {
    const std::string name = entry.path().filename();
    if (name.starts_with(prefix) && name != beginning && entry.is_directory(error)) {
      folders.push_back(entry.path());
    }
  }
  std::ranges::sort(folders);
  return folders;
}

std::uint64_t bytes_of(const checkpoint::Shard& shard) {
  std::uint64_t bytes = 0;
  for (const checkpoint::TensorPlan& tensor : shard.tensors) bytes += tensor.bytes();
  return bytes;
}

}  // namespace

void ResumeKey::add(const checkpoint::Checkpoint& model) {
  parameters += model.config().dump() + "\n";
  for (const checkpoint::TensorInfo& tensor : model.tensors()) files.insert(tensor.file);
}

std::uint64_t Resume::missing() const {
  std::uint64_t bytes = 0;
  for (const checkpoint::Shard& shard : shards_) {
    if (!done_.contains(shard.file)) bytes += bytes_of(shard);
  }
  return bytes;
}

Resume::Resume(const fs::path& out, fs::path staging, std::span<const checkpoint::Shard> shards,
               const std::function<ResumeKey()>& key, const core::Log& log)
    : staging_(std::move(staging)), shards_(shards) {
  if (shards_.size() < 2) {
    core::remove_left_behind(out);
    return;
  }
  key_ = digest_of(key(), shards_);
  lock_ = locked(staging_ / kLock, O_CREAT);
  for (const fs::path& folder : left_behind(out, staging_)) {
    const int theirs = locked(folder / kLock, 0);
    if (theirs < 0) continue;  // Still being written, or not by a merge.
    if (done_.empty()) take_over(folder);
    std::error_code ignored;
    fs::remove_all(folder, ignored);
    ::close(theirs);
  }
  core::remove_left_behind(out);
  if (done_.empty()) return;
  core::tell(log, core::Level::kInfo,
             fmt::format("{} of {} files are there from a merge that was stopped; going on after "
                         "them",
                         done_.size(), shards_.size()));
  save();
}

Resume::~Resume() {
  if (lock_ >= 0) ::close(lock_);
}

void Resume::take_over(const fs::path& folder) {
  std::map<std::string, Shard> found;
  std::string digest;
  try {
    const auto json = nlohmann::json::parse(core::read_text(folder / kJournal));
    if (json.at("key") != key_) return;
    json.at("digest").get_to(digest);
    for (const auto& [name, entry] : json.at("files").items()) {
      Shard& shard = found[name];
      shard.file = {name, entry.at("bytes"), entry.at("sha256")};
      for (const auto& tensor : entry.at("folded")) shard.folded.push_back(folded_of(tensor));
    }
  } catch (const std::exception&) {
    return;  // Killed before the first file was finished, or damaged: nothing to go on with.
  }
  for (const checkpoint::Shard& shard : shards_) {
    const auto entry = found.find(shard.file);
    if (entry == found.end() || !is_as_recorded(folder / shard.file, entry->second.file)) continue;
    std::error_code error;
    fs::rename(folder / shard.file, staging_ / shard.file, error);
    if (!error) done_.insert(*entry);
  }
  if (!done_.empty()) digest_ = digest;
}

void Resume::set_digest(const std::string& digest) {
  if (shards_.size() < 2) return;
  const std::scoped_lock hold(guard_);
  if (!digest_.empty() && digest_ != digest) {
    throw InputError(
        "the models are not those of the merge that was stopped (their numbers have digest {}, it "
        "recorded {}), though their files look the same; run the command again, which starts anew",
        digest, digest_);
  }
  if (!digest_.empty()) return;
  digest_ = digest;
  if (!done_.empty()) save();
}

void Resume::save() {
  nlohmann::json files = nlohmann::json::object();
  for (const auto& [name, shard] : done_) {
    nlohmann::json folded = nlohmann::json::array();
    for (const FoldedTensor& tensor : shard.folded) folded.push_back(json_of(tensor));
    files[name] = {
        {"bytes", shard.file.bytes}, {"sha256", shard.file.sha256}, {"folded", std::move(folded)}};
  }
  const nlohmann::json json = {{"key", key_}, {"digest", digest_}, {"files", std::move(files)}};
  core::write_text(staging_ / kJournal,
                   json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

Written Resume::write(const WriteShards& write, const FoldControl& control) {
  Written all;
  FoldProgress progress;
  for (const checkpoint::Shard& shard : shards_) progress.total += bytes_of(shard);
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    FoldControl part = control;
    part.progress = [&](FoldProgress of_file) {
      if (control.progress) control.progress({progress.done + of_file.done, progress.total});
    };
    if (!done_.contains(shards_[i].file)) {
      Written written = write(shards_.subspan(i, 1), part);
      std::ranges::move(written.samples, std::back_inserter(all.samples));
      const std::scoped_lock hold(guard_);
      done_[shards_[i].file] = {std::move(written.files.front()), std::move(written.folded)};
      if (shards_.size() > 1) save();
    }
    progress.done += bytes_of(shards_[i]);
  }
  for (const checkpoint::Shard& shard : shards_) {
    const Shard& done = done_.at(shard.file);
    all.files.push_back(done.file);
    all.folded.insert(all.folded.end(), done.folded.begin(), done.folded.end());
  }
  std::ranges::sort(all.folded, {}, &FoldedTensor::name);
  checkpoint::write_shard_index(staging_, shards_);
  return all;
}

void Resume::guard(core::AtomicDirectory& folder, const std::function<void()>& work) {
  try {
    work();
  } catch (const Interrupted&) {
    const std::scoped_lock hold(guard_);
    if (done_.empty() || shards_.size() < 2) throw;
    folder.keep();
    throw Interrupted(
        "stopped; {} of {} files are finished and kept as '{}': the same command goes on after "
        "them",
        done_.size(), shards_.size(), staging_.string());
  }
}

void Resume::finish() {
  std::error_code ignored;
  fs::remove(staging_ / kJournal, ignored);
  fs::remove(staging_ / kLock, ignored);
}

}  // namespace weft::merge
