#include "merge/extract.h"

#include <fmt/format.h>

#include <memory>

#include "cli/command.h"
#include "cli/output.h"
#include "core/error.h"
#include "core/parallel.h"

namespace weft::cli {
namespace {

struct ExtractArguments {
  std::string model;
  std::string base;
  std::string out;
  std::int64_t rank = 16;
  bool exact = false;
  bool force = false;
  bool json = false;
  int threads = 0;
};

int run_extract(const ExtractArguments& options) {
  core::set_thread_count(options.threads);
  merge::ExtractRequest request;
  request.model = options.model;
  request.base = options.base;
  request.rank = options.rank;
  request.svd = options.exact ? merge::Svd::kExact : merge::Svd::kRandomised;
  request.out = options.out;
  request.overwrite = options.force ? core::Overwrite::kReplace : core::Overwrite::kRefuse;
  const merge::AdapterReport report = merge::extract_adapter(request, stderr_log("extract"));
  if (options.json) {
    print("{}\n",
          merge::report_json(report).dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    print("{}output    {}\n", merge::report_table(report), options.out);
  }
  return static_cast<int>(ExitCode::kDone);
}

}  // namespace

Run add_extract(CommandLine& app);
Run add_extract(CommandLine& app) {
  const auto options = std::make_shared<ExtractArguments>();
  app.description(
      "Make an adapter of a fine-tuned model: the nearest update of rank RANK of every linear "
      "layer, with what it leaves out.");
  app.option("--model", options->model, "the fine-tuned model: directory or GGUF file").required();
  app.option("--base", options->base, "the model it was fine-tuned from").required();
  app.option("--rank", options->rank, "rank of the adapter").at_least(1).with_default_shown();
  app.option("--out", options->out, "PEFT folder to write").required();
  app.flag("--exact-svd", options->exact,
           "the best approximation rather than a randomised one that is nearly as good");
  app.flag("--force", options->force, "replace the output folder if it exists");
  app.flag("--json", options->json, "print the report as JSON");
  app.option("--threads", options->threads, "threads; 0: the cores that the process may use")
      .at_least(0)
      .with_default_shown();
  return [options] { return run_extract(*options); };
}

}  // namespace weft::cli
