#include <fmt/format.h>

#include <limits>
#include <memory>

#include "cli/adapter_argument.h"
#include "cli/command.h"
#include "cli/computing_model.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "core/error.h"
#include "core/file.h"
#include "core/output_claim.h"
#include "core/terminal.h"
#include "eval/run/activations.h"
#include "eval/run/text.h"
#include "export/importance.h"
#include "text/tokenizer.h"

namespace weft::cli {

Run add_imatrix(CommandLine& app);

namespace {

struct ImatrixArguments {
  ModelArguments model{.dtype = "f32"};
  std::string text;
  std::string out;
  std::int64_t chunk = 512;
  std::int64_t chunks = std::numeric_limits<std::int32_t>::max();
  bool force = false;
};

std::function<void()> progress_of(std::size_t chunks) {
  return [chunks, done = std::size_t{0}, &stop = catch_interrupts()]() mutable {
    if (stop.load()) throw Interrupted("stopped; nothing was written");
    ++done;
    if (!core::stderr_is_terminal()) return;
    tell("\rchunk {} of {}{}", done, chunks, done == chunks ? "\r\x1b[K" : "");
  };
}

int run_imatrix(const ImatrixArguments& arguments) {
  const auto overwrite = arguments.force ? core::Overwrite::kReplace : core::Overwrite::kRefuse;
  std::vector<std::filesystem::path> inputs{arguments.model.model, arguments.text};
  for (const std::string& adapter : arguments.model.adapters) {
    inputs.push_back(parse_adapter(adapter).directory);
  }
  core::claim_output({arguments.out, core::OutputKind::kFile}, inputs, overwrite);
  const core::Log log = stderr_log("imatrix");
  OpenedModel opened = open_model(arguments.model, log);
  const std::string type = opened.checkpoint.config().value("model_type", "");
  const auto tokenizer = text::Tokenizer::load(opened.checkpoint);
  const auto chunks = eval::importance_chunks(eval::read_documents(arguments.text), tokenizer,
                                              arguments.chunk, arguments.chunks);
  ComputingModel model = load_model(std::move(opened), arguments.model, arguments.chunk, log);
  exporting::ImportanceSums sums =
      eval::sum_importance(model.decoder, type, chunks, progress_of(chunks.size()));
  sums.dataset = std::filesystem::path(arguments.text).filename().string();
  exporting::write_importance(sums, arguments.out, overwrite);
  print("output    {} ({} matrices, {} chunks of {} tokens)\n", arguments.out, sums.matrices.size(),
        sums.chunks, sums.chunk_tokens);
  return static_cast<int>(ExitCode::kDone);
}

}  // namespace

Run add_imatrix(CommandLine& app) {
  auto arguments = std::make_shared<ImatrixArguments>();
  app.description(
      "Measures, on a text of yours, how large the inputs of a model's matrices are: the "
      "importance "
      "matrix\nthat weft export --imatrix and llama-quantize --imatrix spend their bits by.");
  declare_model(app, arguments->model);
  app.option("--text", arguments->text, "text in the model's language (.txt, or .jsonl)")
      .required();
  app.option("--out", arguments->out, "file to write (.gguf)").required();
  app.option("--chunk", arguments->chunk, "tokens that are read at once")
      .at_least(16)
      .with_default_shown();
  app.option("--chunks", arguments->chunks, "at most so many; default: the whole text").at_least(1);
  app.flag("--force", arguments->force, "replace --out if it exists");
  return [arguments] { return run_imatrix(*arguments); };
}

}  // namespace weft::cli
