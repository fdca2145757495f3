#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "core/file.h"
#include "core/log.h"
#include "merge/stream.h"

namespace weft::merge {

/// What the files of an output depend on. Two merges with the same of all write the same bytes.
struct ResumeKey {
  /// What was asked, as text: types, weights, seeds, recipe, digests of the adapters.
  std::string parameters;
  /// The files that hold the models; each has to be the one it was (device, inode, size, times).
  std::set<std::filesystem::path> files{};

  /// A model: its configuration and its files.
  void add(const checkpoint::Checkpoint& model);
};

/// Lets a merge that was killed or interrupted go on at its first unfinished file. While a model of
/// several files is written, the folder beside the target holds a journal of the finished ones
/// (names, sizes, SHA-256, what was measured) and a lock that ends with the process. The next merge
/// into the same target takes over files of an unlocked folder when its key is the same and the
/// files have their digests; otherwise the folder is removed. Models of one file have no journal:
/// what was killed while it wrote one is removed.
class Resume {
 public:
  using WriteShards =
      std::function<Written(std::span<const checkpoint::Shard>, const FoldControl&)>;

  /// `out`: the target; `staging`: the folder that is written beside it.
  Resume(const std::filesystem::path& out, std::filesystem::path staging,
         std::span<const checkpoint::Shard> shards, const std::function<ResumeKey()>& key,
         const core::Log& log);
  ~Resume();
  Resume(const Resume&) = delete;
  Resume& operator=(const Resume&) = delete;

  /// Bytes of data that are still to be written.
  [[nodiscard]] std::uint64_t missing() const;
  /// The digest of the models' numbers, recorded once it is known. Thread-safe. Throws InputError
  /// when files were taken over from a merge of other numbers.
  void set_digest(const std::string& digest);
  /// Writes the files that are missing, one call of `write` for each, and the index.
  [[nodiscard]] Written write(const WriteShards& write, const FoldControl& control);
  /// Removes journal and lock: the folder is complete.
  void finish();
  /// Calls work(); where that is interrupted and files are finished, keeps `folder` for the next
  /// merge and says so in the Interrupted that it throws on.
  void guard(core::AtomicDirectory& folder, const std::function<void()>& work);

 private:
  struct Shard {
    WrittenFile file;
    std::vector<FoldedTensor> folded;
  };
  void take_over(const std::filesystem::path& folder);
  void save();

  std::filesystem::path staging_;
  std::span<const checkpoint::Shard> shards_;
  std::string key_;
  int lock_ = -1;
  std::mutex guard_;  ///< Of what follows.
  std::string digest_;
  std::map<std::string, Shard> done_;
};

}  // namespace weft::merge
