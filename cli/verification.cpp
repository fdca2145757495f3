#include "cli/verification.h"

#include <utility>

#include "cli/command.h"
#include "cli/device_option.h"

namespace weft::cli {

void declare_verification(CommandLine& app, VerificationOptions& options) {
  app.option("--verify", options.text,
             "text (.txt, .jsonl) on which the output must predict what base and adapters do; "
             "needs memory for the model");
  app.option("--verify-limit", options.limit,
             "largest mean KL divergence; beyond it the output is called OUT.rejected and the "
             "exit status is 3")
      .not_negative()
      .needs("--verify");
  app.option("--verify-tokens", options.tokens, "of the text, spread evenly")
      .at_least(1)
      .with_default_shown()
      .needs("--verify");
  declare_device(app, "--verify-device", options.device, "what computes the predictions")
      .needs("--verify");
}

merge::Verify start_verification(VerificationRequest request, std::optional<double> default_limit,
                                 const core::Log& log) {
  if (!request.options.wanted()) return {};
  if (!request.options.limit) request.options.limit = default_limit;
  const auto start = reinterpret_cast<StartVerification>(torch_symbol("weft_start_verification"));
  EngineVerify verify;
  start(request, log, verify).rethrow();
  return [verify = std::move(verify)](const std::filesystem::path& written) {
    merge::Verification found;
    verify(written, found).rethrow();
    return found;
  };
}

}  // namespace weft::cli
