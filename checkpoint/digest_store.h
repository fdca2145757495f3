#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace weft::checkpoint {

/// Keeps digests of weights between runs, so that a base is read for it once and not at every
/// start.
///
/// A digest is known by what the system says of the files it was computed from: path, device,
/// inode, size, and the times of their last change to contents (mtime) and to anything (ctime),
/// which no program can set. A file that was changed in the last seconds is not trusted: its next
/// change could carry the same time. What the disk itself damages goes unseen here: to find that,
/// compute (Checkpoint::weights_digest, weft inspect --verify).
class DigestStore {
 public:
  /// Nothing is kept without a folder.
  explicit DigestStore(std::optional<std::filesystem::path> folder);

  /// The kept digest of these tensors, or `compute`d and, where that is worth it (kLeastBytes),
  /// kept. A store that cannot be written costs only its use. `kept`: which of the two it was.
  [[nodiscard]] std::string get(std::span<const TensorInfo> tensors,
                                const std::function<std::string()>& compute,
                                bool* kept = nullptr) const;

  /// Smaller models are read faster than this is worth.
  static constexpr std::uint64_t kLeastBytes = std::uint64_t{16} << 20;

 private:
  std::optional<std::filesystem::path> folder_;
};

/// model.weights_digest(), by the store in the user's cache folder (core::cache_folder).
[[nodiscard]] std::string known_weights_digest(const Checkpoint& model, bool* kept = nullptr);

}  // namespace weft::checkpoint
