#include <fmt/format.h>

#include <memory>

#include "cli/command.h"
#include "cli/output.h"
#include "core/error.h"
#include "core/terminal.h"
#include "merge/undo.h"

namespace weft::cli {
namespace {

struct UnmergeArguments {
  std::string merged;
  std::string undo;
  std::string out;
  bool force = false;
  bool json = false;
};

int run_unmerge(const UnmergeArguments& options) {
  const merge::UndoReport report =
      merge::unmerge(options.merged, options.undo, options.out,
                     options.force ? core::Overwrite::kReplace : core::Overwrite::kRefuse);
  if (options.json) {
    print(R"({{"files": {}, "bytes": {}, "undo_bytes": {}}})"
          "\n",
          report.files, report.base_bytes, report.undo_bytes);
  } else {
    print("restored  {} files, {}, each with the SHA-256 it had\noutput    {}\n", report.files,
          core::human_bytes(report.base_bytes), options.out);
  }
  return static_cast<int>(ExitCode::kDone);
}

}  // namespace

Run add_unmerge(CommandLine& app);
Run add_unmerge(CommandLine& app) {
  const auto options = std::make_shared<UnmergeArguments>();
  app.description(
      "Restore the files of the base, byte for byte, from a merged model and the undo file that "
      "weft merge --undo wrote.");
  app.option("merged", options->merged, "the folder that weft merge wrote").required();
  app.option("--undo", options->undo, "the file that weft merge --undo wrote").required();
  app.option("--out", options->out, "folder to write").required();
  app.flag("--force", options->force, "replace the output folder if it exists");
  app.flag("--json", options->json, "print the report as JSON");
  return [options] { return run_unmerge(*options); };
}

}  // namespace weft::cli
