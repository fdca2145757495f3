#include "data/token_cache.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <set>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/terminal.h"
#include "data/examples.h"
#include "data/token_file.h"
#include "data/token_rules.h"
#include "schema/schema.h"

namespace weft::data {
namespace {
namespace fs = std::filesystem;

constexpr std::chrono::hours kUnused{24 * 30};
constexpr std::chrono::hours kLeftBehind{24};  // by a process that was killed while it wrote
constexpr std::size_t kNameDigits = 32;
constexpr const char* kEnding = ".tokens";

/// The day that the template prints; empty where it prints none.
std::string date_of(const TokenSource& source) {
  const bool printed = source.chat_template != nullptr && source.chat_template->prints_date();
  return printed ? source.chat_template->date() : "";
}

/// One text with everything that bears on tokens and findings, hashed. Folders do not; names do,
/// because they may say the format.
std::string key_of(const TokenSource& source) {
  nlohmann::json all;
  all["rules"] = kTokenRules;
  for (std::size_t i = 0; i < source.datasets.size(); ++i) {
    DatasetConfig config = source.datasets[i];
    config.path.clear();
    nlohmann::json files = nlohmann::json::array();
    for (const SourceFile& file : source.files[i]) {
      files.push_back({file.path.filename().string(), file.bytes, file.sha256});
    }
    all["datasets"].push_back({schema::dump_config(config, schema::Dump::kFull), files});
  }
  all["tokenizer"] = source.tokenizer.digest();
  all["chat_template"] = source.chat_template != nullptr ? source.chat_template->digest() : "";
  all["date"] = date_of(source);
  // The tokenizer's digest holds what decides ids; a template may print any of these.
  if (source.chat_template != nullptr) {
    for (const auto& [name, token] : source.tokenizer.special_tokens().items()) {
      if (source.chat_template->names(name)) all["special"][name] = token;
    }
  }
  const PromptOptions& o = source.options;
  all["options"] = {o.sequence_len,     static_cast<int>(o.over_length),
                    o.train_on_inputs,  static_cast<int>(o.train_on_turns),
                    o.allow_answerless, o.template_variables};
  return core::sha256(all.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

std::vector<std::string> paths_of(const TokenSource& source) {
  std::vector<std::string> paths;
  for (const auto& files : source.files) {
    for (const SourceFile& file : files) paths.push_back(file.path.string());
  }
  return paths;
}

void require_unchanged(const TokenSource& source) {
  for (const auto& files : source.files) {
    for (const SourceFile& file : files) {
      if (core::sha256_file(file.path) != file.sha256) {
        throw InputError("{} changed while it was read; start again", file.path.string());
      }
    }
  }
}

/// Builds the examples into `sink`, with what is found and said on the way as the file's facts.
void write_tokens(const TokenSource& source, const std::string& key, TokenFileWriter::Sink sink,
                  const core::Log& log) {
  TokenFileWriter writer(std::move(sink), key);
  nlohmann::json said = nlohmann::json::array();
  const core::Log record = [&](core::Level level, std::string_view line) {
    said.push_back({static_cast<int>(level), line});
    core::tell(log, level, line);
  };
  const PromptBuilder builder(source.tokenizer, source.chat_template, source.options);
  Inspector inspector(source.tokenizer);
  std::int32_t largest = -1;
  std::string origin;
  const BuildStatistics built = stream_examples(
      source.datasets, builder, record,
      [&](Example&& example, std::int64_t place) {
        inspector.add(example, example.origin, place);
        const auto most = std::ranges::max_element(example.tokens);
        if (most != example.tokens.end() && *most > largest) {
          largest = *most;
          origin = example.origin.text();
        }
        writer.add(example, place);
      },
      Rows::kMayLack);
  require_unchanged(source);
  Preflight found = inspector.finish(built.prompts, built.rows);
  found.template_date = date_of(source);
  writer.finish({{"findings", to_json(found)},
                 {"said", said},
                 {"largest_id", largest},
                 {"largest_origin", origin},
                 {"paths", paths_of(source)}});
}

/// Texts that name a place in the sources, as "PATH:line", with the paths of this run: the same
/// files may have been read elsewhere when the tokens were made.
class Retold {
 public:
  Retold(const std::vector<std::string>& then, const std::vector<std::string>& now) {
    for (std::size_t i = 0; i < std::min(then.size(), now.size()); ++i) {
      if (then[i] != now[i]) moved_.emplace_back(then[i] + ":", now[i] + ":");
    }
  }

  [[nodiscard]] std::string operator()(const std::string& text) const {
    std::string told;
    for (std::size_t at = 0; at < text.size();) {
      const auto found = std::ranges::find_if(moved_, [&](const auto& pair) {
        return text.compare(at, pair.first.size(), pair.first) == 0;
      });
      told += found == moved_.end() ? text.substr(at, 1) : found->second;
      at += found == moved_.end() ? 1 : found->first.size();
    }
    return told;
  }

 private:
  std::vector<std::pair<std::string, std::string>> moved_;
};

/// What the file holds, as this run is to see it. InputError when its facts are incomplete.
TokenisedData data_of(std::shared_ptr<const TokenFile> file, const TokenSource& source,
                      const core::Log& log) {
  try {
    const nlohmann::json& facts = file->facts();
    const Retold retold(facts.at("paths").get<std::vector<std::string>>(), paths_of(source));
    TokenisedData data;
    data.preflight = preflight_from_json(facts.at("findings"));
    data.preflight.sample_origin = retold(data.preflight.sample_origin);
    for (std::string& fault : data.preflight.faults) fault = retold(fault);
    data.largest_id = facts.at("largest_id").get<std::int32_t>();
    data.largest_origin = retold(facts.at("largest_origin").get<std::string>());
    for (const nlohmann::json& line : facts.at("said")) {
      core::tell(log, static_cast<core::Level>(line.at(0).get<int>()),
                 retold(line.at(1).get<std::string>()));
    }
    data.examples = ExampleTable({std::move(file)});
    return data;
  } catch (const nlohmann::json::exception& error) {
    throw InputError("its facts are incomplete: {}", error.what());
  }
}

/// A file without a name that lives in memory until it is unmapped.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(::memfd_create("weft-tokens", MFD_CLOEXEC)) {
    if (descriptor_ < 0) throw IoError("cannot hold tokens in memory: {}", std::strerror(errno));
  }
  ~MemoryFile() { ::close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  void write(std::span<const std::byte> rest) const {
    while (!rest.empty()) {
      const ssize_t written = ::write(descriptor_, rest.data(), rest.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) throw IoError("cannot hold tokens in memory: {}", std::strerror(errno));
      rest = rest.subspan(static_cast<std::size_t>(written));
    }
  }
  [[nodiscard]] fs::path path() const { return fmt::format("/proc/self/fd/{}", descriptor_); }

 private:
  int descriptor_;
};

std::shared_ptr<const TokenFile> write_in_memory(const TokenSource& source, const std::string& key,
                                                 const core::Log& log) {
  const MemoryFile memory;
  write_tokens(
      source, key, [&](std::span<const std::byte> bytes) { memory.write(bytes); }, log);
  return std::make_shared<TokenFile>(memory.path(), key, TokenFile::Trust::kOwn);
}

/// The file, where there is one that can be trusted.
std::shared_ptr<const TokenFile> find(const fs::path& path, const std::string& key,
                                      const core::Log& log) {
  std::error_code error;
  if (!fs::exists(path, error)) return nullptr;
  try {
    auto file = std::make_shared<const TokenFile>(path, key, TokenFile::Trust::kVerify);
    fs::last_write_time(path, fs::file_time_type::clock::now(), error);  // in use
    return file;
  } catch (const Error& problem) {
    core::tell(
        log, core::Level::kWarning,
        fmt::format("{} cannot be used and is made again: {}", path.string(), problem.what()));
    return nullptr;
  }
}

/// 32 digits and the ending; a folder may hold other files.
bool is_token_file(const std::string& name) {
  return name.size() == kNameDigits + std::strlen(kEnding) && name.ends_with(kEnding) &&
         name.find_first_not_of("0123456789abcdef") == kNameDigits;
}

/// ".NAME.part-...": an unfinished AtomicFile.
bool is_part(const std::string& name) {
  const std::size_t whole = kNameDigits + std::strlen(kEnding);
  return name.starts_with('.') && name.size() > whole && is_token_file(name.substr(1, whole)) &&
         name.substr(1 + whole).starts_with(".part-");
}

/// Removes what is too old or too much, but `keep`. Returns the bytes of what stays.
std::uint64_t tidy(const fs::path& folder, const std::set<fs::path>& keep) {
  struct Kept {
    fs::file_time_type used;
    std::uint64_t bytes;
    fs::path path;
  };
  std::vector<Kept> kept;
  std::uint64_t total = 0;
  std::error_code error;
  const auto now = fs::file_time_type::clock::now();
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    const bool whole = is_token_file(name);
    if (!whole && !is_part(name)) continue;
    std::error_code gone;  // another process tidies, too
    const auto used = entry.last_write_time(gone);
    const std::uint64_t bytes = entry.file_size(gone);
    if (gone) continue;
    if (now - used > (whole ? kUnused : kLeftBehind) && !keep.contains(entry.path())) {
      fs::remove(entry.path(), gone);
    } else if (whole) {
      total += bytes;
      kept.push_back({used, bytes, entry.path()});
    }
  }
  std::ranges::sort(kept, {}, &Kept::used);
  for (const Kept& oldest : kept) {
    if (total <= kMostTokenBytes) break;
    if (keep.contains(oldest.path) || !fs::remove(oldest.path, error)) continue;
    total -= oldest.bytes;
  }
  return total;
}

/// Writes the file, and maps it; nothing when it cannot be read back.
std::shared_ptr<const TokenFile> write_file(const fs::path& path, const TokenSource& source,
                                            const std::string& key, const core::Log& log) {
  {
    core::AtomicFile file(path);
    write_tokens(
        source, key, [&](std::span<const std::byte> bytes) { file.write(bytes); }, log);
    file.commit();
  }
  return find(path, key, log);
}

/// What one token file holds: a dataset, or one of its files where no row depends on the others.
struct Piece {
  std::vector<DatasetConfig> datasets;
  std::vector<std::vector<SourceFile>> files;
};

/// Each file has its own tokens, so that adding one leaves the others' in use. `limit` and
/// `shuffle_seed` choose among the rows of all files of a dataset.
std::vector<Piece> pieces_of(const TokenSource& source) {
  std::vector<Piece> pieces;
  for (std::size_t i = 0; i < source.datasets.size(); ++i) {
    const DatasetConfig& dataset = source.datasets[i];
    if (dataset.limit || dataset.shuffle_seed) {
      pieces.push_back({{dataset}, {source.files[i]}});
      continue;
    }
    for (const SourceFile& file : source.files[i]) {
      Piece& piece = pieces.emplace_back(Piece{{dataset}, {{file}}});
      piece.datasets.front().path = {file.path};
    }
  }
  return pieces;
}

/// Files and their bytes.
struct Tally {
  std::size_t files = 0;
  std::uint64_t bytes = 0;

  void add(std::uint64_t more) {
    ++files;
    bytes += more;
  }
  [[nodiscard]] std::string text() const {
    return files == 1 ? core::human_bytes(bytes)
                      : fmt::format("{} files, {}", files, core::human_bytes(bytes));
  }
};

/// The one file, or the folder of several.
std::string places(const std::set<fs::path>& used, bool all, const fs::path& folder) {
  return used.size() == 1 && all ? used.begin()->string() : folder.string();
}

/// A file may be empty, a dataset may not.
void require_rows(const TokenSource& source, const std::vector<TokenisedData>& parts) {
  std::size_t part = 0;
  for (std::size_t i = 0; i < source.datasets.size(); ++i) {
    const DatasetConfig& dataset = source.datasets[i];
    const std::size_t count = dataset.limit || dataset.shuffle_seed ? 1 : source.files[i].size();
    std::int64_t rows = 0;
    std::int64_t bad = 0;
    for (std::size_t end = part + count; part < end; ++part) {
      rows += parts[part].preflight.rows;
      bad += parts[part].preflight.bad_rows;
    }
    if (rows == 0) throw_no_rows(dataset, bad);
  }
}

/// Several pieces as one. Repeats are looked for among all examples.
TokenisedData together(std::vector<TokenisedData> parts,
                       std::vector<std::shared_ptr<const TokenFile>> files) {
  if (parts.size() == 1) return std::move(parts.front());
  TokenisedData all;
  for (TokenisedData& part : parts) {
    add(all.preflight, std::move(part.preflight));
    if (part.largest_id > all.largest_id) {
      all.largest_id = part.largest_id;
      all.largest_origin = std::move(part.largest_origin);
    }
  }
  all.examples = ExampleTable(std::move(files));
  all.preflight.duplicates = count_repeats(all.examples);
  all.examples.release();
  return all;
}

}  // namespace

std::vector<SourceFile> source_files(const DatasetConfig& dataset) {
  std::vector<SourceFile> files;
  for (const fs::path& path : resolve_files(dataset.path)) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (fs::exists(status) && !fs::is_regular_file(status) && !fs::is_directory(status)) {
      throw InputError(
          "{}: is no regular file (a pipe or a device?), and data is read more than once; save it "
          "to a file first",
          path.string());
    }
    SourceFile file{.path = path, .bytes = 0, .sha256 = core::sha256_file(path)};
    file.bytes = fs::file_size(path);
    files.push_back(std::move(file));
  }
  return files;
}

TokenCache::TokenCache(std::optional<fs::path> folder) : folder_(std::move(folder)) {}

fs::path TokenCache::path_of(const std::string& key) const {
  return *folder_ / (key.substr(0, kNameDigits) + kEnding);
}

std::shared_ptr<const TokenFile> TokenCache::make(const TokenSource& source, const std::string& key,
                                                  const core::Log& log) {
  if (folder_) {
    try {
      if (auto written = write_file(path_of(key), source, key, log)) return written;
    } catch (const IoError& problem) {
      core::tell(log, core::Level::kWarning,
                 fmt::format("tokens are not kept for the next run: {}", problem.what()));
      folder_.reset();
    }
  }
  return write_in_memory(source, key, log);
}

TokenisedData TokenCache::tokenise(const TokenSource& source, const core::Log& log) {
  std::vector<TokenisedData> parts;
  std::vector<std::shared_ptr<const TokenFile>> files;
  std::set<fs::path> used;
  Tally taken;
  Tally made;
  for (const Piece& piece : pieces_of(source)) {
    const TokenSource own{piece.datasets, piece.files, source.tokenizer, source.chat_template,
                          source.options};
    const std::string key = key_of(own);
    std::shared_ptr<const TokenFile>& file = open_[key];
    const bool known = file != nullptr;
    if (!known && folder_) file = find(path_of(key), key, log);
    const bool found = file != nullptr;
    if (!found) file = make(own, key, log);
    if (!known && folder_) {
      used.insert(path_of(key));
      (found ? taken : made).add(file->bytes());
    }
    parts.push_back(data_of(file, own, found ? log : core::Log()));
    files.push_back(file);
  }
  require_rows(source, parts);
  if (taken.files > 0) {
    core::tell(log, core::Level::kInfo,
               fmt::format("tokens taken from {} ({})", places(used, made.files == 0, *folder_),
                           taken.text()));
  }
  if (made.files > 0 && folder_) {
    const std::uint64_t total = tidy(*folder_, used);
    core::tell(log, core::Level::kInfo,
               fmt::format("tokens kept in {} ({}; this folder holds {}, at most {})",
                           places(used, taken.files == 0, *folder_), made.text(),
                           core::human_bytes(total), core::human_bytes(kMostTokenBytes)));
  }
  TokenisedData data = together(std::move(parts), std::move(files));
  tell_losses(data.preflight.prompts, log);
  return data;
}

}  // namespace weft::data
