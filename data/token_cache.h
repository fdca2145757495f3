#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/log.h"
#include "data/dataset.h"
#include "data/example_table.h"
#include "data/preflight.h"
#include "data/prompt.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace weft::data {

/// A file that examples are read from.
struct SourceFile {
  std::filesystem::path path;
  std::uint64_t bytes = 0;
  std::string sha256;
};

/// The files of a dataset with their hashes, in order. Throws as resolve_files(), and for files
/// that cannot be read.
[[nodiscard]] std::vector<SourceFile> source_files(const DatasetConfig& dataset);

/// Everything that tokens depend on.
struct TokenSource {
  const std::vector<DatasetConfig>& datasets;
  const std::vector<std::vector<SourceFile>>& files;  ///< Of each dataset
  const text::Tokenizer& tokenizer;
  const text::ChatTemplate* chat_template;  ///< May be null
  PromptOptions options;
};

/// Tokens and what was found in them.
struct TokenisedData {
  ExampleTable examples;
  Preflight preflight;  ///< Not judged: limits are not the data's
  std::int32_t largest_id = -1;
  std::string largest_origin;  ///< "file:line" of the first example with that id
};
/// What a folder of token files holds at most: beyond it the files that were not used for longest
/// are removed.
inline constexpr std::uint64_t kMostTokenBytes = std::uint64_t{4} << 30;

/// Data as tokens, kept in files that later runs on the same data map (data/token_file.h).
///
/// Each source file has a token file of its own, so that adding one leaves the others in use; only
/// a dataset with `limit` or `shuffle_seed`, which choose among the rows of all its files, has one
/// for them together. A token file is named by the SHA-256 of everything its tokens depend on: the
/// contents of the sources and their names, the keys of the datasets, tokenizer, template, options,
/// and the source code that made them. It also holds what was found and said while it was made, so
/// that a later run reports the same. A file that does not verify is made again, with one warning.
/// Where the folder cannot be written one warning says so, and tokens live in memory for this run,
/// as they do without a folder. After a file is written the folder is tidied: out go files that
/// were not used for 30 days, the longest unused beyond kMostTokenBytes, and what killed processes
/// left.
///
/// Several processes may use a folder at once: files appear whole, and one that is removed stays
/// readable where it is mapped. An object is for one thread.
class TokenCache {
 public:
  explicit TokenCache(std::optional<std::filesystem::path> folder);

  /// The examples of `source`, mapped; the same file for the same source. Throws what
  /// stream_examples() throws, and InputError when a source changes meanwhile.
  [[nodiscard]] TokenisedData tokenise(const TokenSource& source, const core::Log& log);

 private:
  [[nodiscard]] std::filesystem::path path_of(const std::string& key) const;
  [[nodiscard]] std::shared_ptr<const TokenFile> make(const TokenSource& source,
                                                      const std::string& key, const core::Log& log);

  std::optional<std::filesystem::path> folder_;  ///< Given up once it refuses a file
  std::map<std::string, std::shared_ptr<const TokenFile>> open_;
};

}  // namespace weft::data
