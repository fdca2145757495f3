#include "export/inputs.h"

#include <algorithm>

#include "checkpoint/mxfp4.h"
#include "core/error.h"

namespace weft::exporting {
namespace {

namespace fs = std::filesystem;

void check_base(const OpenInputs& inputs, const lora::PeftFile& adapter, bool allow_other,
                const core::Log& log) {
  const auto& provenance = adapter.provenance();
  if (allow_other && provenance && provenance->base_weights != inputs.base_digest) {
    core::tell(log, core::Level::kWarning,
               fmt::format("adapter '{}' was trained on other weights ({}) than '{}' ({})",
                           adapter.directory().string(), provenance->base_weights,
                           inputs.base.path().string(), inputs.base_digest));
    return;
  }
  lora::check_base(provenance, inputs.base_digest, inputs.base.path());
}

}  // namespace

OpenAdapters open_adapters(const std::vector<InputPaths::Adapter>& adapters, std::string_view who,
                           lora::PeftFile::Stacks stacks, const core::Log& log) {
  OpenAdapters opened;
  opened.files.reserve(adapters.size());
  for (const auto& adapter : adapters) {
    opened.files.push_back(lora::PeftFile::open(adapter.directory, log));
    opened.files.back().require_plain(who, stacks);
    opened.weighted.push_back({&opened.files.back(), adapter.weight});
  }
  return opened;
}

std::vector<fs::path> all_paths(const InputPaths& paths) {
  std::vector<fs::path> all = paths.also_reads;
  all.push_back(paths.model);
  for (const auto& adapter : paths.adapters) all.push_back(adapter.directory);
  return all;
}

OpenInputs open_inputs(const InputPaths& paths, const core::Log& log, Output output) {
  OpenInputs inputs{checkpoint::Checkpoint::open(paths.model), {}, {}, {}};
  const auto quantised = inputs.base.config().find("quantization_config");
  const bool readable = checkpoint::says_mxfp4(inputs.base.config());
  if (quantised != inputs.base.config().end() && !quantised->is_null() && !readable) {
    throw InputError(
        "'{}': config.json has a quantization_config; export the model as it was before it was "
        "quantised",
        paths.model.string());
  }
  OpenAdapters opened =
      output == Output::kModel
          ? open_adapters(paths.adapters, "weft export", lora::PeftFile::Stacks::kTaken, log)
          : open_adapters(paths.adapters, "an adapter in GGUF", lora::PeftFile::Stacks::kRefused,
                          log);
  inputs.files = std::move(opened.files);  // Keeps its elements where they are.
  inputs.adapters = std::move(opened.weighted);
  if (output == Output::kAdapter) return inputs;
  const bool recorded = std::ranges::any_of(inputs.files, [](const lora::PeftFile& file) {
    return file.provenance() && !file.provenance()->base_weights.empty();
  });
  if (!recorded) return inputs;
  inputs.base_digest = inputs.base.weights_digest();
  for (const lora::PeftFile& file : inputs.files) {
    check_base(inputs, file, paths.allow_other_base, log);
  }
  return inputs;
}

}  // namespace weft::exporting
