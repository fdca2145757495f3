#include "cli/verify_engine.h"

#include <memory>

#include "cli/computing_model.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/stop.h"
#include "eval/run/text.h"
#include "eval/run/verification.h"
#include "model/device.h"
#include "model/memory.h"
#include "text/tokenizer.h"
#include "train/memory.h"

namespace weft::cli {
namespace {

/// F32, in which nothing but the written numbers differs; bf16 where the memory has no room for it.
std::string dtype_that_fits(const model::Spec& spec, const model::ComputeDevice& device,
                            const core::Log& log) {
  const model::MemoryNeed need = model::memory_need(
      spec, {}, {.compute = model::Compute::kF32, .row_tokens = eval::kVerificationWindow});
  if (need.total() <= model::available_memory(device)) return "f32";
  core::tell(log, core::Level::kWarning,
             "there is no memory to verify in f32: bf16 adds its own rounding to the divergence");
  return "bf16";
}

}  // namespace

std::function<merge::Verification(const std::filesystem::path&)> start_engine_verification(
    const VerificationRequest& request, const core::Log& log) {
  const std::vector<std::string> documents = eval::read_documents(request.options.text);
  const std::string sha256 = core::sha256_file(request.options.text);
  // Whether the adapters fit the base is checked by the command that writes.
  ModelArguments arguments{.model = request.model,
                           .adapters = request.adapters,
                           .dtype = "f32",
                           .device = request.options.device,
                           .threads = request.threads,
                           .allow_other_base = true};
  OpenedModel opened = open_model(arguments, log);
  arguments.dtype = dtype_that_fits(opened.spec, opened.device, log);
  const auto tokenizer =
      std::make_shared<const text::Tokenizer>(text::Tokenizer::load(opened.checkpoint));
  std::vector<eval::Pass> passes =
      eval::verification_passes(documents, *tokenizer, request.options.tokens);
  const auto done = [] {
    if (core::stop_requested()) throw Interrupted("stopped while verifying");
  };
  const std::string device = opened.device.description;
  std::shared_ptr<eval::ReferencePredictions> reference;
  {
    ComputingModel base = load_model(std::move(opened), arguments, eval::kVerificationWindow, log);
    reference = std::make_shared<eval::ReferencePredictions>(base.decoder, std::move(passes), done);
  }
  arguments.adapters.clear();
  return [=, options = request.options](const std::filesystem::path& written) mutable {
    arguments.model = written.string();
    ComputingModel model =
        load_model(open_model(arguments, log), arguments, eval::kVerificationWindow, log);
    merge::Verification found = reference->compare(model.decoder, done);
    found.text = options.text;
    found.text_sha256 = sha256;
    found.compute = arguments.dtype;
    found.device = device;
    found.limit = options.limit;
    found.other_ids =
        eval::first_other_ids(documents, *tokenizer, text::Tokenizer::load(model.checkpoint));
    return found;
  };
}

}  // namespace weft::cli
