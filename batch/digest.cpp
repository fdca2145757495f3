#include "batch/digest.h"

#include <algorithm>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/digest_store.h"
#include "core/error.h"
#include "core/hash.h"

namespace weft::batch {
namespace {

namespace fs = std::filesystem;

/// Weights of a model, which take long to read and are known by their values.
bool is_weights(const fs::path& file) {
  const std::string kind = file.extension().string();
  return kind == ".safetensors" || kind == ".gguf" || kind == ".bin" || kind == ".pt" ||
         kind == ".pth";
}

/// Empty where the path holds no model.
std::string weights_digest(const fs::path& path) {
  const bool may_be =
      fs::is_directory(path) ? fs::exists(path / "config.json") : path.extension() == ".gguf";
  if (!may_be) return "";
  try {
    return checkpoint::known_weights_digest(checkpoint::Checkpoint::open(path));
  } catch (const Error&) {
    return "";  // What reads it says why.
  }
}

/// Of a model or an adapter, what nobody computes with.
bool is_note(const fs::path& file) {
  const std::string name = file.filename().string();
  return file.extension() == ".md" || name.starts_with("README") || name.starts_with("LICENSE") ||
         name.starts_with("NOTICE");
}

std::string folder_digest(const fs::path& folder) {
  const std::string weights = weights_digest(folder);
  const bool has_notes = !weights.empty() || fs::exists(folder / "adapter_config.json");
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const bool counts = entry.is_regular_file() &&
                        !entry.path().filename().string().starts_with('.') &&
                        !(has_notes && is_note(entry.path()));
    if (counts && (weights.empty() || !is_weights(entry.path()))) files.push_back(entry.path());
  }
  std::ranges::sort(files);
  core::Sha256 all;
  all.update(weights);
  for (const fs::path& file : files) {
    all.update(file.filename().string() + "\n" + core::sha256_file(file) + "\n");
  }
  return all.finish();
}

std::string digest_of(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return "missing";
  if (fs::is_directory(path, error)) return folder_digest(path);
  const std::string weights = weights_digest(path);
  return weights.empty() ? core::sha256_file(path) : weights;
}

}  // namespace

std::string InputDigests::of(const fs::path& path) {
  const auto known = known_.find(path.string());
  if (known != known_.end()) return known->second;
  return known_[path.string()] = digest_of(path);
}

void InputDigests::forget(const fs::path& path) { known_.erase(path.string()); }

}  // namespace weft::batch
