#include "checkpoint/digest_store.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>

#include <algorithm>
#include <ctime>
#include <set>

#include "core/cache_folder.h"
#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"

namespace weft::checkpoint {
namespace {
namespace fs = std::filesystem;

constexpr int kRules = 1;            ///< Counted up when digests are computed otherwise.
constexpr std::time_t kSettled = 3;  ///< Seconds after which a file's time tells its next change.
constexpr std::size_t kMostKept = 512;  ///< Digests; the oldest go first.

/// What a digest is known by; nothing where a file cannot be trusted to show its next change.
std::optional<std::string> key_of(std::span<const TensorInfo> tensors) {
  core::Sha256 hash;
  hash.update(fmt::format("{}\n", kRules));
  std::set<fs::path> files;
  for (const TensorInfo& tensor : tensors) {
    files.insert(tensor.file);
    hash.update(
        fmt::format("{} {} {}\n", tensor.name, tensor.storage_name, fmt::join(tensor.shape, "x")));
  }
  const std::time_t now = std::time(nullptr);
  for (const fs::path& file : files) {
    struct stat status {};
    if (::stat(file.c_str(), &status) != 0) return std::nullopt;
    if (std::max(status.st_mtim.tv_sec, status.st_ctim.tv_sec) + kSettled > now) {
      return std::nullopt;
    }
    std::error_code error;
    const fs::path place = fs::canonical(file, error);
    if (error) return std::nullopt;
    hash.update(fmt::format("{} {} {} {} {}.{:09} {}.{:09}\n", place.string(), status.st_dev,
                            status.st_ino, status.st_size, status.st_mtim.tv_sec,
                            status.st_mtim.tv_nsec, status.st_ctim.tv_sec, status.st_ctim.tv_nsec));
  }
  return hash.finish();
}

bool is_digest(const std::string& text) {
  return text.size() == 64 && std::ranges::all_of(text, [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

void remove_oldest(const fs::path& folder) {
  std::error_code error;
  std::vector<std::pair<fs::file_time_type, fs::path>> kept;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    kept.emplace_back(entry.last_write_time(error), entry.path());
  }
  if (kept.size() <= kMostKept) return;
  std::ranges::sort(kept);
  kept.resize(kept.size() - kMostKept);
  for (const auto& [time, path] : kept) fs::remove(path, error);
}

}  // namespace

DigestStore::DigestStore(std::optional<fs::path> folder) : folder_(std::move(folder)) {}

std::string DigestStore::get(std::span<const TensorInfo> tensors,
                             const std::function<std::string()>& compute, bool* kept) const {
  if (kept != nullptr) *kept = false;
  std::uint64_t bytes = 0;
  for (const TensorInfo& tensor : tensors) bytes += tensor.bytes;
  if (!folder_ || bytes < kLeastBytes) return compute();
  const std::optional<std::string> key = key_of(tensors);
  if (!key) return compute();
  const fs::path place = *folder_ / *key;
  std::error_code error;
  if (fs::exists(place, error)) {
    try {
      const std::string known = core::read_text(place, 1024);
      if (is_digest(known)) {
        if (kept != nullptr) *kept = true;
        return known;
      }
    } catch (const Error&) {
      // Computed anew, as if nothing was kept.
    }
  }
  const std::string digest = compute();
  // Only for files that did not change while they were read.
  if (key_of(tensors) == key) {
    try {
      core::write_text(place, digest);
      remove_oldest(*folder_);
    } catch (const Error&) {
      // The next run computes it again.
    }
  }
  return digest;
}

std::string known_weights_digest(const Checkpoint& model, bool* kept) {
  return DigestStore(core::cache_folder("digests"))
      .get(
          model.tensors(), [&] { return model.weights_digest(); }, kept);
}

}  // namespace weft::checkpoint
