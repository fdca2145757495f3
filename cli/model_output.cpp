#include "cli/model_output.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "core/stop.h"
#include "core/terminal.h"

namespace weft::cli {

void declare_model_input(CommandLine& app, ModelOutputOptions& options) {
  app.option("--model", options.model, "Hugging Face directory or GGUF file");
  app.option("--adapter", options.adapters,
             "PEFT folder, with an optional weight (DIR:0.5); repeat it to add several")
      .repeated();
}

CommandOption declare_model_output(CommandLine& app, ModelOutputOptions& options,
                                   const char* what) {
  const CommandOption out = app.option("--out", options.out, what);
  declare_verification(app, options.verify);
  app.flag("--force", options.force, "replace the output if it exists");
  app.flag("--allow-other-base", options.allow_other_base,
           "go on even if the adapter records other base weights");
  app.flag("--json", options.json, "print the report as JSON");
  app.option("--threads", options.threads, "threads; 0: the cores that the process may use")
      .at_least(0)
      .with_default_shown();
  return out;
}

merge::Verify start_verification(const ModelOutputOptions& options,
                                 std::optional<double> default_limit, const core::Log& log) {
  if (!options.verify.wanted()) return {};
  catch_interrupts();
  return start_verification(VerificationRequest{.model = options.model,
                                                .adapters = options.adapters,
                                                .options = options.verify,
                                                .threads = options.threads,
                                                .stop = &core::stop_flag()},
                            default_limit, log);
}

std::function<void(merge::FoldProgress)> progress_line() {
  if (!core::stderr_is_terminal()) return {};
  return [last = -1](merge::FoldProgress progress) mutable {
    const auto percent =
        static_cast<int>(100 * progress.done / std::max<std::uint64_t>(1, progress.total));
    if (percent == last) return;
    last = percent;
    tell("\rwriting {} of {} ({} %){}", core::human_bytes(progress.done),
         core::human_bytes(progress.total), percent, percent == 100 ? "\r\x1b[K" : "");
  };
}

}  // namespace weft::cli
