#include "eval/ledger/content_digest.h"

#include <algorithm>
#include <array>
#include <vector>

#include "core/hash.h"

namespace weft::eval {
namespace {

bool is_read(const std::filesystem::path& file) {
  static constexpr std::array kExtensions{".safetensors", ".json", ".jinja",   ".model",
                                          ".txt",         ".gguf", ".tiktoken"};
  return file.filename() != "weft_provenance.json" &&
         std::ranges::find(kExtensions, file.extension().string()) != kExtensions.end();
}

}  // namespace

std::string content_digest(const std::filesystem::path& model, const FileDigest& file_digest) {
  if (!std::filesystem::is_directory(model)) return file_digest(model);
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(model)) {
    if (entry.is_regular_file() && is_read(entry.path())) files.push_back(entry.path());
  }
  std::ranges::sort(files);
  core::Sha256 sum;
  for (const auto& file : files)
    sum.update(file.filename().string() + " " + file_digest(file) + "\n");
  return sum.finish();
}

}  // namespace weft::eval
