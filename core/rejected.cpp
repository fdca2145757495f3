#include "core/rejected.h"

#include <sys/stat.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>

#include "core/error.h"
#include "core/file.h"
#include "core/version.h"

namespace weft::core {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::string_view kFormat = "weft rejected result 1";

/// A folder may be given with a slash at its end, which is no part of its name.
fs::path with_ending(const fs::path& out, std::string_view ending) {
  fs::path path = out.has_filename() ? out : out.parent_path();
  path += ending;
  return path;
}

/// "bytes modified_ns" of a file; "link" or "other" for what weft writes nowhere.
std::string state_of(const fs::path& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) return "gone";
  if (S_ISLNK(status.st_mode)) return "link";
  if (!S_ISREG(status.st_mode)) return S_ISDIR(status.st_mode) ? "folder" : "other";
  return fmt::format("{} {}.{:09}", status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
}

/// Of each file and folder below `path`, by its name from there; a file's own name is "".
json contents_of(const fs::path& path) {
  json contents = json::object();
  if (!fs::is_directory(fs::symlink_status(path))) {
    contents[""] = state_of(path);
    return contents;
  }
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(path)) {
    contents[entry.path().lexically_relative(path).string()] = state_of(entry.path());
  }
  return contents;
}

/// What the note says; null where there is none that is weft's.
json note_of(const fs::path& path) {
  if (!fs::is_regular_file(fs::symlink_status(path))) return nullptr;
  json note = json::parse(read_text(path), nullptr, /*allow_exceptions=*/false);
  return note.is_object() && note.value("format", json()) == kFormat ? note : json();
}

}  // namespace

fs::path rejected_path(const fs::path& out) { return with_ending(out, ".rejected"); }
fs::path rejected_note_path(const fs::path& out) { return with_ending(out, ".rejected.json"); }

void note_rejected(const fs::path& out, std::string_view reason) {
  try {
    const json note = {{"format", kFormat},
                       {"weft", kVersion},
                       {"reason", reason},
                       {"contents", contents_of(rejected_path(out))}};
    write_text(rejected_note_path(out),
               note.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
  } catch (const fs::filesystem_error& error) {
    throw IoError("cannot read {}: {}", rejected_path(out).string(), error.code().message());
  }
}

void require_rejected_replaceable(const fs::path& out) {
  const fs::path rejected = rejected_path(out);
  const fs::path note_path = rejected_note_path(out);
  try {
    const json note = note_of(note_path);
    if (note.is_null() && fs::exists(fs::symlink_status(note_path))) {
      throw InputError(
          "{} is not weft's, and would be replaced if this result is rejected; move it away, or "
          "choose another place for the output",
          note_path.string());
    }
    if (!fs::exists(fs::symlink_status(rejected))) return;
    if (!note.is_null() && note.value("contents", json()) == contents_of(rejected)) return;
  } catch (const fs::filesystem_error& error) {
    throw InputError("cannot read {}: {}", rejected.string(), error.code().message());
  }
  throw InputError(
      "{} would be replaced if this result is rejected, and it is not what weft left there; move "
      "it "
      "away, or choose another place for the output",
      rejected.string());
}

void tell_about_rejected(const fs::path& out, const Log& log) {
  std::error_code error;
  if (!fs::exists(rejected_path(out), error) || !fs::exists(rejected_note_path(out), error)) return;
  tell(log, Level::kInfo,
       fmt::format("'{}' holds what an earlier run found wrong; nothing needs it any more",
                   rejected_path(out).string()));
}

}  // namespace weft::core
