#include "cli/computing_model.h"

#include <utility>

#include "cli/adapter_argument.h"
#include "cli/command.h"
#include "cli/device_option.h"
#include "core/error.h"
#include "model/memory.h"
#include "model/runtime.h"
#include "train/memory.h"

namespace weft::cli {
namespace {

model::Compute compute_of(const std::string& dtype, const model::ComputeDevice& device,
                          const core::Log& log) {
  const model::Compute best = model::best_compute(device);
  if (dtype == "auto") return best;
  if (dtype == "f32") return model::Compute::kF32;
  if (best == model::Compute::kF32 && !device.is_gpu()) {
    core::tell(
        log, core::Level::kWarning,
        "this processor has no fast products of bf16 (AMX, AVX-512 BF16): numbers are kept in bf16 "
        "and multiplied in f32, which takes half the memory of --dtype f32 and is about as fast");
  }
  return model::Compute::kBF16;
}

/// What is kept as the file stores it gives the same numbers as it does widened, in less time, and
/// in less memory where it has blocks.
model::BaseFormat format_of(std::string_view name, const checkpoint::Checkpoint& checkpoint,
                            const model::ComputeDevice& device) {
  for (const auto format : {model::BaseFormat::kInt8, model::BaseFormat::kNf4})
    if (model::name_of(format) == name) return format;
  if (name == "none") return model::BaseFormat::kDense;
  if (device.is_gpu()) {
    if (name == "auto") return model::BaseFormat::kDense;
    throw ConfigError(
        "--base-quantization stored: a GPU keeps weights as none, int8 or nf4; leave the option "
        "out");
  }
  if (name == "stored" && !model::stores_blocks(checkpoint)) {
    throw ConfigError(
        "--base-quantization stored: {} has no matrices in blocks of a GGUF format; leave the "
        "option out, or name int8 or nf4",
        checkpoint.path().string());
  }
  return model::BaseFormat::kStored;
}

}  // namespace

void declare_model(CommandLine& app, ModelArguments& arguments) {
  app.option("--model", arguments.model, "Hugging Face directory or GGUF file").required();
  app.option("--adapter", arguments.adapters,
             "PEFT directory, DIR or DIR:WEIGHT; repeated: they add up")
      .repeated();
  app.option("--dtype", arguments.dtype,
             "numbers to compute in: f32, bf16, or auto (bf16 where the processor has it)")
      .one_of({"auto", "f32", "bf16"})
      .with_default_shown();
  app.option("--base-quantization", arguments.base_quantization,
             "how the weights are kept: int8 or nf4 as training with the same key did; stored, in "
             "the blocks of the GGUF file; none, in --dtype; auto: in blocks where the file has "
             "them, else in --dtype, laid out for answering (the numbers are those of none)")
      .one_of({"auto", "none", "stored", "int8", "nf4"})
      .with_default_shown();
  declare_device(app, "--device", arguments.device, "what computes");
  app.option("--threads", arguments.threads, "threads; 0: the cores that the process may use")
      .at_least(0);
  app.flag("--allow-other-base", arguments.allow_other_base,
           "accept an adapter that was trained on other weights");
}

OpenedModel open_model(const ModelArguments& arguments, const core::Log& log) {
  const model::ComputeDevice device = model::open_device(arguments.device);
  model::prepare_runtime(arguments.threads);
  checkpoint::Checkpoint checkpoint = checkpoint::Checkpoint::open(arguments.model);
  model::Spec spec = model::read_spec(checkpoint);
  OpenedModel opened{device, std::move(checkpoint), std::move(spec), {}};
  for (const std::string& text : arguments.adapters) {
    const AdapterArgument argument = parse_adapter(text);
    opened.adapters.emplace_back(lora::read_peft(argument.directory, log), argument.weight);
    if (!arguments.allow_other_base) {
      lora::check_base(opened.adapters.back().first, opened.checkpoint);
    }
  }
  return opened;
}

ComputingModel load_model(OpenedModel opened, const ModelArguments& arguments, std::int64_t tokens,
                          const core::Log& log) {
  const model::Compute compute = compute_of(arguments.dtype, opened.device, log);
  const model::BaseFormat format =
      format_of(arguments.base_quantization, opened.checkpoint, opened.device);
  const model::MemoryNeed need = model::memory_need(
      opened.spec, {},
      {.compute = compute, .base = format, .stored = &opened.checkpoint, .row_tokens = tokens});
  train::require_memory(
      {{"weights", need.weights, compute == model::Compute::kF32 ? "--dtype bf16" : ""},
       {"activations", need.activations, "fewer tokens"}},
      train::memory_of(opened.device));
  model::Decoder decoder =
      model::Decoder::load(opened.checkpoint, compute, format, opened.device.device);
  for (const auto& [adapter, weight] : opened.adapters) {
    decoder.attach(adapter, model::Decoder::Use::kInference, weight);
  }
  return {std::move(opened.checkpoint), std::move(decoder)};
}

}  // namespace weft::cli
