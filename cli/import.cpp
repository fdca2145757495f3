#include "train/import.h"

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/output.h"
#include "core/error.h"
#include "core/file.h"
#include "train/foreign_words.h"

namespace weft::cli {

Run add_import(CommandLine& app);

namespace {
namespace fs = std::filesystem;

struct ImportArguments {
  std::string file;
  std::string out;
  std::vector<std::string> without;
  bool force = false;
  bool words = false;
};

void require_free(const fs::path& file, const ImportArguments& options) {
  std::error_code error;
  if (fs::exists(file, error) && fs::equivalent(file, options.file, error)) {
    throw InputError("--out {} is the file that is read; name another", file.string());
  }
  if (!options.force && fs::exists(file, error)) {
    throw InputError("{} exists already; name another file, or replace it with --force",
                     file.string());
  }
}

void write(const train::Imported& imported, const ImportArguments& options) {
  const fs::path out = options.out;
  require_free(out, options);
  for (const train::SideFile& side : imported.files) {
    const fs::path file = out.parent_path() / side.name;
    std::error_code error;
    if (fs::exists(file, error) && core::read_text(file) == side.text) continue;
    require_free(file, options);
  }
  for (const train::SideFile& side : imported.files) {
    core::write_text(out.parent_path() / side.name, side.text);
    print("{}\n", (out.parent_path() / side.name).string());
  }
  core::write_text(out, imported.yaml);
  print("{}\n", out.string());
}

int run_import(const ImportArguments& options) {
  if (options.words) {
    print("{}", train::word_reference());
    return static_cast<int>(ExitCode::kDone);
  }
  if (options.file.empty()) {
    throw ConfigError("expected FILE, a configuration of axolotl or LLaMA-Factory");
  }
  const auto [text, source] = schema::read_config_file(options.file);
  const train::Imported imported = train::import_config(text, source, options.without);
  const core::Log log = stderr_log("import");
  core::tell(log, core::Level::kInfo,
             fmt::format("{} is a configuration of {}", options.file, imported.program));
  if (!options.out.empty()) {
    write(imported, options);
  } else {
    print("{}", imported.yaml);
    for (const train::SideFile& side : imported.files) {
      core::tell(
          log, core::Level::kWarning,
          fmt::format("chat_template names {}, which --out FILE writes beside it", side.name));
    }
  }
  return static_cast<int>(ExitCode::kDone);
}

}  // namespace

Run add_import(CommandLine& app) {
  const auto options = std::make_shared<ImportArguments>();
  app.description(
      "Writes a configuration of axolotl or LLaMA-Factory as one of weft train, with a comment for "
      "every line that has no counterpart (docs/import.md). weft train --check shows what comes of "
      "it.");
  app.option("FILE", options->file, "Configuration of axolotl or LLaMA-Factory");
  app.option("--out", options->out,
             "File to write, and beside it the chat templates that it names; default: the "
             "terminal")
      .type("FILE");
  app.option("--without", options->without,
             "Leaves out a key that asks for what weft does not do; may be repeated: --without "
             "neftune_noise_alpha")
      .type("KEY")
      .repeated();
  app.flag("--force", options->force, "Replaces files that exist");
  app.flag("--words", options->words,
           "Lists all words of the two programs that are known, as a table");
  return [options] { return run_import(*options); };
}

}  // namespace weft::cli
